"""Which latent resolution to take, by the rule that configs/report.py states, and how sure that is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from imginav_jax.report.decision.verdict import Candidate, Fall, Outcome, Rule, judge, prefer, say_cost

Status = Literal["firm", "provisional", "undecided"]
_REPAIR = "what the reason names, once it is there"
_NARROWER = "more validation scenes or more seeds, for narrower intervals"


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to take, and how sure that is.

    Attributes:
      winner: its label; None where the rule cannot tell.
      sentence: recommends the winner, or says why there is none.
      outcomes: of every candidate, finest first.
      status: firm where more training could not change it, provisional where it could.
      would_change: the one fact that would change it.
    """

    winner: str | None
    sentence: str
    outcomes: tuple[Outcome, ...]
    status: Status = "undecided"
    would_change: str = ""

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
        return undecided("; ".join(known) or "there is no run", (), _REPAIR)
    finest = ordered[0]
    outcomes = (prefer(finest, rule), *(judge(each, finest, rule) for each in ordered[1:]))
    known += [each.missing for each in ordered if each.missing]
    absent = [label for label in expected if label not in {*(incomplete or {}), *(each.label for each in ordered)}]
    obstacle = "; ".join([obstacle, *known]) if obstacle else _find_missing(absent, known)
    if obstacle is not None:
        return undecided(obstacle, outcomes, _REPAIR)
    if (obstacle := _find_likeness(ordered, outcomes)) is not None:
        return undecided(obstacle, outcomes, _NARROWER)
    if outcomes[0].verdict == "undecided":
        return undecided(outcomes[0].reason, outcomes, train_on(finest))
    cheapest_first = sorted(ordered, key=_cost_key(ordered))
    return _choose(cheapest_first, finest, outcomes, rule)


