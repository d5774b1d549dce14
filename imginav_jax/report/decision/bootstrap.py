"""How sure a metric is: paired bootstrap over scenes, and over seeds where a run was repeated."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from imginav_jax.report.measurement.counts import Counts

_AT_ONCE = 250  # resampled data sets whose sums are in memory


class Estimate(NamedTuple):
    """A metric's value and what it is on resampled data sets; those of two estimates belong together, one by one."""

    value: float
    samples: Float[np.ndarray, " samples"]
    num_scenes: int | None = None  # that were resampled; None: as many as one likes

    def interval(self, confidence: float) -> tuple[float, float]:
        """Returns the expanded percentile interval, NaN without samples.

        It is that of Hesterberg 2015 (doi:10.1080/00031305.2015.1089789).

        A plain percentile interval (Efron 1979, doi:10.1214/aos/1176344552) of few scenes is too narrow, as a normal
        one is beside Student's: its quantiles are moved out accordingly.
        """
        ordered = np.sort(self.samples[~np.isnan(self.samples)])
        if not len(ordered):
            return np.nan, np.nan
        outside = (1 - confidence) / 2
        if self.num_scenes is not None and self.num_scenes > 1:
            n = self.num_scenes
            outside = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(outside, n - 1)))
        # Samples as they are: between two infinite ones (PSNR of no error) nothing can be interpolated.
        low, high = (ordered[round((len(ordered) - 1) * share)] for share in (outside, 1 - outside))
        return float(low), float(high)

    def minus(self, other: "Estimate") -> "Estimate":
        """Returns the paired difference: what both have in common, hard scenes say, cancels."""
        return Estimate(self.value - other.value, self.samples - other.samples, self.num_scenes)


class Resampling:
    """Data sets drawn from one with replacement, scene by scene, since layouts of a scene are alike.

    Everything that it estimates is estimated on the same draws, so differences are paired.
    """

    def __init__(self, scenes: Sequence[str], samples: int, seed: int):
        """`scenes`: the scene of each layout."""
        _, self._scene_of_layout = np.unique(np.asarray(scenes), return_inverse=True)
        self._num_scenes = int(self._scene_of_layout.max()) + 1
        self._rng = np.random.default_rng(seed)
        drawn = self._rng.integers(0, self._num_scenes, (samples, self._num_scenes))
        self._times: Int[np.ndarray, "samples scenes"] = np.stack(
            [np.bincount(row, minlength=self._num_scenes) for row in drawn]
        )

    def draw_seeds(self, count: int) -> Float[np.ndarray, " samples"]:
        """Returns how far the mean over all seeds may lie from that of `count`, in standard errors; 0 for one alone.

        From Student's distribution: resampling two or three seeds would give far too narrow intervals.  To be shared
        by all metrics of the runs.
        """
        return self._rng.standard_t(count - 1, len(self._times)) if count > 1 else np.zeros(len(self._times))

    def estimate(
        self,
        runs: Sequence[Counts],
        metrics: Mapping[str, Callable[[Counts], Float[np.ndarray, " *batch"]]],
        drawn_seeds: Float[np.ndarray, " samples"],
    ) -> dict[str, Estimate]:
        """Returns each metric's mean over the runs.

        Args:
          runs: the counts of each repeated run, a layout a row, in the order of `scenes`.
          metrics: from summed counts, any leading axes, to values.
          drawn_seeds: of `draw_seeds`.
        """
        values = [{name: metric(_sum(counts)) for name, metric in metrics.items()} for counts in runs]
        samples = [self._resample(counts, metrics) for counts in runs]
        found = {}
        for name in metrics:
            by_run = np.array([each[name] for each in values])
            drawn = np.mean([each[name] for each in samples], 0)
            if len(runs) > 1:
                drawn = drawn + drawn_seeds * by_run.std(ddof=1) / math.sqrt(len(runs))
            found[name] = Estimate(float(by_run.mean()), drawn, self._num_scenes)
        return found

    def _resample(
        self, counts: Counts, metrics: Mapping[str, Callable[[Counts], Float[np.ndarray, " *batch"]]]
    ) -> dict[str, Float[np.ndarray, " samples"]]:
        by_scene = {name: self._sum_by_scene(values) for name, values in counts.items()}
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, len(self._times), _AT_ONCE):
            times = self._times[start : start + _AT_ONCE].astype(np.float64)
            drawn = {name: np.tensordot(times, values, 1) for name, values in by_scene.items()}
            parts.append({name: metric(drawn) for name, metric in metrics.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in metrics}

    def _sum_by_scene(self, values: Float[np.ndarray, "layouts ..."]) -> Float[np.ndarray, "scenes ..."]:
        sums = np.zeros((self._num_scenes, *values.shape[1:]))
        np.add.at(sums, self._scene_of_layout, values)
        return sums


def _sum(counts: Counts) -> dict[str, np.ndarray]:
    return {name: values.sum(0) for name, values in counts.items()}
