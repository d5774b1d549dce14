"""What the command does once its options are read."""

import dataclasses
import runpy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from imginav_jax.control import measure, plan
from imginav_jax.control.measure import Measurement
from imginav_jax.control.settings import Part, Settings
from imginav_jax.devices import compilation_cache, target
from imginav_jax.devices.mesh import explain_out_of_memory
from imginav_jax.report import settings as report_settings
from imginav_jax.report.decision import control as scores
from imginav_jax.report.other_results import NOISE_METRICS
from imginav_jax.report.page import control as drawing
from imginav_jax.runs import phase_folder
from imginav_jax.runs.results import control_file, noise_file
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.files import own_config, write_atomically
from imginav_jax.system.ownership import own_output
from imginav_jax.system.process import workers
from imginav_jax.system.progress import logger
from imginav_jax.system.signals import Stop

_BFLOAT16_FROM = 8.0  # CUDA's compute capability
_NARROWEST = 100  # columns of the table where there is no terminal


def run(paths: Sequence[Path], out: Path | None, settings: Settings, only: Part | None, stop: Stop) -> None:
    """Measures control on the runs and writes the result files and their figures.

    Args:
      paths: phase folders or workdirs.
      out: the JSON file; None: in the phase folder, named for the device.
      settings: as the options say; a precision that is empty becomes the device's.
      only: one part of the measurement; None for both.
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
    out = out or found.phase_dir / control_file.file_name(jax.devices()[0].device_kind, settings.precision)
    partial = out.with_suffix(".partial")
    try:
        with own_output(out, f"--out {out}"), explain_out_of_memory(), workers.open_pool() as pool:
            measurement = Measurement(found, settings, partial, stop, pool)
            if only != "drawing":
                _measure_noise(measurement, out, partial)
            if only != "noise":
                _measure_control(measurement, out, stop)
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RunError(f"a file cannot be written or read: {error}") from None


def show_plan(settings: Settings) -> None:
    """Shows what the measurement of R1, R2 and R3 would take."""
    target.require_devices()
    compilation_cache.enable()
    if not settings.precision:
        settings = dataclasses.replace(settings, precision=usual_precision())
    config = runpy.run_path(str(own_config("phase1_2.py")))["get_config"]("R1")
    logger.info("\n%s", plan.draw(config, settings))


def _measure_noise(measurement: Measurement, out: Path, partial: Path) -> None:
    path = noise_file.beside(out)
    found = measure.measure_noise(measurement, partial / "noise")
    noise_file.save(path, found)
    config = _bootstrap()
    scored = scores.score_noise(found, NOISE_METRICS, measurement.scenes, config)
    for picture in drawing.draw_noise(scored, config.confidence, f"{out.stem}_"):
        write_atomically(out.parent / picture.file_name, picture.png)
    logger.info("%-12s %s", "Noise", path)


def _measure_control(measurement: Measurement, out: Path, stop: Stop) -> None:
    found = measure.measure(measurement, stop)
    control_file.save(out, found)
    config = _bootstrap()
    scored = scores.score(found, measurement.scenes, config)
    for picture in drawing.draw(found, scored, config.confidence, f"{out.stem}_"):
        write_atomically(out.parent / picture.file_name, picture.png)
    width = max(shutil.get_terminal_size().columns, _NARROWEST)
    logger.info("\n%s\n", drawing.draw_terminal(scored, config.confidence, width))
    if sentence := scores.say(scored):
        logger.info("%-12s %s", "Control", sentence)
    logger.info("%-12s %s", "Results", out)


def _bootstrap() -> Any:
    """The intervals are the report's."""
    return report_settings.load(own_config("report.py")).bootstrap


def usual_precision() -> str:
    """Returns what the device computes fast and in a range wide enough: bfloat16, on older cards float16."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return "float32"
    return "bfloat16" if float(device.compute_capability) >= _BFLOAT16_FROM else "float16"
