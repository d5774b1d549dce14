"""Makes of what was measured the candidates that the rule judges, with their yardsticks and their earlier training."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.control import ControlScore, MeasuredControl, reach_given
from imginav_jax.report.decision.metrics import DEMAND_METRICS, METRICS
from imginav_jax.report.decision.outlook import Earlier
from imginav_jax.report.decision.results import Result
from imginav_jax.report.decision.verdict import Candidate, Cost, Rule
from imginav_jax.report.decision.yardsticks import Yardstick
from imginav_jax.report.measurement.subjects import PROBE, RGB, earlier_step
from imginav_jax.report.settings import CONTROL, PROBE_PREFIX
from imginav_jax.runs import continuation
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.phase_folder import Group, PhaseRuns


class Candidates:
    """The candidates of a report by their labels.

    Attributes:
      rule: with the names that a person reads, and the linear probe in the place of control.
      incomplete: what became of experiments that have not come to their end, by label.
    """

    def __init__(
        self,
        found: PhaseRuns,
        results: Sequence[Result],
        costs: tuple[Mapping[tuple[int, ...], float], str],
        control: Sequence[MeasuredControl],
        config: RawConfig,
    ):
        """`costs`: seconds of a diffusion model's training step by latent shape, and where they were measured."""
        self._config, self._costs, self._control = config, costs, control
        self._groups = {group.label: group for group in found.groups}
        self._results = {result.label: result for result in results if result.kind == "run"}
        self._earlier = {result.run: result for result in results if result.kind == "earlier"}
        self._yardsticks = [result for result in results if result.kind == "baseline"]
        weights = {
            _describe_detail(name): weight for name, weight in config.decision.weights.items() if name != CONTROL
        }
        self.rule = Rule(config.decision.margin, weights, config.bootstrap.confidence)
        self.incomplete: dict[str, str] = {}
        for each in found.incomplete:
            texts = [self.incomplete[each.experiment]] if each.experiment in self.incomplete else []
            self.incomplete[each.experiment] = "; ".join([*texts, each.describe()])

    def of(self, arm: Sequence[str]) -> tuple[list[Candidate], Rule]:
        """Returns the candidates of an arm, as far as they were measured, and the rule for them.

        Where control was measured of all of them, and counts, it is a detail metric instead of the linear probe, and
        cost is the time to the control that each of them reaches.
        """
        there = [label for label in arm if label in self._results]
        measured = next((each for each in self._control if there and each.covers(there)), None)
        scores = [measured.of(label) for label in there] if measured else []
        given = reach_given(scores) if scores else None
        rule = self.rule
        weight = self._config.decision.weights.get(CONTROL, 0)
        if measured is not None and weight > 0:
            of_probe = [
                _describe_detail(name) for name in self._config.decision.weights if name.startswith(PROBE_PREFIX)
            ]
            weights = {name: each for name, each in rule.weights.items() if name not in of_probe}
            rule = dataclasses.replace(rule, weights={**weights, _describe_control(scores[0]): weight})
        costs = self._step_costs(there)
        if measured is not None and given is not None:
            label = DEMAND_METRICS[scores[0].metric].label
            what = f"the training time to {label} of {given.target:.2f} ({measured.describe()})"
            costs = {label: Cost(seconds, what) for label, seconds in given.seconds.items()}
        candidates = [self._candidate(label, there, costs.get(label)) for label in there]
        for index, each in enumerate(scores):
            detail = {**candidates[index].detail, _describe_control(each): each.score}
            candidates[index] = dataclasses.replace(candidates[index], detail=detail)
        return candidates, rule

    def _step_costs(self, labels: Sequence[str]) -> dict[str, Cost]:
        """By label."""
        seconds, where = self._costs
        what = f"a diffusion training step with ControlNet ({where})"
        shapes = {label: self._results[label].latent_shape for label in labels}
        return {label: Cost(seconds[shape], what) for label, shape in shapes.items() if shape in seconds}

    def _candidate(self, label: str, arm: Sequence[str], cost: Cost | None) -> Candidate:
        result, group = self._results[label], self._groups[label]
        return Candidate(
            label,
            result.latent_shape,
            self._detail(result),
            cost,
            self.incomplete.get(label),
            self._find_earlier(group),
            tuple(
                Yardstick(each.label, self._detail(each))
                for each in self._yardsticks
                if each.run in ("", *arm) and _bounds(each, result)
            ),
            continuation.command(group.runs[0], 2 * group.runs[0].num_epochs),
        )

    def _find_earlier(self, group: Group) -> Earlier | None:
        result = self._earlier.get(group.label)
        if result is None:
            return None
        steps = [(earlier_step(run), run.trained.weights.step) for run in group.runs]
        doublings = [math.log2(best / step) for step, best in steps if step is not None]
        return Earlier(self._detail(result), float(np.mean(doublings)))

    def _detail(self, result: Result) -> dict[str, Estimate]:
        """Returns the estimates that the rule weighs, as far as they were measured, by what a person calls them."""
        found = {}
        for name in (each for each in self._config.decision.weights if each != CONTROL):
            metric = name.removeprefix(PROBE_PREFIX)
            output = PROBE if metric != name else self._config.decision.output
            estimate = result.estimate(output, metric)
            if estimate is None and output != PROBE:  # a method without a model has pictures alone
                estimate = result.estimate(RGB, metric)
            if estimate is not None:
                found[_describe_detail(name)] = estimate
        return found


def _bounds(yardstick: Result, run: Result) -> bool:
    """Whether a yardstick says what a run's shape holds: the same cells, no more values, not the run's own latent."""
    return (
        yardstick.latent_shape[:2] == run.latent_shape[:2]
        and yardstick.latent_values <= run.latent_values
        and yardstick.run != run.label
    )


def _describe_detail(name: str) -> str:
    label = METRICS[name.removeprefix(PROBE_PREFIX)].label
    return f"probe's {label}" if name.startswith(PROBE_PREFIX) else label


def _describe_control(score: ControlScore) -> str:
    return f"control's {DEMAND_METRICS[score.metric].label}"
