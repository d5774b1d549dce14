"""What a measurement of control says: scores with intervals, and what they cost."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imginav_jax.report.decision.bootstrap import Estimate, Resampling
from imginav_jax.report.decision.metrics import DEMAND_METRICS, METRICS
from imginav_jax.report.measurement import realism
from imginav_jax.report.measurement.counts import Counts
from imginav_jax.report.measurement.realism import Mmd
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.results.control_file import Control, MeasuredLatent, Point, Trial
from imginav_jax.runs.results.noise_file import Noise

SCORES = {"walls": "wall_f_2", "contents": "presence_f1", "both": "wall_f_2"}  # by the condition
NEARLY = 0.9  # of the final score


class CurvePoint(NamedTuple):
    """The score after some training.

    Attributes:
      step: of the ControlNet.
      flops, seconds: of all training, the U-Net's included; means over the trainings.
    """

    step: float
    flops: float
    seconds: float
    score: Estimate


@dataclasses.dataclass(frozen=True)
class ControlScore:
    """What was measured on one kind of latents.

    Attributes:
      label: R1, or "R1 unshuffled, 8x8x64".
      run: the label of the run whose latents these are.
      num_trials: trainings, over all runs of the label.
      metric: of DEMAND_METRICS, which is the score.
      ceiling: of the autoencoder itself, by metric.
      blind: of the U-Net that is told nothing.
      shuffled: of the drawings, against what other layouts demand.
      drawn: of the drawings at equal steps.
      drawn_equal_flops: likewise at equal FLOPs.
      equal_steps, equal_flops: the curves of the score.
      realism: of the drawings, against held-out layouts; `best_realism`: of what the autoencoder makes of these.
      copied: share of the drawings that are nearly a training layout.
    """

    label: str
    run: str
    latent_shape: tuple[int, int, int]
    num_trials: int
    metric: str
    ceiling: Mapping[str, Estimate]
    blind: Mapping[str, Estimate]
    shuffled: Mapping[str, Estimate]
    drawn: Mapping[str, Estimate]
    drawn_equal_flops: Mapping[str, Estimate]
    equal_steps: tuple[CurvePoint, ...]
    equal_flops: tuple[CurvePoint, ...]
    realism: Mmd
    best_realism: Mmd
    copied: float

    @property
    def score(self) -> Estimate:
        return self.drawn[self.metric]

    @property
    def gap(self) -> Estimate:
        """What the diffusion model loses of what the autoencoder allows."""
        return self.ceiling[self.metric].minus(self.score)

    @property
    def nearly_there(self) -> CurvePoint | None:
        """Where the curve of equal steps first has 90 % of its last score."""
        return reach(self.equal_steps, NEARLY * self.score.value)


class MeasuredControl(NamedTuple):
    """One measurement and its scores."""

    control: Control
    scores: list[ControlScore]

    def covers(self, labels: Sequence[str]) -> bool:
        """Returns whether each of these runs was measured."""
        return {*labels} <= {each.label for each in self.scores}

    def of(self, label: str) -> ControlScore:
        return next(each for each in self.scores if each.label == label)

    def describe(self) -> str:
        """Returns the device and the precision."""
        return f"{self.control.device_kind}, {self.control.precision}"


class GivenControl(NamedTuple):
    """A score that each of some runs reaches, and what that takes.

    Attributes:
      target: 90 % of the lowest last score.
      seconds: of all training, by label.
    """

    target: float
    seconds: Mapping[str, float]


def reach_given(scores: Sequence[ControlScore]) -> GivenControl | None:
    """Returns what runs take to the control that each of them reaches; None where one of them shows none."""
    target = NEARLY * min(each.score.value for each in scores)
    if any(target <= each.shuffled[each.metric].value for each in scores):
        return None  # chance is no control
    points = {each.label: reach(each.equal_steps, target) for each in scores}
    if any(point is None for point in points.values()):
        return None
    return GivenControl(target, {label: point.seconds for label, point in points.items() if point is not None})


def reach(curve: Sequence[CurvePoint], target: float) -> CurvePoint | None:
    """Returns where a curve first has a score, linear between its points; None where it never has."""
    before = None
    for point in curve:
        if point.score.value >= target:
            if before is None:
                return point
            share = (target - before.score.value) / (point.score.value - before.score.value)
            step, flops, seconds = (
                (1 - share) * low + share * high for low, high in zip(before[:3], point[:3], strict=True)
            )
            return CurvePoint(step, flops, seconds, point.score)
        before = point
    return None


def score(control: Control, scenes: Sequence[str], config: RawConfig) -> list[ControlScore]:
    """Returns the scores, finest latent first.

    Args:
      control: what was measured.
      scenes: of each layout of the validation split, so that intervals rest on the draws that all others rest on.
      config: `bootstrap` of configs/report.py.
    """
    by_label: dict[str, list[MeasuredLatent]] = {}
    for latent in control.latents:
        by_label.setdefault(latent.label, []).append(latent)
    scoring = _Scoring(control, scenes, config)
    return [scoring.score(members) for members in by_label.values()]


class _Scoring:
    """Estimates of one measurement, all on one set of draws."""

    def __init__(self, control: Control, scenes: Sequence[str], config: RawConfig):
        self._control, self._scenes, self._confidence = control, scenes, config.confidence
        self._resampling = Resampling(scenes, config.samples, config.seed)

    def score(self, members: Sequence[MeasuredLatent]) -> ControlScore:
        trials = [trial for member in members for trial in member.trials]
        seeds = self._resampling.draw_seeds(len(trials))
        metric = SCORES[self._control.condition]

        def estimate(counts: Sequence[Counts], names: Sequence[str] = tuple(DEMAND_METRICS)) -> dict[str, Estimate]:
            chosen = {name: DEMAND_METRICS[name].compute for name in names}
            drawn = seeds if len(counts) == len(trials) else np.zeros_like(seeds)
            return self._resampling.estimate([self._spread(each) for each in counts], chosen, drawn)

        def curve(choose: Callable[[Trial], Sequence[Point]]) -> tuple[CurvePoint, ...]:
            return tuple(
                CurvePoint(
                    float(np.mean([each.step for each in at])),
                    float(np.mean([each.flops for each in at])),
                    float(np.mean([each.seconds for each in at])),
                    estimate([each.counts for each in at], [metric])[metric],
                )
                for at in zip(*map(choose, trials), strict=True)
            )

        first = members[0]
        return ControlScore(
            first.label, first.run, first.latent_shape, len(trials), metric,
            estimate([each.ceiling for each in members]),
            estimate([each.equal_steps[0].counts for each in trials]),
            estimate([each.shuffled for each in trials]),
            estimate([each.equal_steps[-1].counts for each in trials]),
            estimate([each.equal_flops[-1].counts for each in trials]),
            curve(lambda trial: trial.equal_steps),
            curve(lambda trial: trial.equal_flops),
            self._realism([each.features for each in trials]),
            self._realism([each.features for each in members]),
            float(np.mean([each.copied for each in trials])),
        )  # fmt: skip

    def _spread(self, counts: Counts) -> dict[str, np.ndarray]:
        """The counts with a row for every layout of the split, zeros where it was not drawn."""
        rows = list(self._control.held_out)
        spread = {}
        for name, values in counts.items():
            spread[name] = np.zeros((len(self._scenes), *values.shape[1:]))
            spread[name][rows] = values
        return spread

    def _realism(self, drawn: Sequence[np.ndarray]) -> Mmd:
        """Of the first training: pictures of several are no independent ones."""
        reference = self._control.training_features
        made, real = (realism.standardize(each, reference) for each in (drawn[0], self._control.features))
        scenes = [self._scenes[index] for index in self._control.held_out]
        return realism.mmd(made, real, scenes, self._confidence)


class NoiseScore(NamedTuple):
    """What is left of a layout with one strength of noise in its latent.

    Attributes:
      bits: that the latent carries at most.
      estimates: of the metrics that were asked for.
    """

    label: str
    latent_shape: tuple[int, int, int]
    sigma: float
    bits: float
    estimates: Mapping[str, Estimate]


def score_noise(noise: Noise, metrics: Sequence[str], scenes: Sequence[str], config: RawConfig) -> list[NoiseScore]:
    """Returns what is left, latent by latent, without noise first.

    Args:
      noise: what was measured.
      metrics: of METRICS.
      scenes: of each layout of the validation split.
      config: `bootstrap` of configs/report.py.
    """
    held_out = [scenes[index] for index in noise.held_out]
    resampling = Resampling(held_out, config.samples, config.seed)
    chosen = {name: METRICS[name].compute for name in metrics}
    by_label = {latent.label: latent for latent in reversed(noise.latents)}  # of the first seed
    return [
        NoiseScore(
            latent.label,
            latent.latent_shape,
            point.sigma,
            point.bits,
            resampling.estimate([point.counts], chosen, resampling.draw_seeds(1)),
        )
        for latent in reversed(by_label.values())
        for point in latent.points
    ]


def say(scores: Sequence[ControlScore]) -> str:
    """Returns what the measurement adds to the decision, in a sentence; empty for fewer than two runs."""
    runs = [each for each in scores if each.label == each.run]
    if len(runs) < 2:
        return ""
    finest, others = runs[0], runs[1:]
    return f"{_describe(finest)}; {'; '.join(_compare(each, finest) for each in others)}."


def _describe(finest: ControlScore) -> str:
    label = DEMAND_METRICS[finest.metric].label
    return (
        f"On {finest.label} the diffusion model draws what it is told with {label}, of {finest.score.value:.2f}, where "
        f"the autoencoder allows {finest.ceiling[finest.metric].value:.2f} and chance gives "
        f"{finest.shuffled[finest.metric].value:.2f}"
    )


def _compare(other: ControlScore, finest: ControlScore) -> str:
    target = NEARLY * finest.score.value
    of_finest, of_other = (reach(each.equal_steps, target) for each in (finest, other))
    if of_finest is not None and of_other is None:
        of_other = reach(other.equal_flops, target)
    if of_finest is None or of_other is None:
        more = other.drawn_equal_flops[other.metric].value
        return f"{other.label} stays at {other.score.value:.2f}, and at {more:.2f} with as many FLOPs"
    times = of_other.seconds / of_finest.seconds
    return (
        f"{other.label} gets to {NEARLY:.0%} of that in {times:.2f} times {finest.label}'s training time "
        f"({other.score.value:.2f} at equal steps)"
    )
