"""The rule, on metrics made up so that its outcome is plain."""

import dataclasses

import numpy as np
import pytest

from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.rule import decide
from imginav_jax.report.decision.verdict import SCORE, Candidate, Cost, Rule, score_of

RULE = Rule(margin=0.02, weights={"walls": 1.0, "objects": 3.0}, confidence=0.95)
SIDES = {"R1": 64, "R2": 32, "R3": 16}
NOISE = np.linspace(-1, 1, 201)


def candidate(label, walls, objects, spread=0.0, **options):
    """Two metrics and how far their samples reach to both sides."""
    side = SIDES[label]
    detail = {name: Estimate(value, value + spread * NOISE) for name, value in (("walls", walls), ("objects", objects))}
    return Candidate(label, (side, side, 16), detail, **options)


def fixed(label, walls, objects, **options):
    return candidate(label, walls, objects, 0.0, **options)


def test_the_finest_wins_where_the_others_lose_detail():
    found = decide([fixed("R3", 0.5, 0.5), fixed("R2", 0.8, 0.8), fixed("R1", 0.9, 0.9)], RULE)
    assert found.winner == "R1"
    assert [outcome.verdict for outcome in found.outcomes] == ["preferred", "beyond", "beyond"]
    assert found.sentence.startswith("Take R1, the 64x64x16 latent: R2's detail score falls by 10.0 points")


def test_half_the_resolution_may_lose_in_one_metric_what_the_score_forgives():
    # (1 x 0.05 + 3 x 0.005) / 4 = 0.01625 is within 0.02, though the walls alone are not.
    found = decide([fixed("R1", 0.9, 0.9), fixed("R2", 0.85, 0.895), fixed("R3", 0.2, 0.2)], RULE)
    assert found.winner == "R2"
    score, walls, objects = found.outcomes[1].falls
    assert (score.metric, walls.metric, objects.metric) == (SCORE, "walls", "objects")
    assert score.value == pytest.approx(0.01625)
    assert [fall.verdict for fall in (score, walls, objects)] == ["within", "beyond", "within"]


def test_a_quarter_of_the_resolution_may_not():
    found = decide([fixed("R1", 0.9, 0.9), fixed("R2", 0.2, 0.2), fixed("R3", 0.85, 0.895)], RULE)
    assert found.winner == "R1"
    assert found.outcomes[2].verdict == "beyond"
    assert found.outcomes[2].reason.startswith("walls falls by 5.0 points")
    found = decide([fixed("R1", 0.9, 0.9), fixed("R2", 0.2, 0.2), fixed("R3", 0.885, 0.885)], RULE)
    assert found.winner == "R3"


def test_of_those_that_are_good_enough_the_cheapest_wins():
    close = [fixed("R1", 0.9, 0.9), fixed("R2", 0.89, 0.89), fixed("R3", 0.885, 0.885)]
    assert decide(close, RULE).winner == "R3", "fewest cells"
    costs = {"R1": 3.0, "R2": 1.0, "R3": 2.0}
    timed = [dataclasses.replace(each, cost=Cost(costs[each.label], "a step")) for each in close]
    found = decide(timed, RULE)
    assert found.winner == "R2"
    assert "at 0.33 times its cost by a step" in found.sentence


def test_an_interval_that_holds_the_margin_leaves_it_undecided():
    runs = [fixed("R1", 0.9, 0.9), candidate("R2", 0.88, 0.88, 0.005), fixed("R3", 0.2, 0.2)]
    found = decide(runs, RULE)
    assert found.winner is None
    assert found.outcomes[1].verdict == "undecided"
    assert found.sentence.startswith("Undecided, because R2 is cheaper and may or may not be good enough")
    # It does not matter whether R2 is good enough where the cheaper R3 is.
    runs[2] = fixed("R3", 0.89, 0.89)
    assert decide(runs, RULE).winner == "R3"


def test_identical_runs_are_undecided():
    for spread in (0.0, 0.1):
        found = decide([candidate(label, 0.7, 0.8, spread) for label in SIDES], RULE)
        assert found.winner is None
        assert "no detail metric tells the runs apart" in found.sentence
    same = [Candidate(label, (64, 64, 16), fixed("R1", 0.7, 0.8).detail) for label in ("a", "b")]
    assert "not two resolutions to compare" in decide(same, RULE).sentence


def test_what_is_missing_is_named():
    r1, r2 = fixed("R1", 0.9, 0.9), fixed("R2", 0.2, 0.2)
    assert decide([r1, r2], RULE, ("R1", "R2", "R3")).sentence == "Undecided, because R3 is missing."
    assert decide([r1], RULE, ("R1", "R2", "R3")).sentence == "Undecided, because R2 and R3 are missing."
    unfinished = fixed("R2", 0.2, 0.2, missing="R2 has not finished")
    assert decide([r1, unfinished], RULE).sentence == "Undecided, because R2 has not finished."
    known = {"R3": "R3 has left nothing: see a.log"}
    found = decide([r1, unfinished], RULE, ("R1", "R2", "R3", "R4"), incomplete=known)
    assert found.sentence == ("Undecided, because R4 is missing; R3 has left nothing: see a.log; R2 has not finished.")
    found = decide([r1, r2], RULE, ("R1", "R2", "R3"), "there are 2 scenes", known)
    assert found.sentence == "Undecided, because there are 2 scenes; R3 has left nothing: see a.log."
    assert decide([], RULE, incomplete=known).sentence == "Undecided, because R3 has left nothing: see a.log."
    assert decide([], RULE).sentence == "Undecided, because there is no run."
    assert decide([r1, r2], RULE, obstacle="there are 2 scenes").sentence == "Undecided, because there are 2 scenes."


def test_a_metric_that_does_not_exist_does_not_count():
    runs = [fixed("R1", 0.9, np.nan), fixed("R2", 0.89, np.nan), fixed("R3", 0.1, np.nan)]
    assert score_of(runs[1], RULE).value == pytest.approx(0.89)
    found = decide(runs, RULE)
    assert found.winner == "R2"
    assert found.outcomes[1].falls[2].verdict == "within"


def test_a_metric_that_only_the_coarser_run_lacks_is_lost():
    runs = [fixed("R1", 0.9, 0.9), fixed("R2", np.nan, 0.9), fixed("R3", 0.89, 0.89)]
    found = decide(runs, RULE)
    assert found.outcomes[1].verdict == "beyond"
    assert found.outcomes[1].falls[0].value == pytest.approx(0.225)  # (0.9 + 3 x 0) / 4
    assert decide(runs[:2], RULE).winner == "R1"
