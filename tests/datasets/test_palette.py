"""Labels come from the raw pixels: every colour labels as itself, anything else as nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imginav_jax.datasets import palette

DESIGN = """bed 228,26,28 · cabinet_shelf_desk 55,126,184 · chair 77,175,74 · lighting 152,78,163 · others 127,127,127 ·
pier_stool 255,127,0 · sofa 255,255,51 · table 166,86,40 · wall 200,200,200 · background 240,240,240"""


def test_classes_and_colours_are_those_of_the_experiment():
    expected = [part.split() for part in DESIGN.replace("\n", " ").split("·")]
    assert tuple(name for name, _ in expected) == palette.CLASS_NAMES
    assert palette.COLORS.tolist() == [[int(value) for value in color.split(",")] for _, color in expected]


def test_every_colour_labels_as_itself():
    labels = palette.one_hot(palette.COLORS)
    np.testing.assert_array_equal(labels, np.eye(10, dtype=bool))
    np.testing.assert_array_equal(jax.jit(palette.one_hot)(jnp.asarray(palette.COLORS)), labels)


@settings(max_examples=300)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_pixel_has_the_class_of_its_exact_colour_or_none(color):
    expected = [color == tuple(each) for each in palette.COLORS.tolist()]
    pixel = np.array([[color]], np.uint8)
    assert palette.one_hot(pixel)[0, 0].tolist() == expected
    assert bool(palette.on_palette(pixel)[0, 0]) == any(expected)


def test_a_neighbouring_colour_has_no_label():
    for delta in (-1, 1):
        off = (palette.COLORS.astype(int) + np.array([delta, 0, 0])).clip(0, 255).astype(np.uint8)
        changed = (off != palette.COLORS).any(-1)
        assert not palette.one_hot(off)[changed].any()
