"""What preparing a data set costs: time and memory, by the number of layouts."""

import dataclasses
import itertools
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from imginav_jax.benchmark import table, timing, turn_process
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.datasets import preparation, synthetic
from imginav_jax.datasets.preparation import DataSpec
from imginav_jax.runs import experiment
from imginav_jax.runs.experiment import RawConfig

COUNTS = (1000, 2000)


class PreparationCost(NamedTuple):
    """What one preparation costs; the names end keys of the JSON."""

    seconds: float  # to check, split, pack and write the layouts; drawing them is not in it
    peak_memory_mib: float  # of the process that does it


Costs = dict[int, list[PreparationCost]]  # by the number of layouts, a round


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Prepares the first so many of the same synthetic layouts, in turns, each time in a fresh process."""
    data = experiment.from_config(config).data
    found: Costs = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as folder:
        for number, count in itertools.product(range(rounds), COUNTS):
            manifest = Path(folder) / f"{count}" / "layouts.csv"
            if number == 0:
                manifest = synthetic.write_manifest(manifest.parent, count, data.image_size, data.seed)
            spec = dataclasses.replace(data, manifest=str(manifest), root=None)
            found[count].append(_measure_apart(spec, Path(folder) / f"cache{number}"))
    return present(found)


def present(found: Costs) -> Measurement:
    """Returns values and table; the growth among the values is that of the largest count over the smallest."""
    smallest, largest = min(found), max(found)
    columns = {count: list(zip(*costs, strict=True)) for count, costs in found.items()}
    ratios = {count: list(map(timing.paired_ratio, columns[count], columns[smallest])) for count in found}
    values: dict[str, Any] = {}
    rows: list[list[table.Cell]] = [["layouts", "seconds", f"to {smallest:,}", "peak MiB", f"to {smallest:,}"]]
    for count, each in columns.items():
        spreads = list(map(timing.spread, each))
        names = [f"prepare_{count}_layouts_{name}" for name in PreparationCost._fields]
        values |= dict(zip(names, spreads, strict=True))
        rows.append([count, *itertools.chain(*zip(spreads, ratios[count], strict=True))])
    seconds, memory = (ratio.median for ratio in ratios[largest])
    values |= {"prepare_seconds_ratio": seconds, "prepare_memory_ratio": memory}
    return Measurement(timing.flatten(values), table.align(rows))


def prepare(spec: dict[str, Any], cache: str) -> turn_process.Served:
    """Prepares the layouts of a `DataSpec`'s fields in this process, and returns what it cost."""
    start = time.monotonic()
    preparation.prepare(DataSpec(**spec), Path(cache))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return PreparationCost(time.monotonic() - start, peak), {}


def _measure_apart(spec: DataSpec, cache: Path) -> PreparationCost:
    command = turn_process.command(f"{__name__}:prepare", dataclasses.asdict(spec), str(cache))
    with turn_process.start("the process that prepares layouts", command) as process:
        return PreparationCost(*process.answer())
