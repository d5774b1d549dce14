"""Layouts as they are stored: every pixel comes back, on the palette or off it, and damage is noticed."""

import zlib

import numpy as np
import pytest

from helpers import random_layout
from imginav_jax.datasets import layout_record


def test_a_record_by_hand():
    # 4x4 pixels are 48 bytes: three chunks of 16, of which the first and the last are the same.
    pixels = np.array([[7] * 16, [8] * 16, [7] * 16], np.uint8).reshape(4, 4, 3)
    content = layout_record.encode(pixels)
    assert content[:8] == bytes([4, 0, 0, 0, 2, 0, 0, 0])
    assert zlib.decompress(content[8:]) == b"\x07" * 16 + b"\x08" * 16 + bytes([0, 1, 0])


@pytest.mark.parametrize("foreign", [0, 1, 300, 1024])
def test_every_pixel_comes_back_whatever_its_colour(foreign):
    image, random = random_layout(32), np.random.default_rng(foreign)
    places = random.permutation(1024)[:foreign]
    image.reshape(-1, 3)[places] = random.integers(0, 256, (foreign, 3))
    content, out = layout_record.encode(image), np.full((32, 32, 3), 77, np.uint8)
    np.testing.assert_array_equal(layout_record.decode(content), image)
    assert layout_record.decode(content, out) is out
    np.testing.assert_array_equal(out, image)
    assert layout_record.side(content) == 32


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 8, 12, 40])
@pytest.mark.parametrize("colors", [1, 2, 256])
def test_images_of_every_size_come_back(size, colors):
    image = np.random.default_rng(size).integers(0, colors, (size, size, 3), np.uint8)
    np.testing.assert_array_equal(layout_record.decode(layout_record.encode(image)), image)


def test_more_chunks_than_two_bytes_number_come_back():
    image = np.random.default_rng(0).integers(0, 256, (840, 840, 3), np.uint8)
    assert image.nbytes // 32 > 2**16
    np.testing.assert_array_equal(layout_record.decode(layout_record.encode(image)), image)


def test_damage_and_another_size_are_refused():
    content = layout_record.encode(random_layout(8))
    for damaged in (b"", content[:5], content[:-3], b"\x10" + content[1:], content[:20] + b"XX" + content[22:]):
        with pytest.raises(ValueError, match="damaged"):
            layout_record.decode(damaged)
    with pytest.raises(ValueError, match="holds no 0 chunks"):
        layout_record.decode(bytes([8, 0, 0, 0, 0, 0, 0, 0]) + zlib.compress(bytes(6)))
    with pytest.raises(ValueError, match="copy"):
        layout_record.decode(content, np.empty((16, 8, 3), np.uint8)[::2])
    with pytest.raises(ValueError, match="not of 4x4 pixels"):
        layout_record.decode(content, np.empty((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="cut off"):
        layout_record.side(content[:5])
