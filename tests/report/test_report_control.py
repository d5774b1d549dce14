"""Scores of a measurement of control with planted curves, and what the decision makes of them."""

import dataclasses

import numpy as np
import pytest
from tiny_runs import fast_config

from imginav_jax.report.decision import control
from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.control import CurvePoint
from imginav_jax.report.measurement import demand
from imginav_jax.report.page import control as page
from imginav_jax.runs.results.control_file import Control, MeasuredLatent, Point, Trial

LAYOUTS = 12
SCENES = [f"scene{index}" for index in range(2 * LAYOUTS)]
HELD_OUT = tuple(range(0, 2 * LAYOUTS, 2))
STEPS = (0, 10, 20)


def counts(share):
    """Of walls of 100 px, of which this share is found and right, at every tolerance; nothing else is there."""
    found, classes = np.full((LAYOUTS, len(demand.TOLERANCES)), 100 * share), np.zeros((LAYOUTS, len(demand.FURNITURE)))
    whole, none = np.full(LAYOUTS, 100.0), np.zeros(LAYOUTS)
    return {
        "layouts": np.ones(LAYOUTS), "pictures": np.ones(LAYOUTS), "palette_fidelity": np.ones(LAYOUTS),
        "walls_demanded": whole, "walls_demanded_found": found, "walls_drawn": whole, "walls_drawn_right": found,
        "present_demanded": classes, "present_drawn": classes, "present_both": classes,
        "objects_demanded": classes, "objects_error": classes,
        "closed_spaces_error": none, "door_gaps": none, "door_gaps_kept": none, "door_gaps_error": none,
    }  # fmt: skip


def curve(shares, seconds):
    return tuple(
        Point(step, 1e12 * second, second, counts(share))
        for step, share, second in zip(STEPS, shares, seconds, strict=True)
    )


def latent(label, side, ceiling, shares, seconds, more=None):
    features = np.random.default_rng(side).standard_normal((LAYOUTS, 5))
    equal_steps = curve(shares, seconds)
    trial = Trial(0, equal_steps, more or equal_steps, counts(0.2), features, np.zeros(LAYOUTS))
    pictures = np.zeros((2, 3, 16, 16), np.uint8)
    return MeasuredLatent(
        label, label.partition(" ")[0], f"run_{label}", "1f", (side, side, 4), 1.0, 1.0, 1.0, counts(ceiling), features,
        (trial,), pictures,
    )  # fmt: skip


def measured(*latents):
    features = np.random.default_rng(1).standard_normal((LAYOUTS, 5))
    return Control(
        "cpu", "cpu", 1, "0.1", "float32", 128, "key", "walls", 16, 20, 20, 8, HELD_OUT, features, features,
        np.zeros(LAYOUTS), latents,
    )  # fmt: skip


R1 = latent("R1", 16, 0.9, (0.2, 0.6, 0.8), (10, 20, 30))
R2 = latent("R2", 8, 0.8, (0.2, 0.4, 0.5), (5, 10, 15), curve((0.2, 0.6, 0.76), (10, 20, 30)))


def scores(*latents):
    return control.score(measured(*latents), SCENES, fast_config().bootstrap)


def test_scores_floors_ceilings_and_gaps():
    first, second = scores(R1, R2)
    assert [round(first.blind["wall_f_2"].value, 6), round(first.shuffled["wall_f_2"].value, 6)] == [0.2, 0.2]
    assert first.score.value == pytest.approx(0.8)
    assert first.gap.value == pytest.approx(0.1)
    assert first.gap.interval(0.95) == pytest.approx((0.1, 0.1))  # paired: every layout is alike
    assert second.drawn_equal_flops["wall_f_2"].value == pytest.approx(0.76)
    assert np.isnan(first.drawn["presence_f1"].value)  # nothing is there
    assert first.num_trials == 1
    # 90 % of 0.8 is 0.72: 0.6 of the way from 20 s to 30 s.
    there = first.nearly_there
    assert there.seconds == pytest.approx(26)
    assert there.step == pytest.approx(16)
    assert there.flops == pytest.approx(26e12)


def test_runs_of_a_label_are_scored_together():
    (both,) = scores(R1, dataclasses.replace(R1, name="another_seed"))
    assert both.num_trials == 2
    assert both.score.value == pytest.approx(0.8)


def test_only_held_out_layouts_count():
    weak = counts(0.8)
    weak["walls_demanded_found"][0] = 0
    equal_steps = (*R1.trials[0].equal_steps[:2], Point(20, 1, 30, weak))
    trial = dataclasses.replace(R1.trials[0], equal_steps=equal_steps)
    (found,) = scores(dataclasses.replace(R1, trials=(trial,)))
    recall = (LAYOUTS - 1) / LAYOUTS * 0.8
    assert found.drawn["wall_recall_2"].value == pytest.approx(recall)
    low, high = found.drawn["wall_recall_2"].interval(0.95)
    assert low < recall < high


def test_a_curve_reaches_a_score_between_its_points():
    points = [CurvePoint(step, step, step, Estimate(value, np.array([value]))) for step, value in ((0, 0.2), (10, 0.6))]
    assert control.reach(points, 0.1).step == 0
    assert control.reach(points, 0.4).step == pytest.approx(5)
    assert control.reach(points, 0.7) is None


def test_the_given_control_is_what_every_run_reaches():
    given = control.reach_given(scores(R1, R2))
    assert given.target == pytest.approx(0.45)
    assert given.seconds["R1"] == pytest.approx(10 + 10 * 0.25 / 0.4)
    assert given.seconds["R2"] == pytest.approx(12.5)


def test_what_chance_gives_is_no_given_control():
    assert control.reach_given(scores(R1, latent("R3", 4, 0.7, (0.2, 0.21, 0.22), (5, 10, 15)))) is None


def test_the_sentence_says_what_is_gained():
    said = control.say(scores(R1, R2))
    assert said.startswith("On R1 the diffusion model draws what it is told with walls' F, 2 px, of 0.80, where the ")
    assert "autoencoder allows 0.90 and chance gives 0.20" in said
    # 0.72 on the curve of equal FLOPs: 0.75 of the way from 20 s to 30 s, against 26 s.
    assert "R2 gets to 90% of that in 1.06 times R1's training time (0.50 at equal steps)" in said
    weak = latent("R3", 4, 0.7, (0.2, 0.3, 0.4), (5, 10, 15))
    assert "R3 stays at 0.40, and at 0.40 with as many FLOPs" in control.say(scores(R1, weak))
    assert control.say(scores(R1)) == ""


def test_the_table_and_the_rows_have_every_latent_and_metric():
    found = scores(R1, R2)
    cells = page.table(found, 0.95)
    assert [cells["R1"][place].text for place in (0, 1, 4, 5)] == ["16x16x4", "0.900", "0.800", "0.100"]
    assert all(len(each) == len(page.HEADERS) for each in cells.values())
    rows = page.make_rows(found, 0.95)
    assert len(rows) == 2 * 5
    assert {"wall_f_2", "wall_f_2_low", "door_gaps_error"} <= rows[0].keys()
    assert "0.800" in page.draw_terminal(found, 0.95, 120)
