"""A layout as the prepared data set stores it: four pixels a number, by class, and apart from them what has no class.

Every pixel comes back exactly.  `python -m imginav_jax.benchmark --only=input` compares it with PNG files.
"""

import functools
import itertools
import struct
import zlib

import numpy as np
from jaxtyping import UInt8

from imginav_jax.datasets import palette

_HEADER = struct.Struct("<III")  # pixels a side, pixels off the palette, bytes of the compressed class map
_TOGETHER = 4  # pixels in a number, which is below 10**4
_PLACE_VALUES = palette.NUM_CLASSES ** np.arange(_TOGETHER)[::-1]
_LEVEL = 9  # smaller is also faster to decode


def encode(pixels: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """The record of an image with an even side; it holds the palette too."""
    off_palette = np.flatnonzero(~palette.on_palette(pixels))
    classes = _classes(pixels).reshape(-1, _TOGETHER)
    numbers = (classes * _PLACE_VALUES).sum(1).astype("<u2")
    compressed = zlib.compress(numbers.tobytes(), _LEVEL)
    colors = pixels.reshape(-1, 3)[off_palette]
    header = _HEADER.pack(len(pixels), len(off_palette), len(compressed))
    rest = zlib.compress(off_palette.astype("<u4").tobytes() + colors.tobytes()) if len(off_palette) else b""
    return header + palette.COLORS.tobytes() + compressed + rest


def side(content: bytes) -> int:
    """Pixels; ValueError where this is no record."""
    if len(content) < _HEADER.size:
        raise ValueError("a layout's record is damaged: it is cut off")
    return _HEADER.unpack_from(content)[0]


def decode(content: bytes, out: UInt8[np.ndarray, "size size 3"] | None = None) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of a record, in `out` where it is given.

    Raises:
      ValueError: this is no whole record, or of another size than `out`.
    """
    try:
        size, off_palette, length = _HEADER.unpack_from(content)
        start = _HEADER.size + palette.COLORS.nbytes
        raw = zlib.decompress(content[start : start + length], bufsize=2 * size**2 // _TOGETHER)
        rest = zlib.decompress(content[start + length :]) if off_palette else b""
    except (struct.error, zlib.error) as error:
        raise ValueError(f"a layout's record is damaged: {error}") from None
    pixels = np.empty((size, size, 3), np.uint8) if out is None else out
    numbers = np.frombuffer(raw, "<u2")
    if pixels.shape != (size, size, 3) or len(numbers) * _TOGETHER != size**2 or len(rest) != 7 * off_palette:
        raise ValueError(f"a layout's record is damaged or not of {len(pixels)}x{len(pixels)} pixels")
    table = _table(content[_HEADER.size : start])
    np.take(table, numbers, out=pixels.reshape(-1).view(table.dtype), mode="clip")
    if off_palette:
        colors = np.frombuffer(rest, np.uint8, offset=4 * off_palette).reshape(-1, 3)
        pixels.reshape(-1, 3)[np.frombuffer(rest, "<u4", off_palette)] = colors
    return pixels


def _classes(pixels: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, " pixels"]:
    """0 where there is none."""
    packed, found = palette.pack(pixels).ravel(), np.zeros(pixels.shape[0] * pixels.shape[1], np.uint8)
    for number, color in enumerate(palette.pack(palette.COLORS)):
        found[packed == color] = number
    return found


@functools.lru_cache(maxsize=2)
def _table(colors: bytes) -> np.ndarray:
    """The bytes of four pixels, by their number."""
    rows = np.frombuffer(colors, np.uint8).reshape(-1, 3)
    fours = np.array(list(itertools.product(range(len(rows)), repeat=_TOGETHER)))
    return np.ascontiguousarray(rows[fours].reshape(-1, 3 * _TOGETHER)).view(f"V{3 * _TOGETHER}").ravel()
