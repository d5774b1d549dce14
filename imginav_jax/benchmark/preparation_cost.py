"""What preparing a data set costs: time and memory, by the number of layouts."""

import dataclasses
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from imginav_jax import experiment
from imginav_jax.datasets import preparation, synthetic
from imginav_jax.datasets.preparation import DataSpec
from imginav_jax.errors import RunError
from imginav_jax.experiment import Config

COUNTS = (1000, 2000)


class PreparationCost(NamedTuple):
    layouts: int
    seconds: float  # to check, split, pack and write them; drawing them is not in it
    peak_memory_mib: float  # of the process that does it


def measure(config: Config, counts: Sequence[int] = COUNTS) -> list[PreparationCost]:
    """Prepares the first so many of the same synthetic layouts, each in a fresh process.

    Args:
      config: its data counts, except the number of layouts.
      counts: of layouts.

    Raises:
      UserError: the config cannot be used.
      RunError: a process has ended.
    """
    data = experiment.from_config(config).data
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for count in counts:
            manifest = synthetic.write_manifest(Path(folder) / f"{count}", count, data.image_size, data.seed)
            spec = dataclasses.replace(data, manifest=str(manifest), root=None)
            found.append(_measure_apart(spec, count, Path(folder) / "cache"))
    return found


def _measure_apart(spec: DataSpec, count: int, cache: Path) -> PreparationCost:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_prepare, args=(there, spec, count, cache))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RunError("the process that prepares layouts has ended; what it says stands above") from None
    finally:
        process.join()


def _prepare(connection: Connection, spec: DataSpec, count: int, cache: Path) -> None:
    start = time.monotonic()
    preparation.prepare(spec, cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    connection.send(PreparationCost(count, time.monotonic() - start, peak))
