"""Several arms, one answer: what changes with the architecture, and what with the resolution."""

import itertools
from collections.abc import Mapping, Sequence

from imginav_jax.report.decision.verdict import SCORE, Candidate, Rule, say_cost, score_of


def compare(arms: Mapping[str, Sequence[Candidate]], rule: Rule) -> str:
    """Returns a paragraph across arms, the first one the reference; empty for fewer than two.

    Args:
      arms: the candidates of each arm, by its name.
      rule: whose score and margin count.
    """
    if len(arms) < 2:
        return ""
    ordered = {
        name.replace("_", " "): sorted(each, key=lambda one: -one.latent_shape[0])
        for name, each in arms.items()
        if each
    }
    (first, reference), *others = ordered.items()
    sentences = [_by_resolution(name, each, rule) for name, each in ordered.items() if len(each) > 1]
    for name, each in others:
        sentences += [_by_architecture(first, reference, name, each, rule), *_equals(reference, each, rule)]
    return " ".join(filter(None, sentences))


def _by_resolution(arm: str, candidates: Sequence[Candidate], rule: Rule) -> str:
    """What an arm loses from its finest to its coarsest latent."""
    finest, coarsest = candidates[0], candidates[-1]
    return (
        f"In the {arm} arm the {SCORE} goes from {_points(finest, rule)} with {_describe(finest)} to "
        f"{_points(coarsest, rule)} with {_describe(coarsest)}."
    )


def _by_architecture(
    first: str, reference: Sequence[Candidate], arm: str, candidates: Sequence[Candidate], rule: Rule
) -> str:
    """What another arm changes at the same latent."""
    pairs = [
        (mine, theirs)
        for mine, theirs in itertools.product(candidates, reference)
        if mine.latent_shape == theirs.latent_shape and mine.label != theirs.label
    ]
    changes = [f"{_difference(mine, theirs, rule)} at {_shape(mine)}" for mine, theirs in pairs]
    return f"At the same latent, {arm} instead of {first} changes it by {', '.join(changes)} points." if pairs else ""


def _equals(reference: Sequence[Candidate], candidates: Sequence[Candidate], rule: Rule) -> list[str]:
    """Which coarse run of an arm is as good as a finer one of the reference; the finest of these alone."""
    sentences = []
    for mine in candidates:
        finer = [each for each in reference if each.latent_shape[0] > mine.latent_shape[0]]
        kept = [each for each in finer if _fall_is_within(each, mine, rule)]
        if kept:
            sentences.append(
                f"{mine.label} keeps {kept[0].label}'s {SCORE} ({_difference(mine, kept[0], rule)} points) with a "
                f"latent of {_shape(mine)}{say_cost(mine, kept[0])}."
            )
    return sentences


def _fall_is_within(finer: Candidate, coarser: Candidate, rule: Rule) -> bool:
    return score_of(finer, rule).minus(score_of(coarser, rule)).interval(rule.confidence)[1] <= rule.margin


def _difference(candidate: Candidate, other: Candidate, rule: Rule) -> str:
    found = score_of(candidate, rule).minus(score_of(other, rule))
    low, high = found.interval(rule.confidence)
    return f"{100 * found.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _points(candidate: Candidate, rule: Rule) -> str:
    return f"{100 * score_of(candidate, rule).value:.1f}"


def _describe(candidate: Candidate) -> str:
    return f"{candidate.label} ({_shape(candidate)})"


def _shape(candidate: Candidate) -> str:
    return "x".join(map(str, candidate.latent_shape))
