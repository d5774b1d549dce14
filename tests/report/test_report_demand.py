"""How well a drawing follows its demand: counts and scores by hand."""

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest

from imginav_jax.datasets import palette
from imginav_jax.report.decision.metrics import DEMAND_METRICS
from imginav_jax.report.measurement import demand

WALL, BACKGROUND = (palette.CLASS_NAMES.index(name) for name in ("wall", "background"))
FIRST, SECOND = demand.FURNITURE[:2]  # classes


def layout(size=32):
    """A square room of wall, 4 px from the border, closed."""
    classes = np.full((size, size), BACKGROUND, np.uint8)
    classes[4:-4, 4:-4] = WALL
    classes[5:-5, 5:-5] = BACKGROUND
    return classes


def scores(demanded, drawn):
    counts = demand.count_demand(demanded, drawn)
    counts |= {"palette_fidelity": np.ones(()), "pictures": np.ones(())}
    return {name: float(metric.compute(counts)) for name, metric in DEMAND_METRICS.items()}


def test_what_is_drawn_as_demanded_has_every_score():
    classes = layout()
    classes[8:10, 8:10] = FIRST
    found = scores(classes, classes)
    assert all(found[f"wall_{name}_{pixels}"] == 1 for name in ("f", "recall", "precision") for pixels in (1, 2, 4))
    assert (found["presence_f1"], found["object_count_error"]) == (1, 0)
    assert (found["closed_spaces_error"], found["door_gaps_error"]) == (0, 0)


def test_walls_count_within_the_tolerance():
    demanded, drawn = (np.full((32, 32), BACKGROUND, np.uint8) for _ in range(2))
    demanded[10, :] = WALL
    drawn[13, :16] = WALL  # 3 px away, and half as long
    found = scores(demanded, drawn)
    assert found["wall_recall_2"] == found["wall_precision_2"] == 0
    assert found["wall_precision_4"] == 1
    # Columns up to 15 + sqrt(4^2 - 3^2) = 17.6 have a drawn pixel within 4 px.
    assert found["wall_recall_4"] == 18 / 32
    assert found["wall_f_4"] == pytest.approx(2 * (18 / 32) / (1 + 18 / 32))


def test_nothing_drawn_is_no_recall_and_no_precision():
    found = scores(layout(), np.full((32, 32), BACKGROUND, np.uint8))
    assert found["wall_recall_4"] == 0
    assert np.isnan(found["wall_precision_4"])
    assert found["closed_spaces_error"] == 1


def test_objects_are_counted_by_class():
    demanded, drawn = layout(), layout()
    demanded[8:10, 8:10] = demanded[14:16, 8:10] = FIRST
    drawn[8:10, 8:10] = FIRST
    drawn[20:22, 20:22] = SECOND
    found = scores(demanded, drawn)
    assert found["object_count_error"] == 2  # one of the first is missing, one of the second too many
    assert found["presence_f1"] == pytest.approx(2 * (1 / 2) * 1 / (1 / 2 + 1))
    contents = demand.contents(demanded)
    assert contents[0] == 1
    assert contents[len(demand.FURNITURE)] == pytest.approx(np.log(3))
    assert contents.sum() == pytest.approx(1 + np.log(3))


def test_a_door_is_a_gap_in_a_wall():
    closed, open_ = layout(64), layout(64)
    open_[4, 28:34] = BACKGROUND  # 6 of 64 px
    assert demand.count_demand(closed, closed)["door_gaps"] == 0
    counts = demand.count_demand(open_, closed)
    assert (counts["door_gaps"], counts["door_gaps_kept"], counts["door_gaps_error"]) == (1, 0, 1)
    moved = layout(64)
    moved[4, 32:38] = BACKGROUND
    assert demand.count_demand(open_, moved)["door_gaps_kept"] == 1  # they overlap
    far = layout(64)
    far[59, 28:34] = BACKGROUND
    counts = demand.count_demand(open_, far)
    assert (counts["door_gaps_kept"], counts["door_gaps_error"]) == (0, 0)


def test_the_outer_boundary_is_where_the_layout_meets_the_outside():
    classes = layout()
    boundary = demand.outer_boundary(classes)
    expected = np.zeros((32, 32), bool)
    expected[4, 4:-4] = expected[-5, 4:-4] = expected[4:-4, 4] = expected[4:-4, -5] = True
    assert (boundary == expected).all()  # the background within is not outside
    classes[4, 10:13] = BACKGROUND
    expected[4, 10:13] = False
    assert (demand.outer_boundary(classes) == expected).all()  # through the door it is, on the wall's other side


@hypothesis.given(
    arrays.arrays(np.uint8, (16, 16), elements=hypothesis.strategies.integers(0, palette.NUM_CLASSES - 1)),
    arrays.arrays(np.uint8, (16, 16), elements=hypothesis.strategies.integers(0, palette.NUM_CLASSES - 1)),
)
@hypothesis.settings(max_examples=30)
def test_scores_stay_in_range_and_turn_with_the_layouts(demanded, drawn):
    found = scores(demanded, drawn)
    for name, metric in DEMAND_METRICS.items():
        assert np.isnan(found[name]) or (0 <= found[name] <= 1 if metric.is_better == "higher" else found[name] >= 0)
    turned = scores(demanded[::-1].T, drawn[::-1].T)
    for name, value in found.items():
        assert turned[name] == pytest.approx(value, nan_ok=True)
    # A wider tolerance finds no less.
    for name in ("recall", "precision"):
        values = [found[f"wall_{name}_{pixels}"] for pixels in demand.TOLERANCES]
        assert np.isnan(values).all() or values == sorted(values)
