"""How sure a decision is: planted learning curves, yardsticks that need no training, and several arms."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from imginav_jax.report.decision import arms
from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.outlook import Earlier
from imginav_jax.report.decision.rule import decide
from imginav_jax.report.decision.verdict import Candidate, Cost, Rule
from imginav_jax.report.decision.yardsticks import Yardstick

RULE = Rule(margin=0.02, weights={"walls": 1.0, "objects": 1.0}, confidence=0.95)
SIDES = {"R1": 64, "R2": 32, "R3": 16}
EXACT = np.linspace(-1e-4, 1e-4, 101)


def estimates(walls, objects=None):
    values = {"walls": walls, "objects": walls if objects is None else objects}
    return {name: Estimate(value, value + EXACT) for name, value in values.items()}


def candidate(label, then, now, **options):
    side = SIDES[label[:2]]
    earlier = None if then is None else Earlier(estimates(then), 1.0)
    return Candidate(label, (side, side, 16), estimates(now), earlier=earlier, go_on=f"train {label}", **options)


def test_converged_runs_make_a_firm_decision():
    found = decide([candidate("R1", 0.9, 0.9), candidate("R2", 0.8, 0.8), candidate("R3", 0.6, 0.6)], RULE)
    assert (found.winner, found.status) == ("R1", "firm")
    assert found.would_change == "R2's detail score, were it 8.0 points higher"  # 10 below R1, margin 2


def test_a_run_that_still_gains_makes_it_provisional():
    # R2 lies 10 points below R1 and gained 9 in its last doubling, R1 none: once more would leave 1, within 2.
    found = decide([candidate("R1", 0.9, 0.9), candidate("R2", 0.71, 0.8), candidate("R3", 0.6, 0.6)], RULE)
    assert (found.winner, found.status) == ("R1", "provisional")
    assert "R2 is still improving: the last doubling of training gave its detail score 9.0 points more than R1's" in (
        found.sentence
    )
    assert found.would_change == "training R2 on: train R2"
    # Had R1 gained 8 of these as well, 9 would be left.
    found = decide([candidate("R1", 0.82, 0.9), candidate("R2", 0.71, 0.8), candidate("R3", 0.6, 0.6)], RULE)
    assert found.status == "firm"


def test_a_run_that_would_overtake_makes_it_provisional():
    found = decide([candidate("R1", 0.7, 0.7), candidate("R2", 0.4, 0.6)], RULE)
    assert (found.winner, found.status) == ("R1", "provisional")


def test_a_finest_run_that_still_gains_makes_a_coarser_winner_provisional():
    found = decide([candidate("R1", 0.5, 0.7), candidate("R2", 0.69, 0.69)], RULE)
    assert (found.winner, found.status) == ("R2", "provisional")
    assert "R1 is still improving" in found.sentence
    assert found.would_change == "training R1 on: train R1"


def test_the_gain_counts_by_doublings():
    # 9 points in three doublings are 3 in one, and 10 - 3 is still beyond the margin.
    three = Candidate("R2", (32, 32, 16), estimates(0.8), earlier=Earlier(estimates(0.71), 3.0))
    assert decide([candidate("R1", 0.9, 0.9), three], RULE).status == "firm"


def test_a_coarse_run_that_fails_by_one_metric_for_good_is_firm():
    # The walls are 30 points below for good, the objects catch up.
    coarse = Candidate("R3", (16, 16, 16), estimates(0.6, 0.8), earlier=Earlier(estimates(0.6, 0.5), 1.0))
    assert decide([candidate("R1", 0.9, 0.9), coarse], RULE).status == "firm"


def test_without_an_earlier_checkpoint_a_decision_is_provisional():
    found = decide([candidate("R1", 0.9, 0.9), candidate("R2", None, 0.8)], RULE)
    assert (found.winner, found.status) == ("R1", "provisional")
    assert "no checkpoint from about half the training of R2 is left" in found.sentence


def test_what_is_firm_survives_the_rest_of_training():
    """Runs by power laws with limits, speeds and exponents at random, measured with noise."""
    rng = np.random.default_rng(7)

    def measure(value, noise):
        measured = value + noise * rng.standard_normal()
        return Estimate(measured, measured + noise * rng.standard_normal(200))

    def run(label, curves, step, noise):
        now, then = ({n: measure(limit - b * at**-p, noise) for n, (limit, b, p) in curves.items()}
                     for at in (step, step / 2))  # fmt: skip
        return Candidate(label, (SIDES[label], SIDES[label], 16), now, earlier=Earlier(then, 1.0))

    def curve():
        limit = rng.uniform(0.5, 0.95)
        return limit, limit * rng.uniform(0.02, 0.5), rng.uniform(0.2, 1.2)

    said: Counter[str] = Counter()
    stayed = []
    for _ in range(300):
        curves = {label: {name: curve() for name in RULE.weights} for label in SIDES}
        now, *later = (
            decide([run(label, curves[label], step, noise) for label in SIDES], RULE)
            for step, noise in ((1.0, 0.005), (2.0, 1e-9), (4.0, 1e-9))
        )
        said[now.status] += 1
        if now.status == "firm":
            stayed.append([each.winner == now.winner for each in later])
    assert said["firm"] > 50
    assert said["provisional"] > 50
    assert np.mean(stayed, 0).min() >= 0.95


def test_a_yardstick_that_beats_a_run_makes_its_resolution_undecided():
    cut = Yardstick("R1 unshuffled + PCA, 16x16x16", estimates(0.7))
    runs = [candidate("R1", 0.9, 0.9), candidate("R2", 0.6, 0.6), candidate("R3", 0.5, 0.5, yardsticks=(cut,))]
    found = decide(runs, RULE)
    assert (found.winner, found.status) == (None, "undecided")
    assert found.sentence.startswith(
        "Undecided, because what limits R3 is its training, not its resolution: R1 unshuffled + PCA, 16x16x16 reaches "
        "a detail score of 70.0 without training for it, R3 50.0"
    )
    assert found.outcomes[2].held.beats_run
    assert found.would_change == "training R3 on: train R3"


def test_a_yardstick_that_is_worse_or_not_told_apart_changes_nothing():
    for value in (0.4, 0.5):
        worse = Yardstick("majority colour, 16x16", estimates(value))
        found = decide([candidate("R1", 0.9, 0.9), candidate("R3", 0.5, 0.5, yardsticks=(worse,))], RULE)
        assert (found.winner, found.status) == ("R1", "firm")
        assert found.outcomes[1].held.label == "majority colour, 16x16"


def test_a_resolution_that_is_good_enough_needs_no_yardstick():
    better = Yardstick("R1 unshuffled + PCA, 16x16x16", estimates(0.895))
    found = decide([candidate("R1", 0.9, 0.9), candidate("R3", 0.89, 0.89, yardsticks=(better,))], RULE)
    assert found.winner == "R3"


def test_a_finest_run_worse_than_its_own_cells_decides_nothing():
    cells = Yardstick("majority colour, 64x64", estimates(0.6))
    found = decide([candidate("R1", 0.5, 0.5, yardsticks=(cells,)), candidate("R2", 0.2, 0.2)], RULE)
    assert found.winner is None
    assert found.sentence.startswith(
        "Undecided, because R1 itself draws worse than what needs no training: majority colour, 64x64"
    )


def test_a_yardstick_is_compared_by_the_metrics_that_it_has():
    walls = {"walls": Estimate(0.6, 0.6 + EXACT)}
    found = decide(
        [candidate("R1", 0.9, 0.9), candidate("R2", 0.5, 0.5, yardsticks=(Yardstick("cells", walls),))], RULE
    )
    held = found.outcomes[1].held
    assert (held.score, held.run_score) == pytest.approx((0.6, 0.5))
    none = Yardstick("nothing", {})
    assert decide([candidate("R1", 0.9, 0.9, yardsticks=(none,)), candidate("R2", 0.5, 0.5)], RULE).winner == "R1"


def test_arms_are_compared_at_the_same_latent_and_across():
    plain = [candidate("R1", 0.9, 0.9), candidate("R2", 0.7, 0.7), candidate("R3", 0.5, 0.5)]
    shortcuts = [candidate("R1 shortcuts", 0.95, 0.95), candidate("R3 shortcuts", 0.69, 0.69)]
    said = arms.compare({"plain": plain, "shortcuts": shortcuts}, RULE)
    assert "In the plain arm the detail score goes from 90.0 with R1 (64x64x16) to 50.0 with R3 (16x16x16)." in said
    assert "shortcuts instead of plain changes it by +5.0" in said
    assert "+19.0" in said
    assert "R3 shortcuts keeps R2's detail score (-1.0" in said
    assert "cost" not in said
    assert arms.compare({"plain": plain}, RULE) == ""


@pytest.mark.parametrize(("of", "text"), [("a step", "at 0.50 times its cost by a step"), ("control of 0.3", "")])
def test_costs_compare_across_arms_where_they_are_of_the_same(of, text):
    plain = [dataclasses.replace(candidate("R2", 0.7, 0.7), cost=Cost(2.0, "a step"))]
    shortcuts = [dataclasses.replace(candidate("R3 shortcuts", 0.69, 0.69), cost=Cost(1.0, of))]
    said = arms.compare({"plain": plain, "shortcuts": shortcuts}, RULE)
    assert "R3 shortcuts keeps R2's detail score" in said
    assert text in said
    assert ("cost" in said) == bool(text)
