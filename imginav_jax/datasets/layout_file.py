"""One layout file: checked by its header before anything is decoded, then by its pixels."""

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imginav_jax.datasets import palette
from imginav_jax.errors import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}
_RGB = 2


class Pixels(NamedTuple):
    digest: str  # SHA-256 of the decoded pixels: equal for exact duplicates, whatever their compression
    off_palette: int  # pixels whose colour is none of the palette's


def read_layout(path: Path, image_size: int) -> bytes:
    """The bytes of an 8-bit RGB PNG of image_size x image_size, without decoding them.

    Raises:
      UserError: missing, unreadable, not such a PNG by its header, or too large a file to be one.
    """
    limit = 2**20 + 6 * image_size**2  # twice the raw pixels, and room for other chunks
    try:
        with path.open("rb") as file:
            _check_header(path, file.read(26), image_size)
            file.seek(0)
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit / 2**20:.1f} MiB, too much for {image_size}x{image_size} pixels")
    return content


def _check_header(path: Path, header: bytes, image_size: int) -> None:
    if not header:
        raise UserError(f"{path} is empty, expected a PNG image")
    if header[:8] != _SIGNATURE:
        raise UserError(f"{path} is not a PNG image")
    if len(header) < 26 or header[12:16] != b"IHDR":
        raise UserError(f"{path} is a truncated PNG image")
    width, height, depth, color_type = struct.unpack(">IIBB", header[16:26])
    if (width, height) != (image_size, image_size):
        raise UserError(f"{path} is {width}x{height}, expected {image_size}x{image_size} (data.image_size)")
    if (depth, color_type) != (8, _RGB):
        kind = _COLOR_TYPES.get(color_type, f"colour type {color_type}")
        raise UserError(f"{path} is a PNG with {depth}-bit {kind} pixels, expected 8-bit RGB")


def decode_layout(content: bytes) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of a PNG that `read_layout` has returned."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return np.array(image.convert("RGB"))


def inspect_layout(path: Path, content: bytes) -> Pixels:
    """Decodes the whole image.

    Raises:
      UserError: the pixels are truncated or damaged, or one colour is declared transparent.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
            transparent = "transparency" in image.info
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is truncated or damaged: {error}") from None
    if transparent:
        raise UserError(f"{path} has a transparent colour, expected RGB without alpha")
    off_palette = int((~palette.on_palette(pixels)).sum())
    return Pixels(hashlib.sha256(pixels.tobytes()).hexdigest(), off_palette)
