"""How long the program takes to its help text and to its first finished training step, the first time and the second.

Real starts of `imginav_jax.main`, in a temporary folder with caches of its own: the first start draws and prepares
synthetic layouts and compiles, the second finds both.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.timing import Measurement, spread_values
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError
from imginav_jax.training.screen import FIRST_STEP

_ROOT = Path(__file__).resolve().parents[3]  # on the path of the programs that are started
_END_SECONDS = 60  # a run that is asked to stop may take


class Startup(NamedTuple):
    """Seconds of wall time from the start of the process."""

    help_seconds: float  # to the end of --help
    first_start_seconds: float  # to the first finished training step: layouts drawn, programs compiled
    second_start_seconds: float  # the same with both at hand


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Starts the program three times a round, each round with empty caches.

    Args:
      config: any but one with a workdir of its own; its folders are replaced by temporary ones.
      rounds: to take the medians of.

    Raises:
      RunError: the program has failed.
    """
    found = [measure_once(config) for _ in range(rounds)]
    return Measurement(dump(found), render(found))


def measure_once(config: RawConfig) -> Startup:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        environment |= {"IMGINAV_CACHE": str(folder), "PYTHONPATH": str(_ROOT)}
        (folder / "config.py").write_text(_config_file(config, folder))
        help_seconds = _time_help(environment)
        starts = [_time_first_step(folder, number, environment) for number in (1, 2)]
    return Startup(help_seconds, *starts)


def dump(rounds: Sequence[Startup]) -> dict[str, Any]:
    values = {}
    for name, seconds in zip(Startup._fields, zip(*rounds, strict=True), strict=True):
        values |= spread_values(name, timing.spread(seconds))
    return values


def render(rounds: Sequence[Startup]) -> str:
    helps, firsts, seconds = zip(*rounds, strict=True)
    rows = [
        ["to the help text", table.show_spread(timing.spread(helps)), "-"],
        ["to the first step, caches empty", table.show_spread(timing.spread(firsts)), "1"],
        ["the same again", *map(table.show_spread, (timing.spread(seconds), timing.paired_ratio(seconds, firsts)))],
    ]
    return table.align([["", "seconds", "to empty caches"], *rows], text_columns=1)


def _config_file(config: RawConfig, folder: Path) -> str:
    """The config with its overrides, for a process that knows neither."""
    changed = config.copy_and_resolve_references()
    changed.data.cache_dir, changed.phase_dir = str(folder / "cache"), str(folder / "phase")
    fields = changed.to_json_best_effort()
    lines = "import json", "from ml_collections import ConfigDict", f"VALUES = json.loads({fields!r})"
    return "\n".join([*lines, "def get_config():", "    return ConfigDict(VALUES)", ""])


def _time_help(environment: dict[str, str]) -> float:
    start = time.monotonic()
    command = [sys.executable, "-m", "imginav_jax.main", "--help"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "--config" not in found.stdout:  # absl ends --help with exit code 1
        raise RunError(f"{' '.join(command)} has failed: {found.stderr.strip()}")
    return time.monotonic() - start


def _time_first_step(folder: Path, number: int, environment: dict[str, str]) -> float:
    options = [f"--config={folder / 'config.py'}", f"--workdir={folder / f'work{number}'}"]
    command = [sys.executable, "-m", "imginav_jax.main", *options]
    start = time.monotonic()
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            seconds = next((time.monotonic() - start for line in _lines(process) if FIRST_STEP in line), None)
            process.terminate()
            process.communicate(timeout=_END_SECONDS)
        finally:
            process.kill()
        errors.seek(0)
        if seconds is None:
            raise RunError(f"{' '.join(command)} has ended before its first step: {errors.read().strip()}")
    return seconds


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout.readline, "")
