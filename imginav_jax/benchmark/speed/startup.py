"""How long the program takes to its help text and to its first finished training step, the first time and the second.

Real starts of `imginav_jax.main`, in a temporary folder with caches of its own: the first start draws and prepares
synthetic layouts and compiles, the second finds both.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from imginav_jax.benchmark import table, timing, turn_process
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.training.screen import FIRST_STEP


class Startup(NamedTuple):
    """Seconds of wall time from the start of the process; the names are keys of the JSON."""

    help_seconds: float  # to the end of --help
    first_start_seconds: float  # to the first finished training step: layouts drawn, programs compiled
    second_start_seconds: float  # the same with both at hand


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Starts the program three times a round, each round with empty caches; the config's folders are replaced."""
    columns = list(zip(*(measure_once(config) for _ in range(rounds)), strict=True))
    helps, firsts, seconds = spreads = [timing.spread(column) for column in columns]
    rows = [
        ["", "seconds", "to empty caches"],
        ["to the help text", helps, None],
        ["to the first step, caches empty", firsts, 1],
        ["the same again", seconds, timing.paired_ratio(columns[2], columns[1])],
    ]
    values = dict(zip(Startup._fields, spreads, strict=True))
    return Measurement(timing.flatten(values), table.align(rows))


def measure_once(config: RawConfig) -> Startup:
    """Returns the seconds of three starts, with caches that are empty at first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        environment["IMGINAV_CACHE"] = str(folder)
        (folder / "config.py").write_text(_config_file(config, folder))
        runs = [[f"--config={folder / 'config.py'}", f"--workdir={folder / f'work{number}'}"] for number in (1, 2)]
        help_seconds = _time_start(["--help"], "--config", environment, to_its_end=True)
        return Startup(help_seconds, *(_time_start(run, FIRST_STEP, environment) for run in runs))


def _config_file(config: RawConfig, folder: Path) -> str:
    """Returns a file that holds the config with its overrides, for a process that knows neither."""
    changes = {"data.cache_dir": str(folder / "cache"), "phase_dir": str(folder / "phase")}
    fields = autoencoder_cost.change(config, changes).to_json_best_effort()
    lines = "import json", "from ml_collections import ConfigDict", f"VALUES = json.loads({fields!r})"
    return "\n".join([*lines, "def get_config():", "    return ConfigDict(VALUES)", ""])


def _time_start(options: list[str], text: str, environment: Mapping[str, str], to_its_end: bool = False) -> float:
    """Returns the seconds until the program prints a line with `text`, or until its end after that."""
    command = [sys.executable, "-m", "imginav_jax.main", *options]
    start = time.monotonic()
    with turn_process.start(" ".join(command), command, environment) as process:
        process.wait_for(text)
        if to_its_end:
            process.wait_for_end()
        return time.monotonic() - start
