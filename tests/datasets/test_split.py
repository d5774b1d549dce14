"""No scene and no identical picture on both sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imginav_jax.datasets.split import validation_mask
from imginav_jax.system.errors import UserError

LAYOUTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), min_size=2, max_size=80)


def split(layouts, fraction, seed):
    scenes = [f"scene{scene}" for scene, _ in layouts]
    digests = [f"digest{digest}" for _, digest in layouts]
    return validation_mask(scenes, digests, fraction, seed)


def sides(values, mask):
    return {v for v, held in zip(values, mask, strict=True) if held}, {
        v for v, held in zip(values, mask, strict=True) if not held
    }


@given(LAYOUTS, st.floats(0.05, 0.9), st.integers(0, 5))
def test_nothing_crosses_and_both_sides_are_filled(layouts, fraction, seed):
    try:
        mask = split(layouts, fraction, seed)
    except UserError:
        return  # one connected group
    assert mask.any()
    assert not mask.all()
    for values in zip(*layouts, strict=True):
        held, kept = sides(values, mask)
        assert not held & kept
    np.testing.assert_array_equal(mask, split(layouts, fraction, seed))


def test_sizes_of_independent_layouts_are_exact():
    layouts = [(index, index) for index in range(1000)]
    assert split(layouts, 0.2, 42).sum() == 200
    assert (split(layouts, 0.2, 42) != split(layouts, 0.2, 43)).any()


def test_duplicates_join_scenes_through_others():
    # a-b share digest 1, b-c share scene 1: one group of three, and one layout apart from it.
    mask = split([(0, 1), (1, 1), (1, 2), (3, 3)], 0.25, 0)
    assert mask.tolist() == [False, False, False, True]


def test_one_group_cannot_be_split():
    with pytest.raises(UserError, match="cannot be split"):
        split([(0, 1), (0, 2), (1, 2)], 0.2, 0)
