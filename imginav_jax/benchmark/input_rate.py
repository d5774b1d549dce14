"""How many layouts a second one core makes ready for the device, and what else a core could do with them.

    python -m imginav_jax.benchmark.input_rate --config=configs/phase1_2.py:R1

Three works take turns, on synthetic layouts of the config's size: the input pipeline, from records on disk to uint8
batches on the device; the decoder alone, on records in memory; and, where PyTorch is installed, a DataLoader that
opens the PNG files with Pillow, and makes float32 images and class labels of them.  Each process has one core.
"""

import contextlib
import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

from absl import app, flags
from ml_collections import config_flags

from imginav_jax import command_line, experiment
from imginav_jax.benchmark import torch_dataloader
from imginav_jax.datasets import preparation
from imginav_jax.errors import RunError
from imginav_jax.experiment import Config
from imginav_jax.progress import log_to_stdout, logger

_LAYOUTS = 320  # drawn
_IMAGES = 1024  # about as many are read in a sample, in several epochs

Rates = Mapping[str, float]  # images a second, by work


class InputRate(NamedTuple):
    """Medians of the rounds, ratios of every round's own."""

    image_size: int  # pixels a side
    input_images_per_second_per_core: float
    first_epoch_images_per_second_per_core: float  # before the packed layouts are in memory
    decode_images_per_second_per_core: float
    torch_dataloader_images_per_second_per_core: float | None  # None where PyTorch is missing
    input_to_decode: float
    input_to_torch_dataloader: float | None


def measure(config: Config, rounds: int, layouts: int = _LAYOUTS, images: int = _IMAGES) -> InputRate:
    """Draws and prepares layouts in a temporary folder, and times `rounds` turns on one core.

    Args:
      config: its image size and batch size count.
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
        ours = stack.enter_context(_worker(_serve_pipeline, directory, batch_size, images))
        theirs = stack.enter_context(_worker(_serve_torch, Path(folder), batch_size))
        found = [{**ours(), **theirs()} for _ in range(rounds + 1)][1:]  # the first turn warms up
    return _summarize(config.data.image_size, found)


def _summarize(image_size: int, rounds: list[dict[str, float]]) -> InputRate:
    def rate(name: str) -> float:
        return median(each[name] for each in rounds)

    def ratio(name: str) -> float:
        return median(each["input"] / each[name] for each in rounds)

    torch = (rate("torch"), ratio("torch")) if "torch" in rounds[0] else (None, None)
    return InputRate(
        image_size, rate("input"), rate("first_epoch"), rate("decode"), torch[0], ratio("decode"), torch[1]
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


def _serve_pipeline(connection: Connection, directory: Path, batch_size: int, images: int) -> None:
    import jax

    from imginav_jax import input_pipeline
    from imginav_jax.datasets import layout_record

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    source = input_pipeline.LayoutSource(directory, preparation.TRAIN)
    contents = [source.packed(index).image for index in range(len(source))]
    passes = max(1, round(images / len(source)))

    def read(source: input_pipeline.LayoutSource, epochs: int) -> float:
        start, count = time.perf_counter(), 0
        for batch in input_pipeline.prefetch(input_pipeline.train_dataset(source, batch_size, epochs, 0), sharding):
            jax.block_until_ready(batch.image)
            count += len(batch.image)
        return count / (time.perf_counter() - start)

    def decode() -> float:
        start = time.perf_counter()
        for content in contents * passes:
            layout_record.decode(content)
        return len(contents) * passes / (time.perf_counter() - start)

    def measure_once() -> Rates:
        fresh = input_pipeline.LayoutSource(directory, preparation.TRAIN)
        return {"input": read(source, passes), "decode": decode(), "first_epoch": read(fresh, 1)}

    _serve(connection, measure_once)


def _serve_torch(connection: Connection, folder: Path, batch_size: int) -> None:
    """Finds the PNG files in the folder."""
    try:
        loader = torch_dataloader.open_loader(sorted(folder.rglob("*.png")), batch_size)
    except ImportError:
        _serve(connection, dict)
        return
    _serve(connection, lambda: {"torch": torch_dataloader.images_per_second(loader)})


_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and experiment, configs/phase1_2.py:R1")


def main(argv: list[str]) -> None:
    log_to_stdout()
    try:
        found = measure(_CONFIG.value, 5)
    except RunError as error:
        sys.exit(f"error: {error}")
    for name, value in found._asdict().items():
        logger.info("%-44s %s", name, value if value is None else f"{value:,.2f}")


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(command_line.parse_flags, _CONFIG))
