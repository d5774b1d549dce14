"""What preparing a data set costs: time and memory, by the number of layouts."""

import dataclasses
import itertools
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.timing import Measurement, spread_values
from imginav_jax.datasets import preparation, synthetic
from imginav_jax.datasets.preparation import DataSpec
from imginav_jax.runs import experiment
from imginav_jax.runs.benchmark_file import Spread
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError

COUNTS = (1000, 2000)


class PreparationCost(NamedTuple):
    seconds: float  # to check, split, pack and write them; drawing them is not in it
    peak_memory_mib: float  # of the process that does it


class Growth(NamedTuple):
    """Ratios of every round's own."""

    seconds: Spread
    memory: Spread


Costs = dict[int, list[PreparationCost]]  # by the number of layouts, a round


def measure(config: RawConfig, rounds: int) -> Measurement:
    """As `measure_counts`, for COUNTS."""
    found = measure_counts(config, rounds, COUNTS)
    return Measurement(dump(found), render(found))


def measure_counts(config: RawConfig, rounds: int, counts: Sequence[int]) -> Costs:
    """Prepares the first so many of the same synthetic layouts, in turns, each time in a fresh process.

    Args:
      config: its data counts, except the number of layouts.
      rounds: of every count.
      counts: of layouts.

    Raises:
      UserError: the config cannot be used.
      RunError: a process has ended.
    """
    data = experiment.from_config(config).data
    found: Costs = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        for number, count in itertools.product(range(rounds), counts):
            manifest = Path(folder) / f"{count}" / "layouts.csv"
            if number == 0:
                manifest = synthetic.write_manifest(manifest.parent, count, data.image_size, data.seed)
            spec = dataclasses.replace(data, manifest=str(manifest), root=None)
            found[count].append(_measure_apart(spec, Path(folder) / f"cache{number}"))
    return found


def dump(found: Costs) -> dict[str, Any]:
    """The growth is that of the largest count over the smallest."""
    values = {}
    for count, costs in found.items():
        for name, measured in zip(PreparationCost._fields, zip(*costs, strict=True), strict=True):
            values |= spread_values(f"prepare_{count}_layouts_{name}", timing.spread(measured))
    growth = _growth(found, max(found), min(found))
    return {**values, "prepare_seconds_ratio": growth.seconds.median, "prepare_memory_ratio": growth.memory.median}


def render(found: Costs) -> str:
    header = ["layouts", "seconds", f"to {min(found):,}", "peak MiB", f"to {min(found):,}"]
    return table.align([header, *(_row(found, count) for count in found)], text_columns=1)


def _row(found: Costs, count: int) -> list[str]:
    seconds, memory = (timing.spread(each) for each in zip(*found[count], strict=True))
    growth = _growth(found, count, min(found))
    cells = seconds, growth.seconds, memory, growth.memory
    return [f"{count:,}", *map(table.show_spread, cells)]


def _growth(found: Costs, count: int, reference: int) -> Growth:
    ours, theirs = (list(zip(*found[each], strict=True)) for each in (count, reference))
    return Growth(*(timing.paired_ratio(*pair) for pair in zip(ours, theirs, strict=True)))


def _measure_apart(spec: DataSpec, cache: Path) -> PreparationCost:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_prepare, args=(there, spec, cache))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RunError("the process that prepares layouts has ended; what it says stands above") from None
    finally:
        process.join()


def _prepare(connection: Connection, spec: DataSpec, cache: Path) -> None:
    start = time.monotonic()
    preparation.prepare(spec, cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    connection.send(PreparationCost(time.monotonic() - start, peak))
