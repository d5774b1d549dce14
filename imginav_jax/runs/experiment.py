"""From a config to what the program works with: checked values, and what is derived from them.

Derived here, after the command line's overrides have been applied, never in `get_config`.
"""

import dataclasses
import math
import operator
import os
import re
import typing
from pathlib import Path
from typing import Any

from imginav_jax.datasets.preparation import DataSpec
from imginav_jax.devices.cards import PRECISIONS
from imginav_jax.models.architecture import MAX_DOWNSAMPLING_STEPS, NORM_GROUPS, AutoencoderConfig
from imginav_jax.models.losses import LossWeights
from imginav_jax.runs.outputs import run_name
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user

SCHEDULES = ("constant", "cosine")
TENSORBOARD = "tensorboard"  # a logger; others are functions
RawConfig = Any  # an ml_collections.ConfigDict, whose fields no type checker knows


@dataclasses.dataclass(frozen=True)
class ModelFields:
    latent_channels: int
    base_channels: int
    downsampling_steps: int
    remat: bool
    shortcuts: bool = False
    variational: bool = False


@dataclasses.dataclass(frozen=True)
class DataFields:
    manifest: str | None
    root: str | None
    image_size: int
    synthetic_size: int
    validation_fraction: float
    seed: int
    cache_dir: str
    num_workers: int


@dataclasses.dataclass(frozen=True)
class OptimizerFields:
    learning_rate: float
    weight_decay: float
    schedule: str = "constant"
    warmup_steps: int = 0
    clip_norm: float = 0.0


@dataclasses.dataclass(frozen=True)
class LossFields:
    mse: float
    segmentation: float
    classification: float
    kl: float = 0.0


@dataclasses.dataclass(frozen=True)
class EarlyStoppingFields:
    patience: int
    min_delta: float


@dataclasses.dataclass(frozen=True)
class CheckpointFields:
    every_epochs: int
    every_minutes: float


@dataclasses.dataclass(frozen=True)
class SampleFields:
    every_epochs: int
    count: int


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields of configs/phase1_2.py, which says what each means and in which unit."""

    name: str
    phase_dir: str
    seed: int
    batch_size: int
    accumulate_steps: int
    num_epochs: int
    init_from: str | None
    precision: str
    num_devices: int
    model: ModelFields
    data: DataFields
    optimizer: OptimizerFields
    loss: LossFields
    early_stopping: EarlyStoppingFields
    checkpoint: CheckpointFields
    samples: SampleFields
    experiment: str = ""
    init_step: int | None = None
    init_sha256: str | None = None
    init_log_variance: float | None = None
    ema_decay: float = 0.0
    profile_steps: str = ""
    loggers: str = TENSORBOARD

    @property
    def logger_names(self) -> list[str]:
        """The parts of `loggers`, each once."""
        return list(dict.fromkeys(name.strip() for name in self.loggers.split(",") if name.strip()))

    @property
    def profiled(self) -> tuple[int, int] | None:
        """The first and the last step that are traced, both included; None where none are."""
        if not self.profile_steps:
            return None
        first, last = map(int, self.profile_steps.split(":"))
        return first, last


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config that has passed every check that needs no data and no device.

    Attributes:
      config: its values.
      description: the same as a nested dict for JSON, with fields that the program does not know.
      name: of the run, the fields of its model filled in.
      model: the architecture.
      weights: of the loss's terms.
      data: what decides the data set.
      cache_dir: where prepared data sets live.
    """

    config: Config
    description: dict[str, Any]
    name: str
    model: AutoencoderConfig
    weights: LossWeights
    data: DataSpec
    cache_dir: Path

    def starting_from(self, given: AutoencoderConfig) -> "Experiment":
        """Returns the same experiment with the architecture of given weights, which must have the config's sizes.

        Raises:
          UserError: they have other sizes, or heads that do not fit the data.
        """
        place = f"config.init_from {self.config.init_from}"
        for key in ("latent_channels", "base_channels", "downsampling_steps", "shortcuts", "variational"):
            there, here = getattr(given, key), getattr(self.model, key)
            if there != here:
                raise UserError(f"{place} has {key} {there}, but config.model.{key} is {here}")
        if given.head("rgb") is None:
            raise UserError(f"{place} has no RGB head, expected one")
        for head in given.heads:
            expected = self.model.head(head.kind)
            if expected is None or head.outputs != expected.outputs:
                raise UserError(
                    f"{place} has {head.outputs} outputs in its head {head.name}, which do not fit the data"
                )
        model = dataclasses.replace(given, compute_dtype=self.model.compute_dtype, remat=self.model.remat)
        return dataclasses.replace(self, model=model)

    def fingerprint(self, data: dict[str, Any], init: str | None, num_steps: int) -> dict[str, Any]:
        """Returns what must not change between a run and its continuation, by config key.

        `data` is the data set's own, `init` stands for the weights that the run starts from, `num_steps` are those of
        the whole run, on which a cosine depends.  What changes no result beyond rounding may change, so that a run can
        go on on another card: remat, accumulate_steps, num_devices.
        """
        config = self.config
        stored = self.description
        fields = {f"model.{key}": value for key, value in stored["model"].items() if key != "remat"}
        fields |= {f"optimizer.{key}": value for key, value in stored["optimizer"].items()}
        fields |= {f"loss.{key}": value for key, value in stored["loss"].items()}
        if config.optimizer.schedule == "cosine":
            fields["optimizer.schedule_steps"] = num_steps
        return {
            "name": self.name,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "precision": config.precision,
            "ema_decay": config.ema_decay,
            **fields,
            **data,
            "init_from": init,
            "init_log_variance": config.init_log_variance,
        }


