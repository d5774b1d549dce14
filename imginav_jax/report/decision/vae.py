"""Whether the variational autoencoder is to be taken, by the rule that configs/report.py states for VAE tests."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from imginav_jax.report.decision.bootstrap import Resampling
from imginav_jax.report.decision.rule import Decision, say_firm, say_provisional, train_on, undecided
from imginav_jax.report.decision.verdict import Candidate, Outcome, Rule, judge, prefer
from imginav_jax.report.measurement import fidelity, realism
from imginav_jax.report.measurement.counts import Counts

_REPAIR = "what the reason names, once it is there"
PALETTE, MMD = "palette share of the midpoints", "midpoints' MMD² to real layouts"

Verdict = Literal["smoother", "not smoother", "undecided"]
_SAID: dict[Verdict, str] = {
    "smoother": "smoother",
    "not smoother": "not smoother",
    "undecided": "neither shown to be smoother nor not",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One measure of midpoints.

    Attributes:
      name: of the measure.
      deterministic, variational: its values.
      gain: by how much the variational model's is better, with its interval.
    """

    name: str
    deterministic: float
    variational: float
    gain: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["better", "worse", "open"]:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "open"

    def describe(self) -> str:
        """Returns the comparison in words, the variational model's first."""
        numbers = [f"{number:.3f}" for number in (self.variational, self.deterministic, self.low, self.high)]
        return f"{self.name} {numbers[0]} against {numbers[1]} (better by {numbers[2]} to {numbers[3]})"


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """What lies between the latents of a deterministic and a variational model, compared on the same pairs.

    Attributes:
      pairs: that were decoded.
      measures: the palette share and the MMD.
      earlier: the verdict at about half the training of both; None where no checkpoints of then are left.
      is_capped: whether the config asks for no more pairs than these.
      has_more_seeds: whether a model has runs with other seeds, which were not decoded.
    """

    pairs: int
    measures: tuple[Comparison, ...]
    earlier: Verdict | None = None
    is_capped: bool = False
    has_more_seeds: bool = False

    @property
    def verdict(self) -> Verdict:
        """Smoother where one measure is better and none worse, beyond the intervals; the other way round not."""
        found = {each.verdict for each in self.measures}
        if found >= {"better", "worse"} or found == {"open"}:
            return "undecided"
        return "smoother" if "better" in found else "not smoother"

    def describe(self) -> str:
        """Returns both measures in words."""
        seeds = " of the first seeds" if self.has_more_seeds else ""
        return f"{' and '.join(each.describe() for each in self.measures)} over {self.pairs} pairs{seeds}"

    @property
    def doubt(self) -> str:
        """Why the verdict may not stand; empty where it was the same at about half the training."""
        if self.earlier is None:
            return "no checkpoint from about half the training is left, whose latents could be compared"
        if self.earlier == self.verdict:
            return ""
        return f"at about half the training the latents were {_SAID[self.earlier]}"


def compare(
    deterministic: Counts,
    variational: Counts,
    real: Float[np.ndarray, "pairs features"],
    groups: Sequence[str],
    rule: Rule,
    resampling: Resampling,
) -> tuple[Comparison, ...]:
    """Returns what two models decode from the middle of the same pairs of latents, compared.

    Args:
      deterministic, variational: of `smoothness.measure`.
      real: the statistics of the first layout of each pair.
      groups: of the pairs.
      rule: whose confidence counts.
      resampling: over `groups`.
    """
    models = deterministic, variational
    shares = []
    for counts in models:
        of_palette = {"palette_fidelity": counts["palette_fidelity"], "pictures": np.ones(len(groups))}
        compute = {PALETTE: fidelity.palette_fidelity}
        shares.append(resampling.estimate([of_palette], compute, resampling.draw_seeds(1))[PALETTE])
    gain = shares[1].minus(shares[0])
    first, second, target = (
        realism.standardize(each, real) for each in (deterministic["features"], variational["features"], real)
    )
    before, after = (realism.mmd(each, target, groups, rule.confidence).value for each in (first, second))
    fall = realism.compare_mmd(first, second, target, groups, rule.confidence)
    return (
        Comparison(PALETTE, shares[0].value, shares[1].value, gain.value, *gain.interval(rule.confidence)),
        Comparison(MMD, before, after, fall.value, fall.low, fall.high),
    )


