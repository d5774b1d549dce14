"""The palette of the layouts: ten classes, their colours, and labels from uint8 pixels.

Labels come from the raw pixels, never from scaled floats: truncating scaled values shifts dark channels by one
and loses whole classes.  Every function takes NumPy and JAX arrays alike and returns the same kind.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, UInt8

CLASSES: dict[str, tuple[int, int, int]] = {
    "bed": (228, 26, 28),
    "cabinet_shelf_desk": (55, 126, 184),
    "chair": (77, 175, 74),
    "lighting": (152, 78, 163),
    "others": (127, 127, 127),
    "pier_stool": (255, 127, 0),
    "sofa": (255, 255, 51),
    "table": (166, 86, 40),
    "wall": (200, 200, 200),
    "background": (240, 240, 240),
}

CLASS_NAMES: tuple[str, ...] = tuple(CLASSES)
COLORS: UInt8[np.ndarray, "classes 3"] = np.array(list(CLASSES.values()), np.uint8)
NUM_CLASSES = len(CLASS_NAMES)


def pack(pixels: UInt8[Any, "*shape 3"]) -> Int32[Any, "*shape"]:
    """Returns one integer for each pixel, 0xRRGGBB, so that its three channels are compared at once."""
    channels = pixels.astype(np.int32)
    return (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]


def one_hot(pixels: UInt8[Any, "*shape 3"]) -> Bool[Any, "*shape classes"]:
    """Returns True at the class whose colour the pixel has exactly; all False for a pixel off the palette."""
    codes = pack(COLORS).reshape((1,) * (pixels.ndim - 1) + (-1,))
    return pack(pixels)[..., None] == codes


def on_palette(pixels: UInt8[np.ndarray, "*shape 3"]) -> Bool[np.ndarray, "*shape"]:
    """Returns True where the pixel has exactly one of the ten colours (on the host)."""
    return np.isin(pack(pixels), pack(COLORS))
