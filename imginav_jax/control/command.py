"""What the command does once its options are read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from imginav_jax.control import measure
from imginav_jax.control.settings import Settings
from imginav_jax.devices import compilation_cache, target
from imginav_jax.devices.mesh import explain_out_of_memory
from imginav_jax.runs import phase_folder
from imginav_jax.runs.results import control_file
from imginav_jax.runs.results.control_file import file_name
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.ownership import own_output
from imginav_jax.system.progress import logger
from imginav_jax.system.signals import Stop

_BFLOAT16_FROM = 8.0  # CUDA's compute capability


def run(paths: Sequence[Path], out: Path | None, settings: Settings, stop: Stop) -> None:
    """Measures control on the runs and writes the result file and its figures.

    Args:
      paths: phase folders or workdirs.
      out: the JSON file; None: in the phase folder, named for the device.
      settings: as the options say; a precision that is empty becomes the device's.
      stop: notices signals.
    """
    target.require_devices()
    compilation_cache.enable()
    if not settings.precision:
        settings = dataclasses.replace(settings, precision=usual_precision())
    found = phase_folder.find(paths)
    for problem in (*found.unusable, *found.problems):
        logger.warning("%s", problem)
    if not found.runs:
        raise UserError(f"no run in {', '.join(map(str, paths))} can be measured")
    phase_folder.require_comparable(found.runs)
    out = out or found.phase_dir / file_name(jax.devices()[0].device_kind, settings.precision)
    try:
        with own_output(out, f"--out {out}"), explain_out_of_memory():
            control = measure.measure(found, settings, out.with_suffix(".partial"), stop)
            control_file.save(out, control)
    except OSError as error:
        raise RunError(f"a file cannot be written or read: {error}") from None
    logger.info("%-12s %s", "Results", out)


def usual_precision() -> str:
    """Returns what the device computes fast and in a range wide enough: bfloat16, on older cards float16."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return "float32"
    return "bfloat16" if float(device.compute_capability) >= _BFLOAT16_FROM else "float16"
