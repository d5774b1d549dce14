"""What the rule says of one candidate: whether it may take the finest one's place, and how sure that is."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from imginav_jax.report.decision import outlook
from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.outlook import Earlier
from imginav_jax.report.decision.yardsticks import Held, Yardstick

SCORE = "detail score"  # the weighted mean of the detail metrics
Verdict = Literal["preferred", "within", "beyond", "undecided"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The numbers of the rule.

    Attributes:
      margin: how much a detail metric may fall, as a share.
      weights: of the detail metrics in their mean; every one is a share, higher is better.
      confidence: of the intervals.
    """

    margin: float
    weights: Mapping[str, float]
    confidence: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a latent costs, as it was measured; two of them compare where they are of the same."""

    seconds: float
    of: str  # in words


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A resolution to choose.

    Attributes:
      label: R1, say.
      latent_shape: height, width, channels.
      detail: the estimate of each detail metric.
      cost: what is compared where runs are good enough; None where none was measured, and cells are counted.
      missing: why the candidate cannot be judged yet; None if it can.
      earlier: the run at half its training; None where no checkpoint of then is left.
      yardsticks: what its shape is known to hold without training.
      go_on: the command that trains it on; empty where none is known.
    """

    label: str
    latent_shape: tuple[int, int, int]
    detail: Mapping[str, Estimate]
    cost: Cost | None = None
    missing: str | None = None
    earlier: Earlier | None = None
    yardsticks: tuple[Yardstick, ...] = ()
    go_on: str = ""


@dataclasses.dataclass(frozen=True)
class Fall:
    """By how much a metric is lower than at the finest resolution, with its interval and what that means.

    Attributes:
      gain: what the candidate gained by the last doubling of its training, less what the finest run gained; NaN where
        that is not known.
      is_firm: whether the verdict stands where both gain that once more.
    """

    metric: str
    value: float
    low: float
    high: float
    verdict: Verdict
    gain: float = math.nan
    is_firm: bool = False

    def describe(self, margin: float) -> str:
        points = [f"{100 * number:.1f}" for number in (self.value, self.low, self.high, margin)]
        return f"{self.metric} falls by {points[0]} points [{points[1]}, {points[2]}], margin {points[3]}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the rule says of one candidate.

    Attributes:
      verdict: whether it may take the finest one's place.
      falls: the score's first; none for the finest.
      reason: of the verdict, in words.
      is_firm: whether more training of all runs could not change the verdict.
      held: the best that its shape holds without training; None where nothing was measured.
      judged: the falls that decided.
      values: the candidate's own detail score and detail metrics, as shares; NaN for one that does not exist.
    """

    label: str
    verdict: Verdict
    falls: tuple[Fall, ...]
    reason: str
    is_firm: bool = True
    held: Held | None = None
    judged: tuple[Fall, ...] = ()
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)


def prefer(finest: Candidate, rule: Rule) -> Outcome:
    """Returns the finest run's outcome: nothing can be compared with it if it is worse than no training at all."""
    held, values = _find_held(finest, rule), _values(finest, rule)
    if held is not None and held.beats_run:
        reason = f"{finest.label} itself draws worse than what needs no training: {held.describe(finest.label)}"
        return Outcome(finest.label, "undecided", (), reason, False, held, values=values)
    return Outcome(finest.label, "preferred", (), "the finest latent", held=held, values=values)


def judge(candidate: Candidate, finest: Candidate, rule: Rule, by_score: bool | None = None) -> Outcome:
    """Returns a run's outcome: half the finest resolution is judged by the score, a coarser one by every metric.

    `by_score` says which of the two whatever the resolutions are.
    """
    candidate, held = _with_zeros(candidate, finest), _find_held(candidate, rule)
    values = _values(candidate, rule)
    falls = tuple(_fall(name, candidate, finest, rule) for name in rule.weights)
    score = _fall(SCORE, candidate, finest, rule)
    if by_score is None:
        by_score = 2 * candidate.latent_shape[0] >= finest.latent_shape[0]
    judged = (score,) if by_score else falls
    failing = [fall for verdict in ("beyond", "undecided") for fall in judged if fall.verdict == verdict]
    if not failing:
        what = SCORE if by_score else "every detail metric"
        reason = f"{what} is within {100 * rule.margin:g} points of {finest.label}"
        is_firm = all(fall.is_firm for fall in judged)
        return Outcome(candidate.label, "within", (score, *falls), reason, is_firm, held, judged, values)
    if held is not None and held.beats_run:
        reason = f"what limits {candidate.label} is its training, not its resolution: {held.describe(candidate.label)}"
        return Outcome(candidate.label, "undecided", (score, *falls), reason, False, held, judged, values)
    verdict = failing[0].verdict
    failing = [fall for fall in failing if fall.verdict == verdict]
    worst = max(failing, key=lambda fall: fall.value if math.isfinite(fall.value) else -math.inf)
    is_firm = verdict == "beyond" and any(fall.is_firm for fall in failing)
    return Outcome(
        candidate.label, verdict, (score, *falls), worst.describe(rule.margin), is_firm, held, judged, values
    )


