"""Which latent resolution to take, by the rule that configs/report.py states, and how sure that is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from imginav_jax.report.decision.bootstrap import Estimate

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
class Candidate:
    """A resolution to choose.

    Attributes:
      label: R1, say.
      latent_shape: height, width, channels.
      detail: the estimate of each detail metric.
      cost: seconds of a training step of a diffusion model with ControlNet; None where none was measured.
      missing: why the candidate cannot be judged yet; None if it can.
    """

    label: str
    latent_shape: tuple[int, int, int]
    detail: Mapping[str, Estimate]
    cost: float | None = None
    missing: str | None = None


@dataclasses.dataclass(frozen=True)
class Fall:
    """By how much a metric is lower than at the finest resolution, with its interval and what that means."""

    metric: str
    value: float
    low: float
    high: float
    verdict: Verdict

    def describe(self, margin: float) -> str:
        points = [f"{100 * number:.1f}" for number in (self.value, self.low, self.high, margin)]
        return f"{self.metric} falls by {points[0]} points [{points[1]}, {points[2]}], margin {points[3]}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the rule says of one candidate."""

    label: str
    verdict: Verdict
    falls: tuple[Fall, ...]  # the score's first; none for the finest
    reason: str


@dataclasses.dataclass(frozen=True)
class Decision:
    """`winner` is None where the rule cannot tell; `sentence` says why, or recommends the winner."""

    winner: str | None
    sentence: str
    outcomes: tuple[Outcome, ...]

    def dump(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def decide(
    candidates: Sequence[Candidate],
    rule: Rule,
    expected: Sequence[str] = (),
    obstacle: str | None = None,
    incomplete: Mapping[str, str] | None = None,
) -> Decision:
    """Applies the rule.

    Args:
      candidates: the runs of one arm, in any order.
      rule: the rule.
      expected: labels without which there is no decision.
      obstacle: why nothing can be decided; None where something can.
      incomplete: what became of those expected that are no candidates, by label, as far as that is known.
    """
    ordered = sorted(candidates, key=lambda each: -each.latent_shape[0])
    known = [text for label, text in (incomplete or {}).items() if label not in {each.label for each in ordered}]
    if not ordered:
        return Decision(None, _undecided("; ".join(known) or "there is no run"), ())
    finest = ordered[0]
    outcomes = [Outcome(finest.label, "preferred", (), "the finest latent")]
    outcomes += [_judge(each, finest, rule) for each in ordered[1:]]
    known += [each.missing for each in ordered if each.missing]
    absent = [label for label in expected if label not in {*(incomplete or {}), *(each.label for each in ordered)}]
    obstacle = "; ".join([obstacle, *known]) if obstacle else _find_obstacle(ordered, outcomes, absent, known)
    if obstacle is None:
        winner, obstacle = _choose(ordered, outcomes)
        if winner is not None:
            return Decision(winner.label, _recommend(winner, finest, outcomes, rule), tuple(outcomes))
    return Decision(None, _undecided(obstacle or ""), tuple(outcomes))


def _judge(candidate: Candidate, finest: Candidate, rule: Rule) -> Outcome:
    """Half the finest resolution is judged by the score, a coarser one by every metric."""
    candidate = _with_zeros(candidate, finest)
    falls = [_fall(name, finest.detail[name].minus(candidate.detail[name]), rule) for name in rule.weights]
    score = _fall(SCORE, score_of(finest, rule).minus(score_of(candidate, rule)), rule)
    by_score = 2 * candidate.latent_shape[0] >= finest.latent_shape[0]
    judged = [score] if by_score else falls
    for verdict in ("beyond", "undecided"):
        failing = [fall for fall in judged if fall.verdict == verdict]
        if failing:
            worst = max(failing, key=lambda fall: fall.value if math.isfinite(fall.value) else -math.inf)
            return Outcome(candidate.label, verdict, (score, *falls), worst.describe(rule.margin))
    what = SCORE if by_score else "every detail metric"
    reason = f"{what} is within {100 * rule.margin:g} points of {finest.label}"
    return Outcome(candidate.label, "within", (score, *falls), reason)


def _with_zeros(candidate: Candidate, finest: Candidate) -> Candidate:
    """A metric that the finest run has and the candidate lacks (it draws no wall at all, say) is lost, and 0."""
    detail = {
        name: estimate if math.isnan(finest.detail[name].value) else _fill(estimate)
        for name, estimate in candidate.detail.items()
    }
    return dataclasses.replace(candidate, detail=detail)


def _fill(estimate: Estimate) -> Estimate:
    return estimate._replace(value=float(np.nan_to_num(estimate.value)), samples=np.nan_to_num(estimate.samples))


def score_of(candidate: Candidate, rule: Rule) -> Estimate:
    """The weighted mean of the detail metrics; one that does not exist (no small object, say) does not count."""
    weights = np.array(list(rule.weights.values()), np.float64)
    values = np.array([candidate.detail[name].value for name in rule.weights])
    samples = np.stack([candidate.detail[name].samples for name in rule.weights])
    num_scenes = next(iter(candidate.detail.values())).num_scenes
    return Estimate(float(_weighted_mean(values[:, None], weights)[0]), _weighted_mean(samples, weights), num_scenes)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    totals = np.where(there, weights[:, None], 0)
    summed = totals.sum(0)
    return np.divide((np.nan_to_num(values) * totals).sum(0), summed, np.full(len(summed), np.nan), where=summed > 0)


def _fall(metric: str, fall: Estimate, rule: Rule) -> Fall:
    low, high = fall.interval(rule.confidence)
    if high <= rule.margin or math.isnan(fall.value):  # a metric that does not exist forbids nothing
        verdict: Verdict = "within"
    else:
        verdict = "beyond" if low > rule.margin else "undecided"
    return Fall(metric, fall.value, low, high, verdict)


def _find_obstacle(
    ordered: Sequence[Candidate], outcomes: Sequence[Outcome], absent: Sequence[str], known: Sequence[str]
) -> str | None:
    """What makes any choice premature."""
    missing = [f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing"] if absent else []
    if missing or known:
        return "; ".join([*missing, *known])
    if len({each.latent_shape[:2] for each in ordered}) < 2:
        return "there are not two resolutions to compare"
    if all(fall.low <= 0 <= fall.high or math.isnan(fall.value) for each in outcomes for fall in each.falls):
        return "no detail metric tells the runs apart: every interval of a difference holds 0"
    return None


def _choose(ordered: Sequence[Candidate], outcomes: Sequence[Outcome]) -> tuple[Candidate | None, str | None]:
    """The cheapest candidate that may win; or why a cheaper one might still."""
    verdicts = {each.label: each for each in outcomes}
    for candidate in sorted(ordered, key=_cost_key(ordered)):
        outcome = verdicts[candidate.label]
        if outcome.verdict == "undecided":
            return None, f"{candidate.label} is cheaper and may or may not be good enough: {outcome.reason}"
        if outcome.verdict in ("preferred", "within"):
            return candidate, None
    raise AssertionError("the finest candidate is always preferred")


def _cost_key(ordered: Sequence[Candidate]) -> Any:
    """Measured seconds if all have them, else the latent's cells."""
    if all(each.cost is not None for each in ordered):
        return lambda each: each.cost
    return lambda each: each.latent_shape[0] * each.latent_shape[1]


def _recommend(winner: Candidate, finest: Candidate, outcomes: Sequence[Outcome], rule: Rule) -> str:
    height, width, channels = winner.latent_shape
    what = f"Take {winner.label}, the {height}x{width}x{channels} latent"
    if winner is finest:
        beyond = [f"{each.label}'s {each.reason}" for each in outcomes if each.verdict == "beyond"]
        return f"{what}: {'; '.join(beyond)}." if beyond else f"{what}: nothing that is good enough is cheaper."
    (outcome,) = [each for each in outcomes if each.label == winner.label]
    saved = ""
    if winner.cost is not None and finest.cost is not None:
        saved = f", at {winner.cost / finest.cost:.2f} times its cost in a diffusion training step with ControlNet"
    return f"{what}: {outcome.reason}{saved}."


def _undecided(reason: str) -> str:
    return f"Undecided, because {reason}."
