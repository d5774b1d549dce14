"""Measures the smoothness of the latents that a VAE test compares, now and at about half the training."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report.decision import vae
from imginav_jax.report.decision.bootstrap import Resampling
from imginav_jax.report.decision.vae import Comparison, Smoothness
from imginav_jax.report.decision.verdict import Rule
from imginav_jax.report.measurement import smoothness
from imginav_jax.report.measurement.subjects import Model, ProbeData, earlier_step
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.phase_folder import ComparedRun, PhaseRuns
from imginav_jax.system.progress import logger

_FEWEST_GROUPS = 2  # of pairs, that can be exchanged and drawn


class VaeTests:
    """The VAE tests of a report, on the first seed of each run."""

    def __init__(
        self, found: PhaseRuns, data: ProbeData, validation: LayoutSource, scenes: Sequence[str], config: RawConfig
    ):
        """`scenes`: of each validation layout; `config`: that of the report."""
        self._groups = {group.label: group for group in found.groups}
        self._data, self._validation, self._config = data, validation, config
        self._pairs = smoothness.choose_pairs(scenes, config.smoothness.pairs, config.smoothness.seed)

    def measure(self, name: str, rule: Rule, folder: Path) -> Smoothness | None:
        """Returns the smoothness of a test's two models; None without both, or with too few scenes.

        Args:
          name: of the test; that of an arm gives None.
          rule: whose confidence counts.
          folder: of what is kept.
        """
        labels = self._config.decision.vae_tests.get(name, ())
        groups = [self._groups[label] for label in labels if label in self._groups]
        if len(groups) < 2 or len({*self._pairs.groups}) < _FEWEST_GROUPS:
            return None
        runs = [group.runs[0] for group in groups]
        logger.info("Measuring what lies between the latents of %s ...", " and ".join(labels))
        now = self._compare(runs, [None, None], rule, folder)
        steps = [earlier_step(run) for run in runs]
        then = None if None in steps else self._compare(runs, steps, rule, folder)
        count = len(self._pairs)
        return Smoothness(
            count,
            now,
            earlier=None if then is None else Smoothness(count, then).verdict,
            is_capped=count == self._config.smoothness.pairs,
            has_more_seeds=any(len(group.runs) > 1 for group in groups),
        )

    def _compare(
        self, runs: Sequence[ComparedRun], steps: Sequence[int | None], rule: Rule, folder: Path
    ) -> tuple[Comparison, ...]:
        key = runs[0].trained.data["key"]
        models = [Model(run, self._data, step) for run, step in zip(runs, steps, strict=True)]
        first, second = (smoothness.measure(each, self._pairs, self._validation, key, folder) for each in models)
        bootstrap = self._config.bootstrap
        resampling = Resampling(self._pairs.groups, bootstrap.samples, bootstrap.seed)
        return vae.compare(first, second, self._real, self._pairs.groups, rule, resampling)

    @functools.cached_property
    def _real(self) -> Float[np.ndarray, "pairs features"]:
        return smoothness.measure_real(self._pairs, self._validation)
