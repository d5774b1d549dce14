"""One layout file: checked by its header before anything is decoded, then by its pixels.

Only chunks that decide pixels are looked at: texts, profiles and dates do no harm, however large or damaged they are.
"""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imginav_jax.datasets import palette
from imginav_jax.system.errors import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}
_HEADER = b"IHDR"
_RGB = 2
_ANCILLARY = 0x20  # bit of a chunk's first letter: a decoder may pass over it


class Pixels(NamedTuple):
    """What the pixels of a layout are, for the split and the facts of a data set."""

    digest: str  # SHA-256 of the decoded pixels: equal for exact duplicates, whatever their compression
    off_palette: int  # pixels whose colour is none of the palette's


def read_layout(path: Path, image_size: int) -> bytes:
    """Returns the bytes of an 8-bit RGB PNG of image_size x image_size pixels, without decoding them.

    A file that is large by its texts and profiles comes back without them.

    Raises:
      UserError: missing, unreadable, not such a PNG by its header, or too large a file to be one.
    """
    limit = 2**20 + 6 * image_size**2  # twice the raw pixels, and room for other chunks
    try:
        with path.open("rb") as file:
            _check_header(path, file.read(26), image_size)
            file.seek(0)
            content = file.read(limit + 1)
            if len(content) > limit:
                file.seek(0)
                content = _read_pixel_chunks(file, limit)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if content is None:
        raise UserError(f"{path} is larger than {limit / 2**20:.1f} MiB, too much for {image_size}x{image_size} pixels")
    return content


def _check_header(path: Path, header: bytes, image_size: int) -> None:
    if not header:
        raise UserError(f"{path} is empty, expected a PNG image")
    if header[:8] != _SIGNATURE:
        raise UserError(f"{path} is not a PNG image")
    if len(header) < 26 or header[12:16] != _HEADER:
        raise UserError(f"{path} is a truncated PNG image")
    width, height, depth, color_type = struct.unpack(">IIBB", header[16:26])
    if (width, height) != (image_size, image_size):
        raise UserError(f"{path} is {width}x{height}, expected {image_size}x{image_size} (data.image_size)")
    if (depth, color_type) != (8, _RGB):
        kind = _COLOR_TYPES.get(color_type, f"colour type {color_type}")
        raise UserError(f"{path} is a PNG with {depth}-bit {kind} pixels, expected 8-bit RGB")


def _read_pixel_chunks(file: BinaryIO, limit: int) -> bytes | None:
    """Returns a PNG without the chunks that decide no pixel; None where more than `limit` bytes are left.

    Raises:
      ValueError: a chunk's checksum is wrong, or there is a second header, by which a decoder might go.
    """
    parts, size = [file.read(len(_SIGNATURE))], len(_SIGNATURE)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind.isalpha() and kind[0] & _ANCILLARY and kind != b"tRNS":
            file.seek(length + 4, os.SEEK_CUR)
            continue
        if kind == _HEADER and len(parts) > 1:
            raise ValueError("it has a second header")
        size += 12 + length
        if size > limit:
            return None
        rest = file.read(length + 4)
        if len(rest) == length + 4 and zlib.crc32(kind + rest[:-4]) != int.from_bytes(rest[-4:], "big"):
            raise ValueError(f"the checksum of its chunk {kind.decode('latin-1')!r} is wrong")
        parts += head, rest
        if kind == b"IEND":
            start = file.tell()
            behind = file.seek(0, os.SEEK_END) - start
            return None if size + behind > limit else b"".join(parts)
    return b"".join(parts)


def _open(content: bytes) -> Image.Image:
    """Opens an image of the size that its first header says, which was checked.

    Raises:
      ValueError: there is more to decode.
    """
    chunks = _read_pixel_chunks(io.BytesIO(content), len(content))
    image = Image.open(io.BytesIO(chunks or content), formats=["PNG"])
    size = struct.unpack(">II", content[16:24])
    if image.size != size:
        raise ValueError(f"it is {size[0]}x{size[1]} by its header and {image.width}x{image.height} to decode")
    return image


def decode_layout(path: Path, content: bytes) -> UInt8[np.ndarray, "size size 3"]:
    """Returns the pixels of a PNG that `read_layout` has returned; `path` is for messages alone.

    Raises:
      UserError: the pixels are truncated or damaged, or one colour is declared transparent.
    """
    try:
        with _open(content) as image:
            image.load()
            transparent = "transparency" in image.info
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is truncated or damaged: {error}") from None
    if transparent:
        raise UserError(f"{path} has a transparent colour, expected RGB without alpha")
    return pixels


def describe(pixels: UInt8[np.ndarray, "size size 3"]) -> Pixels:
    """Returns the digest of a layout's pixels, and how many of them are off the palette."""
    off_palette = int((~palette.on_palette(pixels)).sum())
    return Pixels(hashlib.sha256(pixels.tobytes()).hexdigest(), off_palette)


def inspect_layout(path: Path, content: bytes) -> Pixels:
    """Decodes a layout and returns what `describe` says of it; raises as `decode_layout` does."""
    return describe(decode_layout(path, content))
