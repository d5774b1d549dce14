"""What can be measured of one experiment alone, by the names of the command's options.

Each is called with a config and the number of rounds, and returns a `Measurement`.  It raises UserError where the
config cannot be used, and RunError where the device's memory is too small or another process has failed.  The modules
are imported when they are called: the command checks its flags first.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imginav_jax.benchmark.timing import Measurement


def _measure_by(module: str, config: Any, rounds: int, **options: Any) -> Measurement:
    return importlib.import_module(f"imginav_jax.benchmark.{module}").measure(config, rounds, **options)


_STEPS = {"train_step": "train", "eval_step": "eval", "encode": "encode", "decode": "decode"}
TRAFFIC_ONLY = ("unet_step", "controlnet_step")  # parts whose traffic is counted, and which are not timed alone
TRAFFIC = (*_STEPS, *TRAFFIC_ONLY)
_MODULES = {
    "input": "speed.input_rate",
    "startup": "speed.startup",
    "preparation": "speed.preparation_cost",
    "epoch": "speed.epoch_overhead",
}
Measure = Callable[[Any, int], "Measurement"]
PARTS: dict[str, Measure] = {
    **{part: functools.partial(_measure_by, "speed.step_cost", names=(name,)) for part, name in _STEPS.items()},
    **{part: functools.partial(_measure_by, module) for part, module in _MODULES.items()},
}
measure_steps: Measure = functools.partial(_measure_by, "speed.step_cost", names=tuple(_STEPS.values()))
measure_against_torch: Measure = functools.partial(_measure_by, "pytorch.against")
measure_scaling: Measure = functools.partial(_measure_by, "speed.scaling")
