"""Evaluation over a whole split, and pictures of what the model makes of a few layouts."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from imginav_jax import metrics
from imginav_jax.batch import Batch
from imginav_jax.datasets import palette
from imginav_jax.model import Params
from imginav_jax.steps import EvalMetrics, Losses

_LINE_HEIGHT = 14  # pixels
_GAP = 4  # pixels between pictures
_OFF_PALETTE_COLOR = (0, 0, 0)
ERROR_GAIN = 4  # an error of 64 of 255 is white


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Means over every image of a split, each counted once."""

    losses: Losses
    room_scene_accuracy: float  # NaN without a classification head
    confusion: Int[np.ndarray, "classes classes"]  # pixels by [true, predicted]
    not_finite: list[int]  # images, by position in the split, of which a loss is infinite or NaN

    def columns(self) -> dict[str, float]:
        """The metrics of an epoch's row, by column name; NaN for a class neither present nor predicted."""
        iou = metrics.iou_per_class(self.confusion)
        return {
            "val_PSNR": metrics.psnr(self.losses.mse_rgb),
            "val_mIoU": metrics.mean_iou(self.confusion),
            "val_pixel_accuracy": metrics.pixel_accuracy(self.confusion),
            "val_room_scene_accuracy": self.room_scene_accuracy,
            **{f"val_IoU_{name}": float(value) for name, value in zip(palette.CLASS_NAMES, iou, strict=True)},
        }


def evaluate(eval_step: Callable[[Params, Batch], EvalMetrics], params: Params, batches: Iterable[Batch]) -> Evaluation:
    """Sums over images on the host in float64 and divides once, so batches and padding leave no trace.

    Raises:
      ValueError: there is no image.
    """
    results: list[EvalMetrics] = []
    pending = None
    for batch in batches:
        running = eval_step(params, batch)
        if pending is not None:  # fetched a batch late: the device never waits, and never holds many batches
            results.append(jax.device_get(pending))
        pending = running
    if pending is None:
        raise ValueError("an evaluation needs at least one batch")
    results.append(jax.device_get(pending))

    def kept(values: Sequence[Any]) -> np.ndarray:
        return np.concatenate([value[each.mask] for value, each in zip(values, results, strict=True)])

    def mean(values: Sequence[Any]) -> float:
        return float(kept(values).astype(np.float64).mean())

    has_room_scene = results[0].room_scene_correct is not None
    return Evaluation(
        Losses(*(mean(values) for values in zip(*(each.losses for each in results), strict=True))),
        mean([each.room_scene_correct for each in results]) if has_room_scene else math.nan,
        np.stack([each.confusion for each in results]).sum(0, dtype=np.int64),
        np.flatnonzero(~np.isfinite(kept([sum(each.losses) for each in results]))).tolist(),
    )


def spread_indices(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over `range(length)`."""
    return sorted({round(position) for position in np.linspace(0, length - 1, min(count, length))})


def color_classes(classes: UInt8[np.ndarray, "b h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    return palette.COLORS[classes]


def true_classes_in_color(images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
    """The ground truth of the segmentation; black where a pixel is off the palette and so has no class."""
    colors = np.array(_OFF_PALETTE_COLOR, np.uint8)
    return np.where(palette.on_palette(images)[..., None], images, colors)


def show_error(
    images: UInt8[np.ndarray, "b h w 3"], made: UInt8[np.ndarray, "b h w 3"]
) -> UInt8[np.ndarray, "b h w 3"]:
    """The mean absolute error over the three channels, times ERROR_GAIN: black where there is none."""
    error = np.abs(images.astype(np.float64) - made).mean(-1, keepdims=True) * ERROR_GAIN
    return np.repeat(error.clip(0, 255).astype(np.uint8), 3, -1)


def side_by_side(
    left: UInt8[np.ndarray, "b h w 3"],
    right: UInt8[np.ndarray, "b h w 3"],
    captions: tuple[str, str],
    title: Sequence[str] = (),
) -> Image.Image:
    """One row an image at full resolution: the left version and the right one, under captions and lines of title."""
    return picture_grid((left, right), captions, title)


def picture_grid(
    columns: Sequence[UInt8[np.ndarray, "b h w 3"]], captions: Sequence[str], title: Sequence[str] = ()
) -> Image.Image:
    """One row an image at full resolution, a column a version of it, under captions and lines of title."""
    count, height, width, _ = columns[0].shape
    top = _LINE_HEIGHT * (len(title) + 1)
    grid = Image.new("RGB", (len(columns) * (width + _GAP) - _GAP, top + count * (height + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(grid)
    for line, text in enumerate(title):
        draw.text((_GAP, line * _LINE_HEIGHT), text, fill="black")
    for column, (images, caption) in enumerate(zip(columns, captions, strict=True)):
        x = column * (width + _GAP)
        draw.text((x + _GAP, top - _LINE_HEIGHT), caption, fill="black")
        for row, image in enumerate(images):
            grid.paste(Image.fromarray(image), (x, top + row * (height + _GAP)))
    return grid
