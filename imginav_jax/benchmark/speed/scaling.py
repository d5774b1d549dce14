"""How the training step's time grows with the batch and with the image: faster or slower than linearly?"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.program import Program
from imginav_jax.benchmark.sampling import Work
from imginav_jax.benchmark.timing import Measurement, spread_values
from imginav_jax.runs.benchmark_file import Spread
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError
from imginav_jax.system.progress import logger

BATCH_SIZES = (8, 16, 32, 64)  # of images as large as the config's
IMAGE_SIZES = (128, 256, 512)  # pixels a side, with as many images as make the config's pixels a batch
_MIB = 2**20


class Size(NamedTuple):
    """Of a batch."""

    batch_size: int
    image_size: int  # pixels a side

    @property
    def pixels(self) -> int:
        return self.batch_size * self.image_size**2


class Point(NamedTuple):
    """A training step with batches of one size.

    `growth` is its seconds a pixel over those of the first point of its series, of every round's own times: 1 is
    linear growth, less means that large batches or images are cheaper.  At one image size it is that of seconds an
    image.
    """

    size: Size
    seconds_per_batch: Spread
    growth: Spread


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Times all sizes in turns on the first device; those that its memory does not hold are left out.

    Raises:
      UserError: the config cannot be used.
      RunError: the memory holds none of them.
    """
    series = {"batch_size": batch_series(config), "image_size": image_series(config)}
    works = _prepare(config, sorted({size for sizes in series.values() for size in sizes}))
    if not works:
        raise RunError("the memory holds none of these batches; try --config.model.remat=true")
    seconds = timing.time_in_turns("Scaling", timing.warm_up(works), rounds)
    points = {name: relate([size for size in sizes if size in works], seconds) for name, sizes in series.items()}
    return Measurement(dump(points), render(points))


def batch_series(config: RawConfig) -> list[Size]:
    return [Size(batch_size, config.data.image_size) for batch_size in BATCH_SIZES]


def image_series(config: RawConfig) -> list[Size]:
    """At least one image a batch, however large."""
    pixels = Size(config.batch_size, config.data.image_size).pixels
    return [Size(max(1, pixels // image_size**2), image_size) for image_size in IMAGE_SIZES]


def relate(sizes: Sequence[Size], seconds: Mapping[Size, Sequence[float]]) -> list[Point]:
    """The points of a series, from the seconds a step by round."""
    per_pixel = {size: [each / size.pixels for each in seconds[size]] for size in sizes}
    return [
        Point(size, timing.spread(seconds[size]), timing.paired_ratio(per_pixel[size], per_pixel[sizes[0]]))
        for size in sizes
    ]


def dump(points: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    return {f"{name}_scaling": [_values(point) for point in series] for name, series in points.items()}


def render(points: Mapping[str, Sequence[Point]]) -> str:
    header = ["image", "batch", "ms a step", "ms an image", "ns a pixel", "to linear growth"]
    rows = [[_row(point) for point in series] for series in points.values()]
    return "\n\n".join(table.align([header, *each], text_columns=1) for each in rows)


def _prepare(config: RawConfig, sizes: Sequence[Size]) -> dict[Size, Work]:
    """The training steps that fit."""
    works, limit = {}, _memory_limit_mib()
    for size in sizes:
        changed = config.copy_and_resolve_references()
        changed.batch_size, changed.data.image_size = size
        batch = autoencoder_cost.synthetic_batch(*size, config.data.seed)
        prepared = autoencoder_cost.prepare(autoencoder_cost.fresh_experiment(changed), batch, ("train",))
        program: Program = prepared.programs["train"]
        needs = f"Batch of {size.batch_size} at {size.image_size}x{size.image_size}: {program.memory_mib:,.0f} MiB"
        if program.memory_mib > limit:
            logger.info("%s, too much for this device", needs)
        else:
            logger.info("%s, compiled in %.1f s", needs, program.compile_seconds)
            works[size] = prepared.works["train"]
    return works


def _memory_limit_mib() -> float:
    """What the program may use of the device, or of the machine, where that is the device."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return (limit or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / _MIB


def _values(point: Point) -> dict[str, Any]:
    size, seconds = point.size, point.seconds_per_batch
    return {
        "batch_size": size.batch_size,
        "image_size": size.image_size,
        **spread_values("train_seconds_per_batch", seconds),
        "train_seconds_per_image": seconds.median / size.batch_size,
        "train_seconds_per_pixel": seconds.median / size.pixels,
        **spread_values("ratio_to_linear_growth", point.growth),
    }


def _row(point: Point) -> list[str]:
    size, seconds = point.size, point.seconds_per_batch.median
    return [
        f"{size.image_size}x{size.image_size}",
        str(size.batch_size),
        table.show_number(1e3 * seconds),
        table.show_number(1e3 * seconds / size.batch_size),
        table.show_number(1e9 * seconds / size.pixels),
        table.show_spread(point.growth),
    ]
