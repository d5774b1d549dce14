"""The report's pictures of single layouts, at full size: what each run makes of the same ones."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from imginav_jax.datasets.pictures import color_classes, picture_grid, true_classes_in_color
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Result
from imginav_jax.report.measurement import structure
from imginav_jax.report.measurement.structure import WALL
from imginav_jax.report.measurement.subjects import RGB, SEGMENTATION, Predictions

_ZOOM = 8  # a crop's side is the image's divided by it
_KINDS = "best", "median", "worst"
_FRAMES = {"wall": ("red", (204, 0, 0)), "small object": ("blue", (0, 70, 255))}  # told apart without red or green


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
    """Returns the metric of each layout alone; NaN where it has none."""
    return METRICS[metric].compute(result.layouts[RGB])


def find_extremes(results: Sequence[Result], metric: str) -> Extremes | None:
    """Finds the extremes by the mean over the results; None where no layout has the metric."""
    values = np.mean([layout_values(result, metric) for result in results], 0)
    there = np.flatnonzero(~np.isnan(values))
    if not len(there):
        return None
    sign = 1 if METRICS[metric].is_better == "higher" else -1
    ordered = there[np.argsort(-sign * values[there], kind="stable")]
    return Extremes(int(ordered[0]), int(ordered[len(ordered) // 2]), int(ordered[-1]))


def describe_extremes(results: Sequence[Result], metric: str, found: Extremes, samples: Samples) -> list[str]:
    """Returns a line for the best, the median and the worst layout: its name, and each run's value of the metric."""
    digits = METRICS[metric].digits
    values = {result.label: layout_values(result, metric) for result in results}
    return [
        f"{kind}: {samples.layout_ids[samples.row(index)]}; "
        + ", ".join(f"{label} {each[index]:.{digits}f}" for label, each in values.items())
        for kind, index in zip(_KINDS, found, strict=True)
    ]


def draw_extremes(results: Sequence[Result], metric: str, found: Extremes, samples: Samples) -> Image.Image:
    """Draws the best, the median and the worst layout, a row each: the original, and what runs make of it."""
    rows = [samples.row(index) for index in found]
    columns = [samples.images[rows], *(made[RGB][rows] for made in samples.made.values())]
    lines = describe_extremes(results, metric, found, samples)
    return picture_grid(columns, ["original", *samples.made], [METRICS[metric].label], lines)


class LayoutPicture(NamedTuple):
    """A layout's picture, and what each of its rows shows."""

    picture: Image.Image
    rows: list[str]


def draw_layout(index: int, samples: Samples) -> LayoutPicture:
    """Draws one layout: original and every run at full size, their errors and class maps, and crops enlarged.

    The crops are where all runs together miss most of the walls, and of the small objects; there is none of what no run
    misses.
    """
    row = samples.row(index)
    image = samples.images[row]
    made = [{output: each[row] for output, each in outputs.items()} for outputs in samples.made.values()]
    pictures = [each[RGB] for each in made]
    crops = _find_crops(image, pictures)
    framed = [_frame(each, crops) for each in (image, *pictures)]
    errors, largest = _show_errors(image, pictures)
    rows = {
        f"{samples.layout_ids[row]}: the original and its reconstructions": framed,
        f"error, mean of the channels: black 0, middle gray {largest / 4:.0f}, white {largest:.0f} of 255": [
            np.full_like(image, 255),
            *errors,
        ],
    }
    if all(SEGMENTATION in each for each in made):
        true = true_classes_in_color(image)
        rows["classes of the segmentation head"] = [true, *(color_classes(each[SEGMENTATION]) for each in made)]
    for what, crop in crops.items():
        enlarged = [_enlarge(each[crop]) for each in (image, *pictures)]
        rows[f"{_FRAMES[what][0]} frame, x{_ZOOM}: a {what} that is missed"] = enlarged
    columns = [np.stack(column) for column in zip(*rows.values(), strict=True)]
    return LayoutPicture(picture_grid(columns, ["original", *samples.made], (), list(rows)), list(rows))


def _find_crops(
    image: UInt8[np.ndarray, "h w 3"], pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> dict[str, tuple[slice, slice]]:
    """Where most of the true walls is missed, and the small object that is missed most, over all runs."""
    true, side = structure.class_map(image)[1], image.shape[0] // _ZOOM
    predicted = [structure.class_map(picture)[1] for picture in pictures]
    wrong = np.stack([each != true for each in predicted]).sum(0, dtype=np.float64)
    crops = {}
    walls = wrong * (true == WALL)
    if walls.any():
        crops["wall"] = _worst_window(walls, side)
    small = structure.small_objects(true)
    if (wrong * small).any():
        crops["small object"] = _worst_object(wrong, np.where(small, true, WALL), side)
    return crops


def _worst_object(wrong: Float[np.ndarray, "h w"], classes: UInt8[np.ndarray, "h w"], side: int) -> tuple[slice, slice]:
    """The square around the object that is missed most, of all that are no wall; one larger than it counts for less."""
    found = []
    for kind in set(np.unique(classes)) - {WALL}:
        labels: Int[np.ndarray, "h w"]
        labels, _ = ndimage.label(classes == kind, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]  # a pair
        for number, box in enumerate(ndimage.find_objects(labels), 1):
            extent = max(each.stop - each.start for each in box)
            missed = wrong[labels == number].mean() * min(1.0, side / extent)
            found.append((missed, [(each.start + each.stop - side) // 2 for each in box]))
    _, corner = max(found)
    top, left = (min(max(start, 0), length - side) for start, length in zip(corner, wrong.shape, strict=True))
    return slice(top, top + side), slice(left, left + side)


def _show_errors(
    image: UInt8[np.ndarray, "h w 3"], pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], float]:
    """Returns errors in gray, by their square root on one scale for all, and the largest, of 255, which is white."""
    errors = [np.abs(image.astype(np.float64) - each).mean(-1, keepdims=True) for each in pictures]
    largest = max(float(np.max(errors)), 1.0)
    return [np.repeat(np.rint(255 * np.sqrt(each / largest)).astype(np.uint8), 3, -1) for each in errors], largest


def _frame(image: UInt8[np.ndarray, "h w 3"], crops: Mapping[str, tuple[slice, slice]]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture with a frame around each place that is enlarged."""
    picture = Image.fromarray(image)
    draw, side = ImageDraw.Draw(picture), image.shape[0]
    for what, (rows, columns) in crops.items():
        box = [max(columns.start - 1, 0), max(rows.start - 1, 0), min(columns.stop, side - 1), min(rows.stop, side - 1)]
        draw.rectangle(box, outline=_FRAMES[what][1], width=1 + side // 256)
    return np.asarray(picture)


def _worst_window(wrong: Float[np.ndarray, "h w"], side: int) -> tuple[slice, slice]:
    """The square with the most in it."""
    half, (height, width) = side // 2, wrong.shape
    inside = ndimage.uniform_filter(wrong, side, mode="constant")[half : height - half + 1, half : width - half + 1]
    place = np.unravel_index(inside.argmax(), inside.shape)
    top, left = int(min(place[0], height - side)), int(min(place[1], width - side))
    return slice(top, top + side), slice(left, left + side)


def _enlarge(crop: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h*z w*z 3"]:
    return crop.repeat(_ZOOM, 0).repeat(_ZOOM, 1)
