"""How the training step's time grows with the batch and with the image: faster or slower than linearly?"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.sampling import Work
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.devices.mesh import MIB
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.results.benchmark_file import Spread
from imginav_jax.system.errors import RunError
from imginav_jax.system.progress import logger

BATCH_SIZES = (8, 16, 32, 64)  # of images as large as the config's
IMAGE_SIZES = (128, 256, 512)  # pixels a side, with as many images as make the config's pixels a batch


class Size(NamedTuple):
    """Of a batch."""

    batch_size: int
    image_size: int  # pixels a side

    @property
    def pixels(self) -> int:
        return self.batch_size * self.image_size**2


class Point(NamedTuple):
    """A training step with batches of one size; the names are keys of the JSON.

    Growth is measured by its seconds a pixel over those of the first point of its series, of every round's own times:
    1 is linear growth, less means that large batches or images are cheaper.  At one image size it is that of seconds
    an image.
    """

    batch_size: int
    image_size: int
    train_seconds_per_batch: Spread
    train_seconds_per_image: float
    train_seconds_per_pixel: float
    ratio_to_linear_growth: Spread


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Times all sizes in turns on the first device; those that its memory does not hold are left out."""
    series = {"batch_size": batch_series(config), "image_size": image_series(config)}
    works = _prepare(config, sorted({size for sizes in series.values() for size in sizes}))
    if not works:
        raise RunError("the memory holds none of these batches; try --config.model.remat=true")
    seconds = timing.time_in_turns("Scaling", timing.warm_up(works), rounds)
    return present({name: relate([size for size in sizes if size in works], seconds) for name, sizes in series.items()})


def batch_series(config: RawConfig) -> list[Size]:
    """Returns the batches of images as large as the config's."""
    return [Size(batch_size, config.data.image_size) for batch_size in BATCH_SIZES]


def image_series(config: RawConfig) -> list[Size]:
    """Returns the batches of as many pixels as the config's; at least one image each, however large."""
    pixels = Size(config.batch_size, config.data.image_size).pixels
    return [Size(max(1, pixels // image_size**2), image_size) for image_size in IMAGE_SIZES]


def relate(sizes: Sequence[Size], seconds: Mapping[Size, Sequence[float]]) -> list[Point]:
    """Returns the points of a series, from the seconds a step by round."""
    per_pixel = {size: [each / size.pixels for each in seconds[size]] for size in sizes}
    points = []
    for size in sizes:
        spread, growth = timing.spread(seconds[size]), timing.paired_ratio(per_pixel[size], per_pixel[sizes[0]])
        points.append(Point(*size, spread, spread.median / size.batch_size, spread.median / size.pixels, growth))
    return points


def present(points: Mapping[str, Sequence[Point]]) -> Measurement:
    """Returns values and tables, a series each."""
    header = ["image", "batch", "ms a step", "ms an image", "ns a pixel", "to linear growth"]
    tables = [table.align([header, *map(_row, series)]) for series in points.values()]
    values = {
        f"{name}_scaling": [timing.flatten(point._asdict()) for point in series] for name, series in points.items()
    }
    return Measurement(values, "\n\n".join(tables))


def _prepare(config: RawConfig, sizes: Sequence[Size]) -> dict[Size, Work]:
    """Returns the training steps that fit."""
    works, limit = {}, _memory_limit_mib()
    for size in sizes:
        changes = {"batch_size": size.batch_size, "data.image_size": size.image_size}
        prepared = autoencoder_cost.prepare(autoencoder_cost.fresh_experiment(config, changes), ("train",))
        program = prepared.programs["train"]
        needs = f"Batch of {size.batch_size} at {size.image_size}x{size.image_size}: {program.memory_mib:,.0f} MiB"
        if program.memory_mib > limit:
            logger.info("%s, too much for this device", needs)
        else:
            logger.info("%s, compiled in %.1f s", needs, program.compile_seconds)
            works[size] = prepared.works["train"]
    return works


def _memory_limit_mib() -> float:
    """Returns what the program may use of the device, or of the machine, where that is the device."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return (limit or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / MIB


def _row(point: Point) -> list[table.Cell]:
    milliseconds = 1e3 * point.train_seconds_per_batch.median, 1e3 * point.train_seconds_per_image
    sizes = f"{point.image_size}x{point.image_size}", point.batch_size
    return [*sizes, *milliseconds, 1e9 * point.train_seconds_per_pixel, point.ratio_to_linear_growth]
