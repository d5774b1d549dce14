"""What is demanded of a drawing, read off a layout's classes: where walls are, and what is there."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

from imginav_jax.control.settings import Condition
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.models.diffusion.unet import DemandShape
from imginav_jax.report.measurement import demand, realism, structure

_AT_ONCE = 64  # layouts in memory as pixels
_MASKS = 2  # walls, and the outer boundary
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Demands:
    """What layouts demand, for every latent's grid.

    Attributes:
      classes: of every pixel.
      masks: walls and outer boundary, eight columns a byte.
      contents: presence and number of each class of furniture.
      small: some pixels' classes, by which copies are found.
    """

    classes: UInt8[np.ndarray, "n h w"] | None
    masks: UInt8[np.ndarray, "n 2 h w/8"]
    contents: Float[np.ndarray, "n v"]
    small: UInt8[np.ndarray, "n pixels"]

    def cells(self, grid: tuple[int, int]) -> UInt8[np.ndarray, "n rows columns bytes"]:
        """Returns the masks by a latent's cells, eight values a byte: space to depth, so that no grid loses any."""
        return np.stack([pack(np.unpackbits(each, axis=-1).astype(bool), grid) for each in self.masks])


def pack(masks: Bool[np.ndarray, "2 h w"], grid: tuple[int, int]) -> UInt8[np.ndarray, "rows columns bytes"]:
    """Returns the pixels of each cell as channels, eight a byte; a cell has a multiple of 2x2 pixels."""
    number, height, width = masks.shape
    rows, columns = grid
    cells = masks.reshape(number, rows, height // rows, columns, width // columns).transpose(1, 3, 2, 4, 0)
    return np.packbits(cells.reshape(rows, columns, -1), axis=-1)


def shape_of(condition: Condition, grid: tuple[int, int], image_size: int, contents: int) -> DemandShape:
    """Returns how many numbers a ControlNet gets; 0 for what the condition does not say."""
    channels = _MASKS * (image_size // grid[0]) * (image_size // grid[1])
    return DemandShape(0 if condition == "contents" else channels, 0 if condition == "walls" else contents)


def read(source: LayoutSource, indices: Sequence[int], pool: Executor, *, keep_classes: bool) -> Demands:
    """Returns what layouts of a split demand; `keep_classes` for those whose drawings are judged."""
    found = list(_map(functools.partial(describe, keep_classes=keep_classes), source, indices, pool))
    columns = [np.stack(column) for column in zip(*found, strict=True)]
    return Demands(
        classes=columns[0] if keep_classes else None, masks=columns[1], contents=columns[2], small=columns[3]
    )


def read_features(source: LayoutSource, indices: Sequence[int], pool: Executor) -> Float[np.ndarray, "n features"]:
    """Returns the statistics of layouts of a split, by which realism is judged."""
    return np.stack(list(_map(_read_features, source, indices, pool)))


def _map(
    function: Callable[[np.ndarray], _Result], source: LayoutSource, indices: Sequence[int], pool: Executor
) -> Iterator[_Result]:
    for start in range(0, len(indices), _AT_ONCE):
        yield from pool.map(function, source.images(indices[start : start + _AT_ONCE]), chunksize=8)


def _read_features(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " features"]:
    return realism.features(structure.class_map(image)[1])


def describe(image: UInt8[np.ndarray, "h w 3"], keep_classes: bool) -> tuple[np.ndarray, ...]:
    """Returns a layout's classes (empty if they are not kept), masks, contents and some pixels."""
    classes = structure.class_map(image)[1]
    masks = np.packbits(np.stack([demand.wall_mask(classes), demand.outer_boundary(classes)]), axis=-1)
    kept = classes if keep_classes else np.zeros(0, np.uint8)
    return kept, masks, demand.contents(classes).astype(np.float32), realism.shrink(classes)