def decide(
    candidates: Sequence[Candidate],
    rule: Rule,
    expected: Sequence[str],
    smoothness: Smoothness | None,
    obstacle: str | None = None,
    incomplete: Mapping[str, str] | None = None,
) -> Decision:
    """Applies the rule.

    Args:
      candidates: the runs that there are.
      rule: margin, detail metrics and confidence.
      expected: the labels of the deterministic and of the variational model.
      smoothness: of both; None where one is missing.
      obstacle: why nothing can be decided; None where something can.
      incomplete: what became of those that have not come to their end, by label.
    """
    there = {each.label: dataclasses.replace(each, yardsticks=()) for each in candidates}
    known = incomplete or {}
    absent = [f"{label} is missing" for label in expected if label not in there and label not in known]
    reasons = [*([obstacle] if obstacle else []), *absent, *known.values()]
    if len(there) < len(expected):
        return undecided("; ".join(reasons), (), _REPAIR)
    reference, tested = (there[label] for label in expected)
    outcomes = _outcomes(reference, tested, rule)
    if reasons or smoothness is None:
        return undecided("; ".join(reasons) or "its midpoints were not measured", outcomes, _REPAIR)
    if outcomes[1].verdict == "undecided":
        reason = f"{tested.label} may or may not be good enough: {outcomes[1].reason}"
        return undecided(reason, outcomes, "more validation scenes or more seeds, for narrower intervals")
    change = say_firm([outcomes[1]], rule)
    doubt, remedy = ("", change)
    if not outcomes[1].is_firm:
        doubt, remedy = say_provisional([tested], reference, {tested.label: outcomes[1]})
    if outcomes[1].verdict == "beyond":
        sentence = f"Take {reference.label}: {tested.label}'s {outcomes[1].reason}."
        return _decided(reference, sentence, outcomes, doubt, remedy)
    return _by_smoothness(reference, tested, smoothness, outcomes, doubt, remedy)


def _outcomes(reference: Candidate, tested: Candidate, rule: Rule) -> tuple[Outcome, Outcome]:
    preferred = dataclasses.replace(prefer(reference, rule), reason="the deterministic model")
    return preferred, judge(tested, reference, rule, by_score=False)


def _by_smoothness(
    reference: Candidate,
    tested: Candidate,
    smoothness: Smoothness,
    outcomes: tuple[Outcome, ...],
    doubt: str,
    remedy: str,
) -> Decision:
    """Where no detail is lost; `doubt` that this stands, and what would settle it or change it."""
    between = smoothness.describe()
    if smoothness.verdict == "undecided":
        return undecided(f"nothing says whose latents are smoother: {between}", outcomes, _want_pairs(smoothness))
    if smoothness.doubt:
        remedy = train_on(tested)
    if smoothness.verdict == "not smoother":
        sentence = f"Take {reference.label}: the latents of {tested.label} are not smoother: {between}."
        settled = remedy if smoothness.doubt else "smoother latents, by another loss.kl"
        return _decided(reference, sentence, outcomes, smoothness.doubt, settled)
    sentence = f"Take {tested.label}: {outcomes[1].reason}, and its latents are smoother: {between}."
    return _decided(tested, sentence, outcomes, "; ".join(filter(None, [doubt, smoothness.doubt])), remedy)


def _want_pairs(smoothness: Smoothness) -> str:
    what = "a larger smoothness.pairs in the report's config" if smoothness.is_capped else "more validation scenes"
    return f"{what}, for narrower intervals"


def _decided(winner: Candidate, sentence: str, outcomes: tuple[Outcome, ...], doubt: str, remedy: str) -> Decision:
    if not doubt:
        return Decision(winner.label, sentence, outcomes, "firm", remedy)
    return Decision(winner.label, f"{sentence} Provisional, because {doubt}.", outcomes, "provisional", remedy)
