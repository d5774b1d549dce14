"""A layout as the prepared data set stores it: its distinct chunks of pixels, and which one stands where.

Layouts are flat areas of few colours, so that a chunk of 32 bytes is mostly one of a few hundred.  Every pixel comes
back exactly, whatever its colour.  `python -m imginav_jax.benchmark --only=input` compares it with PNG files.
"""

import math
import struct
import zlib

import numpy as np
from jaxtyping import UInt8

_HEADER = struct.Struct("<II")  # pixels a side, distinct chunks
_CHUNK = 32  # bytes; the longest that NumPy's `take` moves at once
_LEVEL = 9  # smaller is also faster to decode


def encode(pixels: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """Packs an image of any size and returns its record."""
    chunks = np.ascontiguousarray(pixels).reshape(-1).view(_chunk_type(len(pixels))).tolist()
    numbers = {chunk: number for number, chunk in enumerate(dict.fromkeys(chunks))}
    places = np.array([numbers[chunk] for chunk in chunks], _number_type(len(numbers)))
    return _HEADER.pack(len(pixels), len(numbers)) + zlib.compress(b"".join(numbers) + places.tobytes(), _LEVEL)


def side(content: bytes) -> int:
    """Returns the height and width, in pixels, of the image that a record holds.

    Raises:
      ValueError: this is no record.
    """
    if len(content) < _HEADER.size:
        raise ValueError("a layout's record is damaged: it is cut off")
    return _HEADER.unpack_from(content)[0]


def decode(content: bytes, out: UInt8[np.ndarray, "size size 3"] | None = None) -> UInt8[np.ndarray, "size size 3"]:
    """Unpacks a record and returns its pixels, in `out` where it is given.

    Raises:
      ValueError: this is no whole record, or `out` is of another size or not contiguous.
    """
    size = side(content)
    _, count = _HEADER.unpack_from(content)
    chunk, number = _chunk_type(size), _number_type(count)
    try:
        raw = zlib.decompress(memoryview(content)[_HEADER.size :])
    except zlib.error as error:
        raise ValueError(f"a layout's record is damaged: {error}") from None
    if not count or len(raw) != count * chunk.itemsize + 3 * size**2 // chunk.itemsize * number.itemsize:
        raise ValueError(f"a layout's record is damaged: it holds no {count} chunks and {size}x{size} pixels")
    pixels = np.empty((size, size, 3), np.uint8) if out is None else out
    if pixels.shape != (size, size, 3):
        raise ValueError(f"a layout's record is of {size}x{size} pixels, not of {len(pixels)}x{len(pixels)} pixels")
    chunks, places = np.frombuffer(raw, chunk, count), np.frombuffer(raw, number, offset=count * chunk.itemsize)
    flat = np.reshape(pixels, -1, copy=False).view(chunk)
    np.take(chunks, places, out=flat, mode="clip")  # unchecked, which is faster: zlib's checksum vouches for them
    return pixels


def _chunk_type(size: int) -> np.dtype:
    """Returns the type of a chunk, the bytes that are moved together: 32 where `size` is a multiple of 8."""
    return np.dtype(f"V{math.gcd(3 * size**2, _CHUNK)}")


def _number_type(count: int) -> np.dtype:
    """Returns the smallest type that numbers so many chunks."""
    return np.min_scalar_type(count).newbyteorder("<")