def _find_missing(absent: Sequence[str], known: Sequence[str]) -> str | None:
    missing = [f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing"] if absent else []
    return "; ".join([*missing, *known]) or None


def _find_likeness(ordered: Sequence[Candidate], outcomes: Sequence[Outcome]) -> str | None:
    """Why there is nothing to choose between."""
    if len({each.latent_shape[:2] for each in ordered}) < 2:
        return "there are not two resolutions to compare"
    if all(fall.low <= 0 <= fall.high or math.isnan(fall.value) for each in outcomes for fall in each.falls):
        return "no detail metric tells the runs apart: every interval of a difference holds 0"
    return None


def _choose(
    cheapest_first: Sequence[Candidate], finest: Candidate, outcomes: tuple[Outcome, ...], rule: Rule
) -> Decision:
    """The cheapest candidate that may win; undecided where a cheaper one might still."""
    verdicts = {each.label: each for each in outcomes}
    passed: list[Candidate] = []
    for candidate in cheapest_first:
        passed.append(candidate)
        if verdicts[candidate.label].verdict in ("preferred", "within"):
            break
    open_ones = [each for each in passed if verdicts[each.label].verdict == "undecided"]
    if open_ones:
        return _leave_open(open_ones, verdicts, outcomes)
    winner, unsure = passed[-1], [each for each in passed if not verdicts[each.label].is_firm]
    sentence = _recommend(winner, finest, outcomes)
    if unsure:
        why, remedy = say_provisional(unsure, finest, verdicts)
        return Decision(winner.label, f"{sentence} Provisional, because {why}.", outcomes, "provisional", remedy)
    return Decision(winner.label, sentence, outcomes, "firm", say_firm([verdicts[each.label] for each in passed], rule))


def _leave_open(
    candidates: Sequence[Candidate], verdicts: Mapping[str, Outcome], outcomes: tuple[Outcome, ...]
) -> Decision:
    """Undecided for candidates that are cheaper than what is good enough."""
    reasons, untrained = [], []
    for each in candidates:
        outcome = verdicts[each.label]
        if outcome.held is not None and outcome.held.beats_run:
            untrained.append(each)
            reasons.append(outcome.reason)
        else:
            reasons.append(f"{each.label} is cheaper and may or may not be good enough: {outcome.reason}")
    remedy = train_on(untrained[0]) if untrained else _NARROWER
    return undecided("; ".join(reasons), outcomes, remedy)


def say_provisional(unsure: Sequence[Candidate], finest: Candidate, verdicts: Mapping[str, Outcome]) -> tuple[str, str]:
    """Returns why more training could change a decision, and what would settle it."""
    unknown = [each for each in (finest, *unsure) if each.earlier is None]
    if unknown:
        names = " and ".join(dict.fromkeys(each.label for each in unknown))
        why = f"no checkpoint from about half the training of {names} is left, so nobody can say how far it got"
        return why, train_on(unknown[-1])
    doubts = [_doubt(verdicts[each.label], each, finest) for each in unsure]
    improving = next((improving for _, improving in doubts if improving is not None), None)
    return "; ".join(why for why, _ in doubts), _NARROWER if improving is None else train_on(improving)


def _doubt(outcome: Outcome, candidate: Candidate, finest: Candidate) -> tuple[str, Candidate | None]:
    """Why a verdict may not stand, and the run that improves faster; None where too little is known to say."""
    fall = max((each for each in outcome.judged if each.verdict == outcome.verdict and not each.is_firm), key=_gap)
    ahead, other = (candidate, finest) if fall.gain > 0 else (finest, candidate)
    gained = f"the last doubling of training gave its {fall.metric} {abs(100 * fall.gain):.1f} points more than"
    if (fall.gain > 0) != (outcome.verdict == "beyond"):
        return (
            f"how much more training would change {candidate.label}'s {fall.metric} is not known closely enough",
            None,
        )
    why = f"{ahead.label} is still improving: {gained} {other.label}'s"
    return f"{why}, and once more might change the verdict on {candidate.label}", ahead


def _gap(fall: Fall) -> float:
    """Returns by how much the runs' gains differ; 0 where that is not known."""
    return 0.0 if math.isnan(fall.gain) else abs(fall.gain)


def train_on(candidate: Candidate) -> str:
    """Returns what would settle a decision that hangs on a run's training, with the command where one is known."""
    how = f": {candidate.go_on}" if candidate.go_on else ""
    return f"training {candidate.label} on{how}"


def say_firm(passed: Sequence[Outcome], rule: Rule) -> str:
    """Returns the smallest change of a metric that would change the decision."""
    nearest = []
    for outcome in passed:
        falls = [each for each in outcome.judged if each.verdict == outcome.verdict and math.isfinite(each.value)]
        if falls:  # one metric that leaves the margin is enough, but all that are beyond must come back
            choose = max if outcome.verdict == "beyond" else min
            points, metric = choose((abs(each.value - rule.margin), each.metric) for each in falls)
            better = "higher" if outcome.verdict == "beyond" else "lower"
            nearest.append((points, f"{outcome.label}'s {metric}, were it {100 * points:.1f} points {better}"))
    return min(nearest)[1] if nearest else "a cheaper resolution that is good enough"


def _cost_key(ordered: Sequence[Candidate]) -> Any:
    """Measured seconds if all have them, of the same, else the latent's cells."""
    if len({each.cost and each.cost.of for each in ordered}) == 1 and ordered[0].cost:
        return lambda each: each.cost.seconds
    return lambda each: each.latent_shape[0] * each.latent_shape[1]


def _recommend(winner: Candidate, finest: Candidate, outcomes: Sequence[Outcome]) -> str:
    height, width, channels = winner.latent_shape
    what = f"Take {winner.label}, the {height}x{width}x{channels} latent"
    if winner is finest:
        beyond = [f"{each.label}'s {each.reason}" for each in outcomes if each.verdict == "beyond"]
        return f"{what}: {'; '.join(beyond)}." if beyond else f"{what}: nothing that is good enough is cheaper."
    (outcome,) = [each for each in outcomes if each.label == winner.label]
    return f"{what}: {outcome.reason}{say_cost(winner, finest)}."


def undecided(reason: str, outcomes: tuple[Outcome, ...], remedy: str) -> Decision:
    """Returns the decision that there is none, with the reason and what would change it."""
    return Decision(None, f"Undecided, because {reason}.", outcomes, "undecided", remedy)
