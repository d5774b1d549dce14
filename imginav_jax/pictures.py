"""A person's pictures in and out: PNG files checked for a model, and figures written whole."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imginav_jax import atomic
from imginav_jax.datasets import layout_file
from imginav_jax.errors import UserError


def read_images(paths: Sequence[Path], image_size: int) -> UInt8[np.ndarray, "b size size 3"]:
    """The pixels of 8-bit RGB PNG files.

    Raises:
      UserError: a file is missing, damaged, or of another size or mode.
    """
    images = []
    for path in paths:
        content = layout_file.read_layout(path, image_size)
        layout_file.inspect_layout(path, content)
        images.append(layout_file.decode_layout(content))
    return np.stack(images)


def check_figure_path(path: Path, suffixes: Sequence[str]) -> None:
    """UserError unless the name ends as one of `suffixes`."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"--out is {path}, expected a name that ends in {' or '.join(suffixes)}")


def write_figure(path: Path, figure: Image.Image) -> None:
    """A PNG, replaced in one step and its folder made; UserError where it cannot be written."""
    _save(path, figure, format="PNG")


def write_animation(path: Path, frames: Sequence[UInt8[np.ndarray, "h w 3"]], milliseconds: int) -> None:
    """A GIF that repeats for ever, each frame shown so long; otherwise as `write_figure`."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    _save(path, first, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)


def _save(path: Path, picture: Image.Image, **options: Any) -> None:
    content = io.BytesIO()
    picture.save(content, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
