"""Makes of what was measured the candidates that the rule judges, with their yardsticks and their earlier training."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.outlook import Earlier
from imginav_jax.report.decision.results import Result
from imginav_jax.report.decision.verdict import Candidate, Rule
from imginav_jax.report.decision.yardsticks import Yardstick
from imginav_jax.report.measurement.subjects import PROBE, RGB, earlier_step
from imginav_jax.report.settings import PROBE_PREFIX
from imginav_jax.runs import continuation
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.phase_folder import Group, PhaseRuns


class Candidates:
    """The candidates of a report by their labels.

    Attributes:
      rule: with the names that a person reads.
      incomplete: what became of experiments that have not come to their end, by label.
    """

    def __init__(
        self, found: PhaseRuns, results: Sequence[Result], costs: Mapping[tuple[int, ...], float], config: RawConfig
    ):
        """`costs`: seconds of a diffusion model's training step by latent shape."""
        self._config, self._costs = config, costs
        self._groups = {group.label: group for group in found.groups}
        self._results = {result.label: result for result in results if result.kind == "run"}
        self._earlier = {result.run: result for result in results if result.kind == "earlier"}
        self._yardsticks = [result for result in results if result.kind == "baseline"]
        weights = {_describe_detail(name): weight for name, weight in config.decision.weights.items()}
        self.rule = Rule(config.decision.margin, weights, config.bootstrap.confidence)
        self.incomplete: dict[str, str] = {}
        for each in found.incomplete:
            texts = [self.incomplete[each.experiment]] if each.experiment in self.incomplete else []
            self.incomplete[each.experiment] = "; ".join([*texts, each.describe()])

    def candidate(self, label: str, arm: Sequence[str]) -> Candidate | None:
        """Returns the candidate of a label among those of an arm; None where nothing of it was measured."""
        result = self._results.get(label)
        if result is None:
            return None
        group, shape = self._groups[label], result.latent_shape
        return Candidate(
            label,
            shape,
            self._detail(result),
            self._costs.get(shape),
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
        for name in self._config.decision.weights:
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
