"""Statistics of layouts, the discrepancy between two sets of them, and copies."""

import numpy as np
import pytest

from imginav_jax.datasets import palette, synthetic
from imginav_jax.report.measurement import demand, realism, structure

WALL, BACKGROUND = (palette.CLASS_NAMES.index(name) for name in ("wall", "background"))
FIRST, SECOND = demand.FURNITURE[:2]


@pytest.fixture(scope="module")
def real():
    """Class maps of whole scenes, 64x64, one a scene."""
    scenes = (synthetic.generate_scene(0, index, 64) for index in range(150))
    return np.stack([structure.class_map(np.asarray(scene[0].image))[1] for scene in scenes])


@pytest.fixture(scope="module")
def features(real):
    return np.stack([realism.features(each) for each in real])


def test_statistics_by_hand():
    classes = np.full((20, 20), BACKGROUND, np.uint8)
    classes[5, 2:18] = WALL  # 16 px
    classes[10:12, 4:8] = classes[15, 4:8] = FIRST  # 8 and 4 px
    found = realism.features(classes)
    shares, rest = found[: palette.NUM_CLASSES], found[palette.NUM_CLASSES :]
    assert shares[WALL] == 16 / 400
    assert shares[FIRST] == 12 / 400
    furniture = len(demand.FURNITURE)
    assert rest[0] == pytest.approx(np.log(3))  # two objects
    assert rest[furniture] == pytest.approx(np.sqrt(6 / 400))  # their mean area
    assert rest[2 * furniture] == pytest.approx(np.log1p(16 / 20), abs=0.1)  # a skeleton may be shorter at its ends
    assert rest[2 * furniture + 1] == pytest.approx(1 / 20, rel=0.15)
    assert rest[2 * furniture + 2] == 0  # no closed space
    touching = np.expm1(rest[2 * furniture + 3 :]) * 20
    # Around the wall 2 x 16 + 2 edges, around the objects 2 x (4 + 2) and 2 x (4 + 1).
    assert sorted(touching[touching > 0.5]) == pytest.approx([22, 34])


def test_of_two_halves_of_one_set_it_is_0_within_its_interval(features):
    random = np.random.default_rng(0)
    values = realism.standardize(features, features)
    held = []
    for draw in range(400):
        order = random.permutation(len(values))
        first, second = values[order[:40]], values[order[40:80]]
        found = realism.mmd(first, second, [str(index) for index in range(40)], 0.95, seed=draw)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def _without_walls(classes, share, random):
    gone = (classes == WALL) & (random.random(classes.shape) < share)
    return np.where(gone, BACKGROUND, classes)


def _swapped(classes, share, random):
    del random
    swapped = {FIRST: SECOND, SECOND: FIRST}
    result = classes.copy()
    rows = int(share * classes.shape[0])
    for old, new in swapped.items():
        result[:rows][classes[:rows] == old] = new
    result[:rows][classes[:rows] == WALL] = FIRST
    return result


def _doubled(classes, share, random):
    """Furniture once more, beside itself, in a part of the layout's rows."""
    del random
    result, rows = classes.copy(), int(share * classes.shape[0])
    moved = np.roll(classes, classes.shape[1] // 3, 1)
    there = structure.IS_FURNITURE[moved[:rows]]
    result[:rows][there] = moved[:rows][there]
    return result


@pytest.mark.parametrize("spoil", [_without_walls, _swapped, _doubled])
def test_planted_defects_are_ordered_by_their_strength(real, features, spoil):
    random = np.random.default_rng(1)
    drawn, held_out = real[:60], realism.standardize(features[60:120], features)
    scenes = [str(index) for index in range(60)]
    values = []
    for share in (0.0, 0.25, 0.6, 1.0):
        spoilt = np.stack([realism.features(spoil(each, share, random)) for each in drawn])
        found = realism.mmd(realism.standardize(spoilt, features), held_out, scenes, 0.95)
        values.append(found.value)
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05
    assert found.low > 0  # the strongest is beyond chance


def test_a_scene_with_two_layouts_alike_counts_once(features):
    values = realism.standardize(features, features)
    once = realism.mmd(values[:20], values[20:40], [str(index) for index in range(20)], 0.95)
    twice = realism.mmd(
        values[:20].repeat(2, 0), values[20:40].repeat(2, 0), [str(index // 2) for index in range(40)], 0.95
    )
    assert twice == pytest.approx(once, rel=1e-6)


def test_copies_are_found(real):
    training = realism.shrink(real[:50])
    nearly = real[3].copy()
    nearly[:2, :10] = FIRST  # 20 of 4,096 px
    drawn = realism.shrink(np.stack([real[0], nearly, real[70]]))
    assert realism.is_copied(drawn, training).tolist() == [True, True, False]
    assert realism.shrink(np.zeros((3, 512, 512), np.uint8)).shape == (3, 64 * 64)