def _values(candidate: Candidate, rule: Rule) -> dict[str, float]:
    return {SCORE: score_of(candidate, rule).value, **{name: candidate.detail[name].value for name in rule.weights}}


def _find_held(candidate: Candidate, rule: Rule) -> Held | None:
    """Returns the best of a candidate's yardsticks by the detail score of the metrics that it has; None without any."""
    found = []
    for yardstick in candidate.yardsticks:
        weights = {name: weight for name, weight in rule.weights.items() if name in yardstick.detail}
        if not any(weights.values()):
            continue
        shared = dataclasses.replace(rule, weights=weights)
        of_run = {name: candidate.detail[name] for name in weights}
        score = _score(_fill_lost(yardstick.detail, of_run), shared)
        run_score = _score(_fill_lost(of_run, yardstick.detail), shared)
        low, high = score.minus(run_score).interval(rule.confidence)
        found.append(Held(yardstick.label, score.value, run_score.value, low, high))
    return max(found, key=lambda each: each.score - each.run_score, default=None)


def _with_zeros(candidate: Candidate, finest: Candidate) -> Candidate:
    """Returns a candidate that has every metric which the finest run has, now and at its earlier checkpoint."""
    earlier = candidate.earlier
    if earlier is not None:
        earlier = dataclasses.replace(earlier, detail=_fill_lost(earlier.detail, finest.detail))
    return dataclasses.replace(candidate, detail=_fill_lost(candidate.detail, finest.detail), earlier=earlier)


def _fill_lost(detail: Mapping[str, Estimate], reference: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """A metric that the reference has and the other lacks (it draws no wall at all, say) is lost, and 0."""
    return {
        name: estimate if math.isnan(reference[name].value) else _fill(estimate)
        for name, estimate in detail.items()
        if name in reference
    }


def _fill(estimate: Estimate) -> Estimate:
    return estimate._replace(value=float(np.nan_to_num(estimate.value)), samples=np.nan_to_num(estimate.samples))


def say_cost(candidate: Candidate, other: Candidate) -> str:
    """Returns ", at 0.33 times its cost by …", or nothing where both were not measured by the same."""
    mine, theirs = candidate.cost, other.cost
    if mine is None or theirs is None or mine.of != theirs.of:
        return ""
    return f", at {mine.seconds / theirs.seconds:.2f} times its cost by {mine.of}"


def score_of(candidate: Candidate, rule: Rule) -> Estimate:
    """Returns the weighted mean of the detail metrics; one that does not exist does not count."""
    return _score(candidate.detail, rule)


def _score(detail: Mapping[str, Estimate], rule: Rule) -> Estimate:
    weights = np.array(list(rule.weights.values()), np.float64)
    values = np.array([detail[name].value for name in rule.weights])
    samples = np.stack([detail[name].samples for name in rule.weights])
    num_scenes = next(iter(detail.values())).num_scenes
    return Estimate(float(_weighted_mean(values[:, None], weights)[0]), _weighted_mean(samples, weights), num_scenes)


def _value(metric: str, detail: Mapping[str, Estimate], rule: Rule) -> Estimate:
    return _score(detail, rule) if metric == SCORE else detail[metric]


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    totals = np.where(there, weights[:, None], 0)
    summed = totals.sum(0)
    return np.divide((np.nan_to_num(values) * totals).sum(0), summed, np.full(len(summed), np.nan), where=summed > 0)


def _fall(metric: str, candidate: Candidate, finest: Candidate, rule: Rule) -> Fall:
    now = _value(metric, finest.detail, rule).minus(_value(metric, candidate.detail, rule))
    low, high = now.interval(rule.confidence)
    verdict = _verdict(now, rule)
    own, of_finest = (_gain(metric, each, rule) for each in (candidate, finest))
    if own is None or of_finest is None:
        return Fall(metric, now.value, low, high, verdict)
    is_firm = _verdict(outlook.fall_after_more(now, own, of_finest), rule) == verdict != "undecided"
    return Fall(metric, now.value, low, high, verdict, own.value - of_finest.value, is_firm)


def _verdict(fall: Estimate, rule: Rule) -> Verdict:
    low, high = fall.interval(rule.confidence)
    if high <= rule.margin or math.isnan(fall.value):  # a metric that does not exist forbids nothing
        return "within"
    return "beyond" if low > rule.margin else "undecided"


def _gain(metric: str, candidate: Candidate, rule: Rule) -> Estimate | None:
    """By the metrics that were measured of the earlier checkpoint too; None where there is none."""
    if candidate.earlier is None:
        return None
    weights = {name: weight for name, weight in rule.weights.items() if name in candidate.earlier.detail}
    if not any(weights.values()) or metric not in (SCORE, *weights):
        return None
    rule = dataclasses.replace(rule, weights=weights)
    then, now = (_value(metric, detail, rule) for detail in (candidate.earlier.detail, candidate.detail))
    return candidate.earlier.gain(then, now)
