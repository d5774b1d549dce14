"""What the report measures and decides by: configs/report.py, read and checked."""

import runpy
from pathlib import Path
from typing import Any

from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.measurement.subjects import RGB, SEGMENTATION
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import UserError, first_line
from imginav_jax.system.files import own_config

CONTROL = "control"  # the detail metric that takes the place of the probe's where it was measured
PROBE_PREFIX = "probe_"  # of a detail metric by which the probe's classes are judged
_OUTPUTS = RGB, SEGMENTATION  # that a decision may be made by
_Check = tuple[str, Any, bool, str]  # key, value, whether it can be, what is expected


def load(path: Path) -> RawConfig:
    """Reads and returns the config; UserError where the file cannot be used, or a value is missing or cannot be.

    What configs of earlier versions do not say is taken from the package's own.
    """
    try:
        config = runpy.run_path(str(path))["get_config"]()
        _complete(config)
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    except Exception as error:  # whatever a person has written there
        raise UserError(f"--config {path} cannot be used: {type(error).__name__}: {error}") from None
    check(config)
    return config


def _complete(config: RawConfig) -> None:
    own = runpy.run_path(str(own_config("report.py")))["get_config"]()
    with config.unlocked(), config.decision.unlocked():
        if "vae_tests" not in config.decision:
            config.decision.vae_tests = own.decision.vae_tests
        if "smoothness" not in config:
            config.smoothness = own.smoothness


def check(config: RawConfig) -> None:
    """Raises UserError that names the key of a value that is missing or cannot be."""
    try:
        checks = [
            *_check_decision(config.decision),
            *_check_bootstrap(config.bootstrap),
            *_check_probe(config.probe),
            *_check_smoothness(config.smoothness),
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the report's config is incomplete: {first_line(error)}") from None
    for key, value, is_valid, expected in checks:
        if not is_valid:
            raise UserError(f"{key} is {value}, expected {expected}")


def _check_decision(decision: RawConfig) -> list[_Check]:
    weights, arms = decision.weights.to_dict(), {name: list(labels) for name, labels in decision.arms.items()}
    stand_ins = decision.stand_ins.to_dict()
    tests = {name: list(labels) for name, labels in decision.vae_tests.items()}
    return [
        *((f"decision.weights.{name}", weight, _is_share(name), "a metric that is a share, higher is better")
          for name, weight in weights.items()),
        ("decision.weights", weights, all(weight >= 0 for weight in weights.values()), "none below 0"),
        ("decision.weights", weights, sum(weights.values()) > 0, "one above 0"),
        ("decision.margin", decision.margin, 0 <= decision.margin < 1, "a share from 0, below 1"),
        ("decision.output", decision.output, decision.output in _OUTPUTS, " or ".join(_OUTPUTS)),
        ("decision.arms", arms, len(arms) > 0, "an arm"),
        ("decision.arm", decision.arm, decision.arm in arms, f"one of {', '.join(arms)}"),
        ("decision.vae_tests", tests, all(len(labels) == 2 for labels in tests.values()), "two labels in each"),
        ("decision.vae_tests", tests, not {*tests} & {*arms}, "other names than decision.arms has"),
        ("decision.stand_ins", stand_ins, all(isinstance(each, str) for each in stand_ins.values()), "labels"),
    ]  # fmt: skip


def _check_bootstrap(bootstrap: RawConfig) -> list[_Check]:
    return [
        ("bootstrap.confidence", bootstrap.confidence, 0 < bootstrap.confidence < 1, "between 0 and 1"),
        ("bootstrap.samples", bootstrap.samples, bootstrap.samples >= 1, "1 or more"),
        ("bootstrap.seed", bootstrap.seed, bootstrap.seed >= 0, "0 or more"),
        ("bootstrap.min_scenes", bootstrap.min_scenes, bootstrap.min_scenes >= 1, "1 or more"),
    ]


def _check_probe(probe: RawConfig) -> list[_Check]:
    return [
        ("probe.layouts", probe.layouts, probe.layouts >= 1, "1 or more"),
        ("probe.steps", probe.steps, probe.steps >= 1, "1 or more"),
        ("probe.batch_pixels", probe.batch_pixels, probe.batch_pixels >= 1, "1 or more"),
        ("probe.penalty", probe.penalty, probe.penalty >= 0, "0 or more"),
        ("probe.learning_rate", probe.learning_rate, probe.learning_rate > 0, "above 0"),
        ("probe.seed", probe.seed, probe.seed >= 0, "0 or more"),
    ]


def _check_smoothness(smoothness: RawConfig) -> list[_Check]:
    return [
        ("smoothness.pairs", smoothness.pairs, smoothness.pairs >= 2, "2 or more"),
        ("smoothness.seed", smoothness.seed, smoothness.seed >= 0, "0 or more"),
    ]


def _is_share(name: str) -> bool:
    if name == CONTROL:
        return True
    metric = METRICS.get(name.removeprefix(PROBE_PREFIX))
    return metric is not None and not metric.unit and metric.is_better == "higher"
