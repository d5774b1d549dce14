"""How many layouts a second one core makes ready for the device, and what else a core could do with them.

Three works take turns, on synthetic layouts of the config's size: the input pipeline, from records on disk to uint8
batches on the device; decoding alone, of records and of PNG files in memory; and, where PyTorch is installed, a
DataLoader that opens the PNG files with Pillow, and makes float32 images and class labels of them.  Each process has
one core.

Records are decoded alone twice: each image over the one before it, which a core's own cache holds, and into as many
batches as a training run has in memory.  One core alone needs fewer at a time, and so the pipeline can be ahead.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from imginav_jax.benchmark import table, turn_process
from imginav_jax.benchmark.pytorch import dataloader
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.datasets import preparation
from imginav_jax.runs import experiment
from imginav_jax.runs.experiment import RawConfig

_LAYOUTS = 320  # drawn
_TRAINING_LAYOUTS = 22_000  # of the real data set
_BATCHES = 6  # about as many as are on their way from the decoder to the end of a step
_IMAGES = 4096  # about as many are read in a sample, over and over
_ROWS = {  # of the table, by the works' names, of which keys of the JSON are made
    "input": "input pipeline",
    "first_epoch": "  in its first epoch",  # before the packed layouts are in memory
    "decode": "decoding its records alone",  # in memory, each image over the one before
    "batch_decode": f"  into {_BATCHES} batches",
    "png_decode": "decoding PNG files alone",  # those that the records were made of, in memory, by Pillow
    "torch_dataloader": "PyTorch's DataLoader, of PNG files",
}

Rates = Mapping[str, float]  # images a second, by work


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Draws and prepares layouts of the config's size in a temporary folder, and times all works on one core."""
    spec = experiment.from_config(config).data
    spec = dataclasses.replace(spec, manifest=None, root=None, synthetic_size=_LAYOUTS)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        directory = str(preparation.prepare(spec, Path(folder)).directory)
        commands = {
            "the input pipeline": turn_process.command(f"{__name__}:prepare", directory, folder, config.batch_size),
            "PyTorch's DataLoader": turn_process.command(f"{dataloader.__name__}:prepare", folder, config.batch_size),
        }
        with _one_core():
            works = [stack.enter_context(turn_process.start(name, command)) for name, command in commands.items()]
        for work in works:
            work.answer()
        rates = [dict(itertools.chain(*(work.ask("rates").items() for work in works))) for _ in range(rounds + 1)]
    return present(rates[1:])  # the first turn warms up


def present(rounds: Sequence[Rates]) -> Measurement:
    """Returns medians of the rounds, ratios being of every round's own; None where PyTorch is missing."""
    found = [name for name in _ROWS if name in rounds[0]]
    rates = {name: median(each[name] for each in rounds) for name in found}
    ratios = {name: median(each["input"] / each[name] for each in rounds) for name in found if name != "first_epoch"}
    values = {f"{name}_images_per_second_per_core": rates.get(name) for name in _ROWS}
    values |= {f"input_to_{name}": ratios.get(name) for name in list(_ROWS)[2:]}
    rows = [[label, rates.get(name), ratios.get(name)] for name, label in _ROWS.items()]
    return Measurement(values, table.align([["on one core", "images/s", "the input to it"], *rows]))


def prepare(directory: str, folder: str, batch_size: int) -> turn_process.Served:
    """Returns what finds the rates of this package's works, of a prepared directory and the PNG files in a folder."""
    import jax
    import numpy as np

    from imginav_jax.datasets import layout_file, layout_record
    from imginav_jax.input_pipeline import pipeline
    from imginav_jax.input_pipeline.source import LayoutSource

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    source = LayoutSource(Path(directory), preparation.TRAIN)
    contents = [source.packed(index).image for index in range(len(source))]
    pngs = [path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))]
    side = layout_record.side(contents[0])
    batches = np.empty((_BATCHES * batch_size, side, side, 3), np.uint8)
    passes = max(1, round(_IMAGES / len(source)))
    # As long as the real training split: Grain's shuffle is slow where there are few elements.
    many = source.restrict(list(range(len(source))) * (_TRAINING_LAYOUTS // len(source)))
    training = pipeline.train_dataset(many, batch_size, 1, 0)[: len(source) * passes // batch_size]

    def read(dataset: Any) -> float:
        start, count = time.perf_counter(), 0
        for batch in pipeline.prefetch(dataset, sharding):
            jax.block_until_ready(batch.image)
            count += len(batch.image)
            del batch  # as training does
        return count / (time.perf_counter() - start)

    def decode(decoder: Callable[[bytes], Any], contents: Sequence[bytes]) -> float:
        start = time.perf_counter()
        for content in contents:
            decoder(content)
        return len(contents) / (time.perf_counter() - start)

    def rates() -> Rates:
        fresh, places = LayoutSource(Path(directory), preparation.TRAIN), itertools.cycle(batches)
        first_epoch = read(pipeline.eval_dataset(fresh, batch_size))
        return {
            "input": read(training),
            "decode": decode(layout_record.decode, contents * passes),
            "batch_decode": decode(lambda content: layout_record.decode(content, next(places)), contents * passes),
            "png_decode": decode(functools.partial(layout_file.decode_layout, Path(folder)), pngs),
            "first_epoch": first_epoch,
        }

    return None, {"rates": rates}


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Gives what is started inside one core, which it inherits."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
