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
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from imginav_jax.benchmark import table
from imginav_jax.benchmark.pytorch import dataloader
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.datasets import preparation
from imginav_jax.runs import experiment
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError

_LAYOUTS = 320  # drawn
_TRAINING_LAYOUTS = 22_000  # of the real data set
_BATCHES = 6  # about as many as are on their way from the decoder to the end of a step
_IMAGES = 4096  # about as many are read in a sample, over and over

Rates = Mapping[str, float]  # images a second, by work


class InputRate(NamedTuple):
    """Medians of the rounds, ratios of every round's own; the names are keys of the JSON."""

    input_images_per_second_per_core: float
    first_epoch_images_per_second_per_core: float  # before the packed layouts are in memory
    decode_images_per_second_per_core: float  # of records in memory, each image over the one before
    batch_decode_images_per_second_per_core: float  # the same, into batches
    png_decode_images_per_second_per_core: float  # of the files that they were made of, in memory, by Pillow
    torch_dataloader_images_per_second_per_core: float | None  # None where PyTorch is missing
    input_to_decode: float
    input_to_batch_decode: float
    input_to_png_decode: float
    input_to_torch_dataloader: float | None


def measure(config: RawConfig, rounds: int) -> Measurement:
    """As `measure_rates`, with as many layouts as it takes."""
    found = summarize(measure_rates(config, rounds, _LAYOUTS, _IMAGES))
    return Measurement(found._asdict(), render(found))


def measure_rates(config: RawConfig, rounds: int, layouts: int, images: int) -> Sequence[Rates]:
    """Draws and prepares layouts in a temporary folder, and times them on one core.

    Args:
      config: its image size and batch size count.
      rounds: of turns.
      layouts: to draw.
      images: to read in a sample.

    Raises:
      UserError: the config cannot be used.
      RunError: a process has ended.
    """
    exp = experiment.from_config(config)
    batch_size = config.batch_size
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        spec = dataclasses.replace(exp.data, manifest=None, root=None, synthetic_size=layouts)
        directory = preparation.prepare(spec, Path(folder)).directory
        files = sorted(Path(folder).rglob("*.png"))
        ours = stack.enter_context(_worker(_serve_pipeline, directory, files, batch_size, images))
        theirs = stack.enter_context(_worker(_serve_torch, files, batch_size))
        return [{**ours(), **theirs()} for _ in range(rounds + 1)][1:]  # the first turn warms up


def render(found: InputRate) -> str:
    torch, to_torch = found.torch_dataloader_images_per_second_per_core, found.input_to_torch_dataloader
    rows = [
        ["input pipeline", found.input_images_per_second_per_core, 1.0],
        ["  in its first epoch", found.first_epoch_images_per_second_per_core, None],
        ["decoding its records alone", found.decode_images_per_second_per_core, found.input_to_decode],
        [f"  into {_BATCHES} batches", found.batch_decode_images_per_second_per_core, found.input_to_batch_decode],
        ["decoding PNG files alone", found.png_decode_images_per_second_per_core, found.input_to_png_decode],
        ["PyTorch's DataLoader, of PNG files", torch, to_torch],
    ]
    shown = [
        [name, *("-" if value is None else table.show_number(value) for value in values)] for name, *values in rows
    ]
    return table.align([["on one core", "images/s", "the input to it"], *shown], text_columns=1)


def summarize(rounds: Sequence[Rates]) -> InputRate:
    def rate(name: str) -> float:
        return median(each[name] for each in rounds)

    def ratio(name: str) -> float:
        return median(each["input"] / each[name] for each in rounds)

    has_torch = "torch" in rounds[0]
    return InputRate(
        input_images_per_second_per_core=rate("input"),
        first_epoch_images_per_second_per_core=rate("first_epoch"),
        decode_images_per_second_per_core=rate("decode"),
        batch_decode_images_per_second_per_core=rate("batch_decode"),
        png_decode_images_per_second_per_core=rate("png"),
        torch_dataloader_images_per_second_per_core=rate("torch") if has_torch else None,
        input_to_decode=ratio("decode"),
        input_to_batch_decode=ratio("batch_decode"),
        input_to_png_decode=ratio("png"),
        input_to_torch_dataloader=ratio("torch") if has_torch else None,
    )


@contextlib.contextmanager
def _worker(serve: Callable[..., None], *arguments: object) -> Iterator[Callable[[], Rates]]:
    """A process on one core, which it inherits; each call has it measure once."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, *arguments), daemon=True)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        process.start()
    finally:
        os.sched_setaffinity(0, cores)
    there.close()

    def ask() -> Rates:
        try:
            here.send(None)
            return here.recv()
        except (EOFError, OSError):
            raise RunError(f"the process of {serve.__name__} has ended; what it says stands above") from None

    try:
        yield ask
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, measure_once: Callable[[], Rates]) -> None:
    with contextlib.suppress(EOFError):
        while True:
            connection.recv()
            connection.send(measure_once())


def _serve_pipeline(
    connection: Connection, directory: Path, files: Sequence[Path], batch_size: int, images: int
) -> None:
    import jax
    import numpy as np

    from imginav_jax.datasets import layout_file, layout_record
    from imginav_jax.input_pipeline import pipeline
    from imginav_jax.input_pipeline.source import LayoutSource

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    source = LayoutSource(directory, preparation.TRAIN)
    contents = [source.packed(index).image for index in range(len(source))]
    pngs = [path.read_bytes() for path in files]
    side = layout_record.side(contents[0])
    batches = np.empty((_BATCHES * batch_size, side, side, 3), np.uint8)
    passes = max(1, round(images / len(source)))
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

    def decode_into_batches(contents: Sequence[bytes]) -> float:
        places = itertools.cycle(batches)
        return decode(lambda content: layout_record.decode(content, next(places)), contents)

    def measure_once() -> Rates:
        fresh = LayoutSource(directory, preparation.TRAIN)
        first_epoch = read(pipeline.eval_dataset(fresh, batch_size))
        return {
            "input": read(training),
            "decode": decode(layout_record.decode, contents * passes),
            "batch_decode": decode_into_batches(contents * passes),
            "png": decode(layout_file.decode_layout, pngs),
            "first_epoch": first_epoch,
        }

    _serve(connection, measure_once)


def _serve_torch(connection: Connection, files: Sequence[Path], batch_size: int) -> None:
    try:
        loader = dataloader.open_loader(files, batch_size)
    except ImportError:
        _serve(connection, dict)
        return
    _serve(connection, lambda: {"torch": dataloader.images_per_second(loader)})
