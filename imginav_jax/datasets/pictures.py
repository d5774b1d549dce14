"""A person's pictures in and out: PNG files checked for a model, and figures written whole."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from imginav_jax.datasets import layout_file, palette
from imginav_jax.system import files
from imginav_jax.system.errors import OptionError, UserError


def read_images(paths: Sequence[Path], image_size: int) -> UInt8[np.ndarray, "b size size 3"]:
    """Reads 8-bit RGB PNG files of image_size x image_size pixels and returns their pixels, in the order of `paths`.

    Raises:
      UserError: a file is missing, damaged, or of another size or mode.
    """
    images = []
    for path in paths:
        content = layout_file.read_layout(path, image_size)
        images.append(layout_file.decode_layout(path, content))
    return np.stack(images)


def check_figure_path(path: Path, suffixes: Sequence[str]) -> None:
    """Checks that a figure's name ends as one of `suffixes`, which are in lower case, as ".png".

    Raises:
      OptionError: it ends otherwise.
    """
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"--out is {path}, expected a name that ends in {' or '.join(suffixes)}")


def write_figure(path: Path, figure: Image.Image) -> None:
    """Writes a PNG in one step, over a file that is there, and makes its folder.

    Raises:
      UserError: it cannot be written.
    """
    _save(path, figure, format="PNG")


def write_animation(path: Path, frames: Sequence[UInt8[np.ndarray, "h w 3"]], milliseconds: int) -> None:
    """Writes a GIF that repeats for ever and shows each frame for `milliseconds`; otherwise as `write_figure`.

    Raises:
      UserError: it cannot be written.
    """
    first, *rest = (Image.fromarray(frame) for frame in frames)
    _save(path, first, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)


def _save(path: Path, picture: Image.Image, **options: Any) -> None:
    content = io.BytesIO()
    picture.save(content, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None


_LINE_HEIGHT = 14  # pixels
_GAP = 4  # pixels between pictures
_OFF_PALETTE_COLOR = (0, 0, 0)
ERROR_GAIN = 4  # an error of 64 of 255 is white


def spread_indices(length: int, count: int) -> list[int]:
    """Returns at most `count` indices, in order and evenly spread over `range(length)`."""
    return sorted({round(position) for position in np.linspace(0, length - 1, min(count, length))})


def color_classes(classes: UInt8[np.ndarray, "b h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns pictures in which each pixel has the palette's colour of its class."""
    return palette.COLORS[classes]


def true_classes_in_color(images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns the true segmentation as pictures: black where a pixel is off the palette and so has no class."""
    colors = np.array(_OFF_PALETTE_COLOR, np.uint8)
    return np.where(palette.on_palette(images)[..., None], images, colors)


def show_error(
    images: UInt8[np.ndarray, "b h w 3"], made: UInt8[np.ndarray, "b h w 3"]
) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns pictures of the mean absolute error over the three channels, times ERROR_GAIN: black where it is 0."""
    error = np.abs(images.astype(np.float64) - made).mean(-1, keepdims=True) * ERROR_GAIN
    return np.repeat(error.clip(0, 255).astype(np.uint8), 3, -1)


def side_by_side(
    left: UInt8[np.ndarray, "b h w 3"],
    right: UInt8[np.ndarray, "b h w 3"],
    captions: tuple[str, str],
    title: Sequence[str] = (),
) -> Image.Image:
    """Draws two versions of the same images as `picture_grid` does and returns the picture."""
    return picture_grid((left, right), captions, title)


def picture_grid(
    columns: Sequence[UInt8[np.ndarray, "b h w 3"]],
    captions: Sequence[str],
    title: Sequence[str] = (),
    row_captions: Sequence[str] = (),
) -> Image.Image:
    """Draws a row for each image and a column for each version of it, at full resolution, and returns the picture.

    Args:
      columns: the versions, all of the same shape.
      captions: one above each column.
      title: lines above the captions.
      row_captions: one above each row; none for rows without.
    """
    count, height, width, _ = columns[0].shape
    top, above = _LINE_HEIGHT * (len(title) + 1), _LINE_HEIGHT if row_captions else 0
    step = above + height + _GAP
    grid = Image.new("RGB", (len(columns) * (width + _GAP) - _GAP, top + count * step - _GAP), "white")
    draw = ImageDraw.Draw(grid)
    for line, text in enumerate(title):
        draw.text((_GAP, line * _LINE_HEIGHT), text, fill="black")
    for row, text in enumerate(row_captions):
        draw.text((_GAP, top + row * step), text, fill="black")
    for column, (images, caption) in enumerate(zip(columns, captions, strict=True)):
        x = column * (width + _GAP)
        draw.text((x + _GAP, top - _LINE_HEIGHT), caption, fill="black")
        for row, image in enumerate(images):
            grid.paste(Image.fromarray(image), (x, top + row * step + above))
    return grid


def write_picture(path: Path, picture: Image.Image) -> None:
    """Writes a PNG in one step into a folder that is there.

    Raises:
      OSError: it cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, format="PNG")
    files.write_atomically(path, content.getvalue())
