"""The parts of the program that can be measured alone, by the names that `--only` takes.

What measures them is imported when it is called: the command checks its flags first.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imginav_jax.benchmark.timing import Measurement

_STEPS = {"train_step": "train", "eval_step": "eval", "encode": "encode", "decode": "decode"}


def measure_steps(config: Any, rounds: int, names: Sequence[str] = tuple(_STEPS.values())) -> Measurement:
    """All of the steps, where none is named; as `step_cost.measure`."""
    from imginav_jax.benchmark.speed import step_cost

    return step_cost.measure(config, rounds, names)


def _measure_by(module: str, config: Any, rounds: int) -> Measurement:
    return importlib.import_module(f"imginav_jax.benchmark.{module}").measure(config, rounds)


_MODULES = {
    "input": "speed.input_rate",
    "startup": "speed.startup",
    "preparation": "speed.preparation_cost",
    "epoch": "speed.epoch_overhead",
}
PARTS: dict[str, Callable[[Any, int], Measurement]] = {
    **{part: functools.partial(measure_steps, names=(name,)) for part, name in _STEPS.items()},
    **{part: functools.partial(_measure_by, module) for part, module in _MODULES.items()},
}
