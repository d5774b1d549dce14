"""The report's pictures of single layouts, at full size: what each run makes of the same ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from imginav_jax import evaluate
from imginav_jax.datasets.layout_file import decode_layout
from imginav_jax.input_pipeline import LayoutSource
from imginav_jax.report import structure
from imginav_jax.report.metric_table import METRICS
from imginav_jax.report.results import Result
from imginav_jax.report.structure import WALL
from imginav_jax.report.subjects import RGB, SEGMENTATION, Outputs

_ZOOM = 8  # a crop's side is the image's divided by it
_KINDS = "best", "median", "worst"

Reconstruct = Callable[[UInt8[np.ndarray, "b h w 3"]], Outputs]  # of one run


class Extremes(NamedTuple):
    """Layouts by a metric, by their position in the split."""

    best: int
    median: int
    worst: int


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


def draw_extremes(
    results: Sequence[Result], metric: str, runs: Mapping[str, Reconstruct], source: LayoutSource
) -> Image.Image | None:
    """The best, the median and the worst layout, a row each: the original, and what each run makes of it."""
    found = find_extremes(results, metric)
    if found is None:
        return None
    images = _read(source, found)
    columns = [images, *(reconstruct(images)[RGB] for reconstruct in runs.values())]
    title = []
    for kind, index in zip(_KINDS, found, strict=True):
        values = [
            f"{result.label} {layout_values(result, metric)[index]:.{METRICS[metric].digits}f}" for result in results
        ]
        title.append(f"{kind}: {source.layout_id(index)}, {', '.join(values)}")
    return evaluate.picture_grid(columns, ["original", *runs], [METRICS[metric].label, *title])


def draw_layout(index: int, runs: Mapping[str, Reconstruct], source: LayoutSource) -> Image.Image:
    """One layout: original and every run at full size, their errors and class maps, and two crops enlarged.

    The crops are where all runs together go most wrong in walls and in small objects.
    """
    (image,) = _read(source, [index])
    made = {label: {output: each[0] for output, each in run(image[None]).items()} for label, run in runs.items()}
    pictures = [each[RGB] for each in made.values()]
    errors = [evaluate.show_error(image, picture) for picture in pictures]
    rows = [[image, *pictures], [np.full_like(image, 255), *errors]]
    if all(SEGMENTATION in each for each in made.values()):
        true = evaluate.true_classes_in_color(image)
        rows.append([true, *(evaluate.color_classes(each[SEGMENTATION]) for each in made.values())])
    for wrong in _wrong_places(image, pictures):
        crop = _worst_window(wrong, image.shape[0] // _ZOOM)
        rows.append([_enlarge(each[crop]) for each in (image, *pictures)])
    title = [
        f"{source.layout_id(index)}; below: error x{evaluate.ERROR_GAIN}, classes of the segmentation head,",
        f"the worst walls x{_ZOOM}, the worst small objects x{_ZOOM}",
    ]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return evaluate.picture_grid(columns, ["original", *runs], title)


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


def _read(source: LayoutSource, indices: Sequence[int]) -> UInt8[np.ndarray, "b h w 3"]:
    return np.stack([decode_layout(source[index]["image"]) for index in indices])
