"""The report's pictures of single layouts, at full size: what each run makes of the same ones."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from imginav_jax.datasets.pictures import ERROR_GAIN, color_classes, picture_grid, show_error, true_classes_in_color
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Result
from imginav_jax.report.measurement import structure
from imginav_jax.report.measurement.structure import WALL
from imginav_jax.report.measurement.subjects import RGB, SEGMENTATION, Predictions

_ZOOM = 8  # a crop's side is the image's divided by it
_KINDS = "best", "median", "worst"


class Extremes(NamedTuple):
    """Layouts by a metric, by their position in the split."""

    best: int
    median: int
    worst: int


@dataclasses.dataclass(frozen=True)
class Samples:
    """Some layouts, and what each run makes of them; rows are in the order of `indices`.

    Attributes:
      indices: positions in the split.
      layout_ids: their names.
      images: the originals.
      made: by run's label.
    """

    indices: list[int]
    layout_ids: list[str]
    images: UInt8[np.ndarray, "n h w 3"]
    made: Mapping[str, Predictions]

    @classmethod
    def make(
        cls,
        indices: Iterable[int],
        source: LayoutSource,
        reconstruct: Mapping[str, Callable[[UInt8[np.ndarray, "n h w 3"]], Predictions]],
    ) -> "Samples":
        chosen = sorted(set(indices))
        images = source.images(chosen)
        made = {label: run(images) for label, run in reconstruct.items()}
        return cls(chosen, [source.layout_id(index) for index in chosen], images, made)

    def row(self, index: int) -> int:
        return self.indices.index(index)


def layout_values(result: Result, metric: str) -> Float[np.ndarray, " layouts"]:
    """The metric of each layout alone; NaN where it has none."""
    return METRICS[metric].compute(result.layouts[RGB])


def find_extremes(results: Sequence[Result], metric: str) -> Extremes | None:
    """By the mean over the results; None where no layout has the metric."""
    values = np.mean([layout_values(result, metric) for result in results], 0)
    there = np.flatnonzero(~np.isnan(values))
    if not len(there):
        return None
    sign = 1 if METRICS[metric].is_better == "higher" else -1
    ordered = there[np.argsort(-sign * values[there], kind="stable")]
    return Extremes(int(ordered[0]), int(ordered[len(ordered) // 2]), int(ordered[-1]))


def draw_extremes(results: Sequence[Result], metric: str, found: Extremes, samples: Samples) -> Image.Image:
    """The best, the median and the worst layout, a row each: the original, and what each run makes of it."""
    rows = [samples.row(index) for index in found]
    columns = [samples.images[rows], *(made[RGB][rows] for made in samples.made.values())]
    title, digits = [METRICS[metric].label], METRICS[metric].digits
    values = {result.label: layout_values(result, metric) for result in results}
    for kind, index, row in zip(_KINDS, found, rows, strict=True):
        of_layout = [f"{label} {each[index]:.{digits}f}" for label, each in values.items()]
        title.append(f"{kind}: {samples.layout_ids[row]}, {', '.join(of_layout)}")
    return picture_grid(columns, ["original", *samples.made], title)


def draw_layout(index: int, samples: Samples) -> Image.Image:
    """One layout: original and every run at full size, their errors and class maps, and two crops enlarged.

    The crops are where all runs together go most wrong in walls and in small objects.
    """
    row = samples.row(index)
    image = samples.images[row]
    made = [{output: each[row] for output, each in outputs.items()} for outputs in samples.made.values()]
    pictures = [each[RGB] for each in made]
    errors = [show_error(image, picture) for picture in pictures]
    rows = [[image, *pictures], [np.full_like(image, 255), *errors]]
    if all(SEGMENTATION in each for each in made):
        true = true_classes_in_color(image)
        rows.append([true, *(color_classes(each[SEGMENTATION]) for each in made)])
    for wrong in _wrong_places(image, pictures):
        crop = _worst_window(wrong, image.shape[0] // _ZOOM)
        rows.append([_enlarge(each[crop]) for each in (image, *pictures)])
    title = [
        f"{samples.layout_ids[row]}; below: error x{ERROR_GAIN}, classes of the segmentation head,",
        f"the worst walls x{_ZOOM}, the worst small objects x{_ZOOM}",
    ]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return picture_grid(columns, ["original", *samples.made], title)


def _wrong_places(
    image: UInt8[np.ndarray, "h w 3"], pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """How many runs are wrong at each pixel of a wall, true or predicted, and of a small object."""
    true = structure.class_map(image)[1]
    small = structure.small_objects(true)
    predicted = [structure.class_map(picture)[1] for picture in pictures]
    walls = sum((each == WALL) != (true == WALL) for each in predicted)
    objects = sum(small & (each != true) for each in predicted)
    return np.asarray(walls, np.float64), np.asarray(objects, np.float64)


def _worst_window(wrong: Float[np.ndarray, "h w"], side: int) -> tuple[slice, slice]:
    """The square with the most in it; the middle one where there is nothing."""
    half, (height, width) = side // 2, wrong.shape
    inside = ndimage.uniform_filter(wrong, side, mode="constant")[half : height - half + 1, half : width - half + 1]
    place = np.unravel_index(inside.argmax(), inside.shape) if wrong.any() else (height // 2 - half, width // 2 - half)
    top, left = int(min(place[0], height - side)), int(min(place[1], width - side))
    return slice(top, top + side), slice(left, left + side)


def _enlarge(crop: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h*z w*z 3"]:
    return crop.repeat(_ZOOM, 0).repeat(_ZOOM, 1)
