"""What was measured, as numbers with intervals: one result a label and output."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from imginav_jax.report.decision.bootstrap import Estimate, Resampling
from imginav_jax.report.decision.control import MeasuredControl, NoiseScore
from imginav_jax.report.decision.metrics import METRICS, Metric
from imginav_jax.report.decision.rule import Decision
from imginav_jax.report.decision.vae import Smoothness
from imginav_jax.report.measurement.measure import CountsByOutput
from imginav_jax.report.measurement.subjects import RGB, Subject
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.phase_folder import ComparedRun, PhaseRuns
from imginav_jax.runs.results.benchmark_file import Benchmark


@dataclasses.dataclass(frozen=True)
class Result:
    """A run, its seeds together, or a yardstick.

    Attributes:
      label: R1, say.
      kind: run, earlier for a run at about half its training, or baseline.
      latent_shape: height, width, channels.
      num_runs: seeds.
      estimates: by output and metric.
      layouts: the counts of the first seed, a layout a row, by output; for pictures of single layouts.
      run: the label of the run whose earlier checkpoint or cut latent this is; empty for others.
    """

    label: str
    kind: Literal["run", "earlier", "baseline"]
    latent_shape: tuple[int, int, int]
    num_runs: int
    estimates: Mapping[str, Mapping[str, Estimate]]
    layouts: CountsByOutput
    run: str = ""

    @property
    def latent_values(self) -> int:
        height, width, channels = self.latent_shape
        return height * width * channels

    def estimate(self, output: str, metric: str) -> Estimate | None:
        return self.estimates.get(output, {}).get(metric)


@dataclasses.dataclass(frozen=True)
class Report:
    """All that was found out."""

    found: PhaseRuns
    config: RawConfig  # of configs/report.py
    results: list[Result]  # of runs and yardsticks
    earlier: list[Result]  # of runs at about half their training
    decisions: dict[str, Decision]  # by arm; that whose winner goes on first
    across: str  # what the arms say together; empty for one
    benchmarks: list[Benchmark]
    control: list[MeasuredControl]
    noise: list[list[NoiseScore]]  # a measurement each
    costs: dict[str, str]  # by arm, what breaks a tie; empty where it is the number of cells
    smoothness: dict[str, Smoothness]  # by VAE test
    chosen: str  # the label of the run that a person has chosen for the next phase; empty where nobody has
    num_layouts: int  # of the validation split
    num_scenes: int

    @property
    def confidence(self) -> float:
        return self.config.bootstrap.confidence

    @property
    def first_decision(self) -> Decision:
        """That of the arm `decision.arm`, which the next phase starts from; the first one's where it has no run."""
        return next(iter(self.decisions.values()))

    @property
    def is_synthetic(self) -> bool:
        return self.evidence["data"] == "synthetic"

    @property
    def evidence(self) -> dict[str, Any]:
        """What the decision rests on: seeds a run and epochs (the fewest), validation scenes and layouts, data."""
        groups = self.found.groups
        return {
            "seeds": min(len(group.runs) for group in groups),
            "epochs": min(len(run.rows) for run in self.found.runs),
            "scenes": self.num_scenes,
            "layouts": self.num_layouts,
            "data": self.found.runs[0].trained.data["kind"],
        }

    def describe_evidence(self) -> str:
        """Returns the evidence in words."""
        found = self.evidence
        counted = [(found[name], name[:-1]) for name in ("seeds", "epochs", "scenes", "layouts")]
        seeds, epochs, scenes, layouts = (f"{count:,} {word}{'' if count == 1 else 's'}" for count, word in counted)
        kind = "synthetic layouts, which decide nothing for real ones" if self.is_synthetic else "layouts of a manifest"
        return f"{seeds} a run, {epochs}, {scenes} ({layouts}) of validation; {kind}"

    @property
    def choice(self) -> dict[str, str] | None:
        """Which run a person has chosen, and what the report had said; None where nobody has."""
        if not self.chosen:
            return None
        return {"winner": self.chosen, "chosen_by": "a person", "report_said": self.first_decision.sentence}

    @property
    def resolution_arms(self) -> dict[str, Decision]:
        """The decisions about resolution, and not about VAEs."""
        return {arm: each for arm, each in self.decisions.items() if arm not in self.config.decision.vae_tests}

    def winner(self) -> ComparedRun | None:
        """Returns the run that goes on to the next phase, its first seed; None where none has won, nor been chosen."""
        label = self.chosen or self.first_decision.winner
        return next((group.runs[0] for group in self.found.groups if group.label == label), None)


def metrics_of(output: str) -> dict[str, Metric]:
    """Returns the metrics that an output has: only RGB is a picture, and every output has classes."""
    return {name: metric for name, metric in METRICS.items() if output == RGB or metric.on == "classes"}


def make_results(
    subjects: Sequence[Subject], measured: Mapping[str, CountsByOutput], scenes: Sequence[str], config: RawConfig
) -> list[Result]:
    """Estimates on one set of draws for all, so that every difference is paired.

    Args:
      subjects: what was measured.
      measured: its counts, by the subject's name.
      scenes: of each layout.
      config: `bootstrap` of configs/report.py.
    """
    resampling = Resampling(scenes, config.samples, config.seed)
    by_label: dict[str, list[Subject]] = {}
    for subject in subjects:
        by_label.setdefault(subject.label, []).append(subject)
    results = []
    drawn_seeds: dict[str, Float[np.ndarray, " samples"]] = {}
    for label, members in by_label.items():
        first, counts = members[0], [measured[subject.name] for subject in members]
        # A run and its earlier checkpoint share their seeds, and so their luck.
        drawn = drawn_seeds.get(first.run) if first.kind == "earlier" else None
        drawn = drawn_seeds[label] = resampling.draw_seeds(len(members)) if drawn is None else drawn
        estimates = {
            output: resampling.estimate(
                [each[output] for each in counts],
                {name: metric.compute for name, metric in metrics_of(output).items()},
                drawn,
            )
            for output in counts[0]
        }
        results.append(Result(label, first.kind, first.latent_shape, len(members), estimates, counts[0], first.run))
    return results
