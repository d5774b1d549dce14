"""Layouts as they are stored: every pixel comes back, on the palette or off it, and damage is noticed."""

import zlib

import numpy as np
import pytest

from conftest import random_layout
from imginav_jax.datasets import layout_record, palette


def test_a_record_by_hand():
    # Four pixels, of the classes 9, 8, 1 and 0, are one number.
    classes = [[9, 8], [1, 0]]
    content = layout_record.encode(palette.COLORS[np.array(classes)])
    header = np.array([2, 0, len(content) - 42], "<u4").tobytes()
    assert content[:42] == header + palette.COLORS.tobytes()
    assert zlib.decompress(content[42:]) == np.array([9810], "<u2").tobytes()


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


def test_a_record_keeps_its_own_palette(monkeypatch):
    image = random_layout(8)
    content = layout_record.encode(image)
    monkeypatch.setattr(palette, "COLORS", palette.COLORS[::-1])
    np.testing.assert_array_equal(layout_record.decode(content), image)
    assert layout_record.encode(image) != content


def test_damage_and_another_size_are_refused():
    content = layout_record.encode(random_layout(8))
    for damaged in (b"", content[:5], content[:-3], b"\x10" + content[1:], content[:50] + b"XX" + content[52:]):
        with pytest.raises(ValueError, match="damaged"):
            layout_record.decode(damaged)
    with pytest.raises(ValueError, match="not of 4x4 pixels"):
        layout_record.decode(content, np.empty((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="cut off"):
        layout_record.side(content[:5])
