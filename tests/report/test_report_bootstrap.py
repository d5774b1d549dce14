"""Intervals: what they cover, what they are made of, and what pairing does."""

import numpy as np
import pytest
import scipy.stats

from configs.report import get_config
from imginav_jax.report.decision.bootstrap import Estimate, Resampling

METRICS = {"mean": lambda counts: counts["value"] / counts["layouts"]}


def counts_of(values):
    return {"value": np.asarray(values, float), "layouts": np.ones(len(values))}


def estimate(values, scenes, samples=500, seed=0):
    resampling = Resampling(scenes, samples, seed)
    return resampling.estimate([counts_of(values)], METRICS, resampling.draw_seeds(1))["mean"]


def draw_data_set(rng, num_scenes):
    """Scenes of one to five layouts that have a part of their value in common; the mean of all is 0."""
    sizes = rng.integers(1, 6, num_scenes)
    scenes = np.repeat(np.arange(num_scenes), sizes)
    return rng.normal(size=num_scenes)[scenes] + 0.5 * rng.normal(size=len(scenes)), scenes.astype(str)


@pytest.mark.parametrize("num_scenes", [10, 14, 60])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(num_scenes):
    """10 scenes are the fewest that configs/report.py lets a decision rest on."""
    assert get_config().bootstrap.min_scenes >= 10
    rng, covered, data_sets = np.random.default_rng(0), 0, 1000
    for number in range(data_sets):
        low, high = estimate(*draw_data_set(rng, num_scenes), samples=400, seed=number).interval(0.95)
        covered += low <= 0 <= high
    assert covered / data_sets == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("deviation", [0.1, 1.0])
def test_with_several_seeds_it_covers_the_mean_over_all_seeds(num_seeds, deviation):
    """Where the seeds hardly differ, or are two, rather too often than too seldom."""
    rng, covered, data_sets = np.random.default_rng(0), 0, 600
    for number in range(data_sets):
        values, scenes = draw_data_set(rng, 40)
        resampling = Resampling(scenes, 400, number)
        runs = [counts_of(values + shift) for shift in deviation * rng.normal(size=num_seeds)]
        found = resampling.estimate(runs, METRICS, resampling.draw_seeds(num_seeds))["mean"]
        low, high = found.interval(0.95)
        covered += low <= 0 <= high
    assert 0.92 <= covered / data_sets <= 0.995


def test_layouts_taken_as_independent_would_cover_far_too_little():
    rng, covered = np.random.default_rng(1), 0
    for number in range(200):
        values, _ = draw_data_set(rng, 60)
        low, high = estimate(values, np.arange(len(values)).astype(str), samples=200, seed=number).interval(0.95)
        covered += low <= 0 <= high
    assert covered / 200 < 0.85


def test_with_a_layout_a_scene_it_is_scipys_percentile_interval():
    """But for the quantiles, which are those of the smaller sample's Student distribution."""
    values = np.random.default_rng(2).gamma(2.0, size=80)
    found = estimate(values, np.arange(80).astype(str), samples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    np.testing.assert_allclose(found._replace(num_scenes=None).interval(0.9), (theirs.low, theirs.high), rtol=0.01)
    student, normal = scipy.stats.t.ppf(0.95, 79) * np.sqrt(80 / 79), scipy.stats.norm.ppf(0.95)
    widths = [np.ptp(each.interval(0.9)) for each in (found, found._replace(num_scenes=None))]
    assert widths[0] / widths[1] == pytest.approx(student / normal, rel=0.01)


def test_the_value_is_that_of_all_layouts_and_samples_repeat_whole_scenes():
    scenes = ["a", "b", "a", "c"]
    found = estimate([1.0, 5.0, 3.0, 10.0], scenes, samples=300)
    assert found.value == pytest.approx(19 / 4)
    sums, sizes = {"a": 4.0, "b": 5.0, "c": 10.0}, {"a": 2, "b": 1, "c": 1}
    possible = {
        round(sum(sums[s] for s in drawn) / sum(sizes[s] for s in drawn), 9)
        for drawn in ((x, y, z) for x in "abc" for y in "abc" for z in "abc")
    }
    assert {round(value, 9) for value in found.samples.tolist()} == possible


def test_what_two_runs_have_in_common_cancels():
    rng = np.random.default_rng(4)
    hard, scenes = 100 * rng.normal(size=50), np.arange(50).astype(str)
    resampling = Resampling(scenes, 500, 0)
    drawn = resampling.draw_seeds(1)
    one, other = (
        resampling.estimate([counts_of(hard + shift)], METRICS, drawn)["mean"] for shift in (0, rng.normal(1, 0.1, 50))
    )
    low, high = other.minus(one).interval(0.95)
    assert 0.9 < low < high < 1.1
    assert np.subtract(*other.interval(0.95)) < -10
    same = one.minus(one).interval(0.95)
    assert same == (0, 0)


def test_seeds_widen_the_interval_and_their_mean_is_the_value():
    scenes = np.arange(40).astype(str)
    values = np.random.default_rng(5).normal(size=40)
    resampling = Resampling(scenes, 4000, 0)
    runs = [counts_of(values + shift) for shift in np.linspace(-3, 3, 7)]
    found = resampling.estimate(runs, METRICS, resampling.draw_seeds(7))["mean"]
    alone = resampling.estimate(runs[3:4], METRICS, resampling.draw_seeds(1))["mean"]
    assert found.value == pytest.approx(alone.value)
    # The standard error of the mean is sqrt(28 / 6 / 7); Student's variance with 6 degrees of freedom is 6 / 4.
    assert found.samples.var() == pytest.approx(alone.samples.var() + 28 / 42 * 6 / 4, rel=0.1)


def test_a_metric_that_does_not_exist_has_no_interval():
    assert np.isnan(Estimate(np.nan, np.full(3, np.nan)).interval(0.9)).all()
    assert Estimate(1.0, np.array([np.nan, 1.0, 1.0])).interval(0.9) == (1, 1)
    assert Estimate(np.inf, np.array([np.inf, 1.0, np.inf])).interval(0.9) == (1, np.inf)


def test_the_same_seed_gives_the_same_samples():
    values, scenes = draw_data_set(np.random.default_rng(6), 20)
    np.testing.assert_array_equal(estimate(values, scenes).samples, estimate(values, scenes).samples)