def from_config(config: RawConfig) -> Experiment:
    """Checks the config's values and returns the experiment.

    Raises:
      UserError: a value is out of range, or two do not fit together; names the key.
    """
    description = config.to_dict()
    checked: Config = _typed(Config, description)  # with what older runs do not say
    _check_positive(checked)
    _check_model(checked)
    _check_loss(checked)
    _check_optimizer(checked)
    _check_watching(checked)
    _check_parts(checked)
    _check_choices(checked)
    _check_given(checked)
    data, loss = checked.data, checked.loss
    return Experiment(
        checked,
        description,
        run_name(config),
        AutoencoderConfig(**dataclasses.asdict(checked.model), compute_dtype=checked.precision),
        LossWeights(loss.mse, loss.segmentation, loss.classification, loss.kl),
        DataSpec(data.manifest, data.root, data.image_size, data.synthetic_size, data.validation_fraction, data.seed),
        expand_user(data.cache_dir),
    )


def _typed(kind: Any, values: dict[str, Any]) -> Any:
    """Makes a dataclass of a dict that has its fields, and perhaps others; KeyError where one is missing."""
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name not in values and field.default is not dataclasses.MISSING:
            continue
        value, hint = values[field.name], hints[field.name]
        found[field.name] = _typed(hint, value) if dataclasses.is_dataclass(hint) else value
    return kind(**found)


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise UserError(f"config.{key} is {value}, expected {expected}")


def _check_positive(config: Config) -> None:
    for key in (
        "batch_size",
        "accumulate_steps",
        "model.latent_channels",
        "model.base_channels",
        "data.image_size",
        "data.synthetic_size",
        "early_stopping.patience",
        "checkpoint.every_epochs",
        "samples.every_epochs",
        "samples.count",
        "optimizer.learning_rate",
    ):
        value = _lookup(config, key)
        _require(0 < value < math.inf, key, value, "a number above 0")
    for key in (
        "seed",
        "num_devices",
        "data.seed",
        "data.num_workers",
        "optimizer.weight_decay",
        "optimizer.warmup_steps",
        "optimizer.clip_norm",
        "loss.mse",
        "loss.segmentation",
        "loss.classification",
        "loss.kl",
        "early_stopping.min_delta",
        "checkpoint.every_minutes",
    ):
        value = _lookup(config, key)
        _require(0 <= value < math.inf, key, value, "0 or more")


def _lookup(config: Config, key: str) -> Any:
    return operator.attrgetter(key)(config)


