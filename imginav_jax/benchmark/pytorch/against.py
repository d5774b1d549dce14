"""Training, evaluation and encoding, timed in turns with the same model in PyTorch on the same device.

Both take the same batch from the same weights, which is checked by the loss.  Ours runs as the config says (remat,
accumulate_steps); PyTorch's takes the whole batch at once.  An evaluation of ours counts the confusion matrix too.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.phase.autoencoder_cost import PreparedAutoencoder
from imginav_jax.benchmark.pytorch import job, turn_process
from imginav_jax.benchmark.pytorch.job import Job, Ready
from imginav_jax.benchmark.pytorch.turn_process import TurnProcess
from imginav_jax.benchmark.timing import Measurement, spread_values, timing_values
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models.losses import weigh_losses
from imginav_jax.pytorch import tensors
from imginav_jax.runs.benchmark_file import Spread, Timing
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.progress import logger
from imginav_jax.training.steps import EvalMetrics

NAMES = ("train", "eval", "encode")
_SAME_LOSS = 0.01  # relative difference; 16 bits round

_Key = tuple[str, str]  # whose, and one of the names


class Comparison(NamedTuple):
    """By one of the names.

    `ratios` are our images a second over PyTorch's, of every round's own times.
    """

    ours: Mapping[str, Timing]
    theirs: Mapping[str, Timing]
    ratios: Mapping[str, Spread]


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Starts PyTorch in a process of its own and takes turns with it.

    Raises:
      UserError: the config cannot be used, or PyTorch is missing.
      RunError: PyTorch's process has ended, or computes something else.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install -r tests/requirements.txt")
    experiment = autoencoder_cost.fresh_experiment(config)
    batch = autoencoder_cost.synthetic_batch(config.batch_size, config.data.image_size, config.data.seed)
    logger.info("Compiling %s ...", ", ".join(NAMES))
    prepared = autoencoder_cost.prepare(experiment, batch, NAMES)
    loss = _loss(prepared)
    with tempfile.TemporaryDirectory() as folder:
        job.save(Path(folder), _make_job(prepared), _arrays(prepared, batch))
        logger.info("Starting PyTorch ...")
        # PyTorch as its users start it: an allocator's setting, though empty, keeps this package's own away.
        command = ["env", "GLIBC_TUNABLES=", sys.executable, "-m", "imginav_jax.benchmark.pytorch.worker", folder]
        with turn_process.start("PyTorch's process", command) as process:
            ready = Ready(**process.ready)
            check_losses(loss, ready.loss)
            seconds = _time(prepared, process, rounds)
    comparison = compare(seconds, config.batch_size)
    return Measurement(dump(comparison, loss, ready), render(comparison, loss, ready))


def check_losses(ours: float, theirs: float) -> None:
    """RunError where the programs do not compute the same."""
    if not abs(ours - theirs) <= _SAME_LOSS * abs(theirs):
        raise RunError(f"the loss is {ours:.6g}, but PyTorch's is {theirs:.6g}; these are different works")


def compare(seconds: Mapping[_Key, Sequence[float]], batch_size: int) -> Comparison:
    """`seconds` of a call, by round, under ("jax", name) and ("torch", name)."""
    return Comparison(
        {name: timing.summarize(seconds["jax", name], batch_size) for name in NAMES},
        {name: timing.summarize(seconds["torch", name], batch_size) for name in NAMES},
        {name: timing.paired_ratio(seconds["torch", name], seconds["jax", name]) for name in NAMES},
    )


def dump(comparison: Comparison, loss: float, ready: Ready) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in NAMES:
        values |= spread_values(f"{name}_ratio_to_torch", comparison.ratios[name])
        values |= timing_values(name, comparison.ours[name])
        values |= timing_values(f"torch_{name}", comparison.theirs[name])
    return {**values, "loss": loss, "torch_loss": ready.loss, "torch_form": ready.form}


def render(comparison: Comparison, loss: float, ready: Ready) -> str:
    header = ["", "images/s", "PyTorch's", "times PyTorch's"]
    rows = [
        [
            name,
            table.show_spread(comparison.ours[name].images_per_second),
            table.show_spread(comparison.theirs[name].images_per_second),
            table.show_spread(comparison.ratios[name]),
        ]
        for name in NAMES
    ]
    losses = f"Loss of the first batch: {loss:.6f}, PyTorch's {ready.loss:.6f}"
    return "\n".join([table.align([header, *rows], text_columns=1), "", ready.form, losses])


def _time(prepared: PreparedAutoencoder, process: TurnProcess, rounds: int) -> dict[_Key, list[float]]:
    ours = timing.warm_up(prepared.works)
    samplers = {}
    for name in NAMES:
        samplers |= {("jax", name): ours[name], ("torch", name): process.sampler(name)}
    return timing.time_in_turns("Against PyTorch", samplers, rounds)


def _loss(prepared: PreparedAutoencoder) -> float:
    """Of the batch, with the weights at the start."""
    metrics: EvalMetrics = prepared.works["eval"]()
    terms = weigh_losses(metrics.losses, prepared.experiment.weights)
    return float(np.sum([np.mean(term) for term in terms]))


def _make_job(prepared: PreparedAutoencoder) -> Job:
    model, fields = prepared.experiment.model, prepared.experiment.config
    jax_config: Any = jax.config  # whose fields no type checker knows
    return Job(
        device="cuda" if jax.default_backend() == "gpu" else "cpu",
        precision=fields.precision,
        allow_tf32=jax_config.jax_default_matmul_precision not in ("float32", "highest"),
        latent_channels=model.latent_channels,
        base_channels=model.base_channels,
        downsampling_steps=model.downsampling_steps,
        learning_rate=fields.optimizer.learning_rate,
        weight_decay=fields.optimizer.weight_decay,
        loss_weights=tuple(prepared.experiment.weights),
    )


def _arrays(prepared: PreparedAutoencoder, batch: Batch) -> dict[str, np.ndarray]:
    state_dict = tensors.from_params(prepared.experiment.model, jax.device_get(prepared.params))
    return {**state_dict, "images": np.asarray(batch.image), "types": np.asarray(batch.type)}
