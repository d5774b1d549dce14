"""What other commands have left in the phase folders: benchmarks, and measurements of control and noise tolerance.

A file that cannot be used, or that is of other weights, is a problem of the report and not its end.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from imginav_jax.report.decision.control import MeasuredControl, NoiseScore, score, score_noise
from imginav_jax.runs import weights
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.phase_folder import PhaseRuns
from imginav_jax.runs.results import benchmark_file, control_file, noise_file
from imginav_jax.runs.results.benchmark_file import Benchmark
from imginav_jax.system.errors import UserError
from imginav_jax.system.progress import logger

NOISE_METRICS = ("mean_iou", "boundary_f_1", "wall_cldice", "small_object_recall")
_File = TypeVar("_File")
_Measured = TypeVar("_Measured", control_file.Control, noise_file.Noise)


class OtherResults:
    """The files of the phase folders of some runs."""

    def __init__(self, found: PhaseRuns, scenes: Sequence[str], config: RawConfig):
        """`scenes`: of each validation layout; `config`: `bootstrap` of configs/report.py."""
        self._found, self._scenes, self._config = found, scenes, config
        self._folders = list(dict.fromkeys([found.phase_dir, *(run.phase_dir for run in found.runs)]))

    def benchmarks(self) -> list[Benchmark]:
        """Returns those of every device."""
        return list(self._load(lambda folder: sorted(folder.glob("benchmark_*.json")), benchmark_file.load))

    def control(self) -> list[MeasuredControl]:
        """Returns the measurements of these very weights, with their scores."""
        found = self._load(control_file.find, lambda path: self._fitting(path, control_file.load(path)))
        return [MeasuredControl(each, score(each, self._scenes, self._config)) for each in found if each.latents]

    def noise(self) -> list[list[NoiseScore]]:
        """Returns those of these very weights, scored by NOISE_METRICS."""
        found = self._load(noise_file.find, lambda path: self._fitting(path, noise_file.load(path)))
        return [score_noise(each, NOISE_METRICS, self._scenes, self._config) for each in found if each.latents]

    def _load(self, find: Callable[[Path], Sequence[Path]], load: Callable[[Path], _File]) -> Iterator[_File]:
        for path in (path for folder in self._folders for path in find(folder)):
            try:
                yield load(path)
            except UserError as error:
                logger.warning("%s", error)
                self._found.problems.append(str(error))

    def _fitting(self, path: Path, measured: _Measured) -> _Measured:
        """What was measured of these runs; UserError if it was on other layouts, or of other weights."""
        runs = {run.name: run for run in self._found.runs}
        first = self._found.runs[0].trained
        if measured.data_key != first.data["key"] or max(measured.held_out) >= len(self._scenes):
            raise UserError(f"{path} is of other layouts, and does not count here")
        latents: tuple[Any, ...] = tuple(latent for latent in measured.latents if latent.name in runs)
        for latent in latents:
            if weights.digest(runs[latent.name].trained.weights) != latent.digest:
                raise UserError(f"{path} is of other weights of {latent.name}: measure again")
        return dataclasses.replace(measured, latents=latents)


def diffusion_costs(benchmarks: Sequence[Benchmark], image_size: int) -> tuple[Mapping[tuple[int, ...], float], str]:
    """Returns seconds of a ControlNet's training step by latent shape, and where they were measured.

    Those of the first card measured at the runs' image size; none and an empty text where there is none.
    """
    for benchmark in benchmarks:
        if benchmark.image_size == image_size:
            seconds = {
                each.latent_shape: each.controlnet.timing.seconds_per_batch.median for each in benchmark.diffusion
            }
            return seconds, f"{benchmark.device_kind}, {benchmark.precision}"
    return {}, ""