def _check_model(config: Config) -> None:
    steps, base = config.model.downsampling_steps, config.model.base_channels
    _require(1 <= steps <= MAX_DOWNSAMPLING_STEPS, "model.downsampling_steps", steps, f"1 to {MAX_DOWNSAMPLING_STEPS}")
    _require(
        # Given weights may have fewer groups; their architecture was checked when they were made.
        config.init_from is not None or base % (2 * NORM_GROUPS) == 0,
        "model.base_channels",
        base,
        f"a multiple of {2 * NORM_GROUPS}: half of it divides into the {NORM_GROUPS} groups of the norms",
    )
    size = config.data.image_size
    _require(size % 2**steps == 0, "data.image_size", size, f"a multiple of {2**steps} for {steps} downsampling steps")


def _check_loss(config: Config) -> None:
    kl, variational = config.loss.kl, config.model.variational
    expected = "above 0, the original's is 0.0001," if variational else "0"
    _require((kl > 0) == variational, "loss.kl", kl, f"{expected} for config.model.variational {variational}")


def _check_optimizer(config: Config) -> None:
    schedule, decay = config.optimizer.schedule, config.ema_decay
    _require(schedule in SCHEDULES, "optimizer.schedule", schedule, " or ".join(SCHEDULES))
    _require(0 <= decay < 1, "ema_decay", decay, "0, for none, or a number between 0 and 1")


def _check_watching(config: Config) -> None:
    text = config.profile_steps
    is_range = re.fullmatch(r"[1-9]\d*:[1-9]\d*", str(text)) is not None
    is_usable = text == "" or (is_range and operator.le(*map(int, text.split(":"))))
    _require(is_usable, "profile_steps", text, "two steps from 1 on, the first and the last, as 10:15")
    is_usable = all(re.fullmatch(rf"{TENSORBOARD}|[\w.]+:\w+", name) for name in config.logger_names)
    _require(is_usable, "loggers", config.loggers, f"{TENSORBOARD} and MODULE:FUNCTION, separated by commas")


def _check_parts(config: Config) -> None:
    parts, size = config.accumulate_steps, config.batch_size
    _require(size % parts == 0, "batch_size", size, f"a multiple of config.accumulate_steps, {parts}")


def _check_given(config: Config) -> None:
    """Fields that say more of init_from."""
    for key in ("init_step", "init_sha256", "init_log_variance"):
        value = _lookup(config, key)
        _require(value is None or config.init_from is not None, key, value, "a config.init_from with it")
    step, sha256 = config.init_step, config.init_sha256
    _require(step is None or step >= 0, "init_step", step, "0 or more")
    is_digest = sha256 is None or re.fullmatch(r"[0-9a-f]{64}", sha256) is not None
    _require(is_digest, "init_sha256", sha256, "64 hexadecimal digits")
    variational, log_variance = config.model.variational, config.init_log_variance
    is_usable = log_variance is None or (variational and math.isfinite(log_variance))
    expected = f"a number, for config.model.variational True; it is {variational}"
    _require(is_usable, "init_log_variance", log_variance, expected)


def _check_choices(config: Config) -> None:
    epochs, given = config.num_epochs, config.init_from is not None
    expected = "0 or more" if given else "1 or more (0 evaluates the weights of an init_from)"
    _require(epochs >= (0 if given else 1), "num_epochs", epochs, expected)
    fraction, workers, cores = config.data.validation_fraction, config.data.num_workers, len(os.sched_getaffinity(0))
    _require(config.precision in PRECISIONS, "precision", config.precision, " or ".join(PRECISIONS))
    _require(0 < fraction < 1, "data.validation_fraction", fraction, "a share between 0 and 1")
    _require(workers <= cores, "data.num_workers", workers, f"at most {cores}, the cores of this job")
    for key in ("seed", "data.seed"):
        _require(_lookup(config, key) < 2**32, key, _lookup(config, key), "less than 2**32")
    if config.data.root is not None:
        _require(config.data.manifest is not None, "data.root", config.data.root, "a data.manifest with it")
