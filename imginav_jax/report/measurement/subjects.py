"""What the report measures: trained runs, yardsticks without training, and coarser forms of the finest latent."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.autoencoder import Autoencoder
from imginav_jax.datasets.pictures import spread_indices
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report.measurement import baselines, probe, structure
from imginav_jax.report.measurement.baselines import Projection
from imginav_jax.report.measurement.probe import Probe
from imginav_jax.runs import weights
from imginav_jax.runs.phase_folder import ComparedRun, Group

RGB, SEGMENTATION, PROBE = "rgb", "segmentation", "probe"  # outputs that are measured
_AT_ONCE = 32  # layouts in memory as pixels

Images = UInt8[np.ndarray, "b h w 3"]
Predictions = dict[str, np.ndarray]  # by output: pictures, uint8 [b h w 3], or class maps, uint8 [b h w]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
      label: what it is called; runs that differ in the seed alone share it.
      name: unique.
      kind: run, earlier for a run at a checkpoint of about half its training, or baseline where nothing was trained for
        this resolution.
      latent_shape: height, width and channels of what it keeps of a layout.
      key: JSON that decides what it makes of a layout.
      open: gets it ready; returns what makes its outputs of images.
      shares: the name of a subject whose other outputs are its own too; empty for none.
      run: the label of the run whose earlier checkpoint or cut latent this is; empty for others.
    """

    label: str
    name: str
    kind: Literal["run", "earlier", "baseline"]
    latent_shape: tuple[int, int, int]
    key: dict[str, Any]
    open: Callable[[], Callable[[Images], Predictions]]
    shares: str = ""
    run: str = ""


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """The training layouts that probes learn from."""

    source: LayoutSource
    limit: int
    settings: probe.Settings

    @functools.cached_property
    def indices(self) -> list[int]:
        return spread_indices(len(self.source), self.limit)

    def batches(self) -> list[list[int]]:
        return [self.indices[start : start + _AT_ONCE] for start in range(0, len(self.indices), _AT_ONCE)]

    def read(self, indices: Sequence[int]) -> Images:
        return self.source.images(indices)

    @functools.cached_property
    def labels(self) -> UInt8[np.ndarray, "n h w"]:
        parts = [self.read(batch) for batch in self.batches()]
        return np.concatenate([np.stack([structure.class_map(image)[0] for image in part]) for part in parts])

    def fit(self, latents: Float[np.ndarray, "n h w c"]) -> Probe:
        return probe.fit(latents, self.labels, self.settings)


class Model:
    """A run's autoencoder and what it makes of the probe's training layouts, each made when it is first wanted.

    Attributes:
      run: whose it is.
      step: of the checkpoint.
    """

    def __init__(self, run: ComparedRun, data: ProbeData, step: int | None = None):
        """`step`: of another checkpoint that is kept; None for the best one."""
        self.run, self._data = run, data
        self.step = run.trained.weights.step if step is None else step

    @functools.cached_property
    def autoencoder(self) -> Autoencoder:
        loaded, directory = self.run.trained.weights, self.run.trained.directory
        if self.step != loaded.step:
            loaded = weights.load_kept(directory, loaded, self.step)
        return Autoencoder(loaded, directory)

    @functools.cached_property
    def training_latents(self) -> Float[np.ndarray, "n h w c"]:
        batches = self._data.batches()
        return np.concatenate([self.autoencoder.encode(self._data.read(batch)) for batch in batches])

    def reconstruct(self, images: Images) -> Predictions:
        return self.decode(self.autoencoder.encode(images))

    def decode(self, latents: Float[np.ndarray, "b h w c"]) -> Predictions:
        """Returns the outputs of the heads that there are."""
        made = self.autoencoder.decode_heads(latents)
        outputs = {RGB: made.images, SEGMENTATION: made.classes}
        return {name: value for name, value in outputs.items() if value is not None}

    def key(self) -> list[Any]:
        """Returns what decides its outputs."""
        return [self.autoencoder.digest, self.run.trained.image_size]


def make_subjects(
    groups: Sequence[Group],
    models: Mapping[Path, Model],
    data: ProbeData,
    arms: Sequence[Sequence[str]],
    output: str,
) -> list[Subject]:
    """Returns runs first, then the yardsticks of each of their resolutions, then the runs at half their training.

    Args:
      groups: finest latent first.
      models: of each run, by workdir.
      data: what probes learn from.
      arms: labels of the groups that are compared with each other; the finest latent of each arm is cut to the others'.
      output: what a decision is made by beside the probe; all that is measured of an earlier checkpoint.
    """
    subjects = [_of_run(group, models[run.trained.directory], data) for group in groups for run in group.runs]
    size = groups[0].runs[0].trained.image_size
    for factor in sorted({group.compression for group in groups}):
        subjects += _without_training(size, factor)
    names = {subject.label: subject.name for subject in reversed(subjects)}
    for finest, coarser in _cuts(groups, arms):
        factor = coarser.compression // finest.compression
        model = models[finest.runs[0].trained.directory]
        subjects.append(_unshuffled(finest, factor, model, data, shares=names[finest.label]))
        subjects.append(_projected(finest, factor, coarser, model, data))
    subjects = list({subject.name: subject for subject in subjects}.values())
    compared = {label for labels in arms for label in labels}
    return subjects + [each for group in groups if group.label in compared for each in _earlier(group, data, output)]


def _cuts(groups: Sequence[Group], arms: Sequence[Sequence[str]]) -> Iterator[tuple[Group, Group]]:
    """Yields the finest group of each arm with each coarser one, finest first; runs of no arm are compared as one."""
    compared = {label for labels in arms for label in labels}
    others = [group.label for group in groups if group.label not in compared]
    for labels in (*arms, others):
        there = [group for group in groups if group.label in labels]
        for coarser in there[1:]:
            if coarser.compression > there[0].compression:
                yield there[0], coarser


def earlier_step(run: ComparedRun) -> int | None:
    """Returns the kept step nearest half the training of a run's best weights; None where none is near it."""
    best = run.trained.weights.step
    near = [step for step in run.trained.weights.kept if best / 4 <= step <= 3 * best / 4]
    return min(near, key=lambda step: abs(step - best / 2), default=None)


def _earlier(group: Group, data: ProbeData, output: str) -> list[Subject]:
    """Returns the group's runs at half their training; none where one of them has no checkpoint of then."""
    found = [(run, earlier_step(run)) for run in group.runs]
    subjects = []
    for run, step in found:
        if step is None:
            return []
        model = Model(run, data, step)
        subject = _of_run(group, model, data, (output, PROBE))
        key = {**subject.key, "outputs": [output, PROBE]}
        name = f"{subject.name}, step {step}"
        label = f"{group.label}, earlier"
        subjects.append(dataclasses.replace(subject, label=label, name=name, kind="earlier", key=key, run=group.label))
    return subjects


def _of_run(group: Group, model: Model, data: ProbeData, outputs: Sequence[str] | None = None) -> Subject:
    """Returns the subject of a run; `outputs`: those that count, None for all."""
    run = model.run
    name = group.label if len(group.runs) == 1 else f"{group.label} seed {run.seed}"

    def open_run() -> Callable[[Images], Predictions]:
        fitted = data.fit(model.training_latents)

        def predict(images: Images) -> Predictions:
            latents = model.autoencoder.encode(images)
            made = model.decode(latents) | {PROBE: np.asarray(probe.predict(fitted, latents))}
            return {name: value for name, value in made.items() if outputs is None or name in outputs}

        return predict

    key = {"run": model.key(), "probe": _probe_key(data)}
    return Subject(group.label, name, "run", run.latent_shape, key, open_run)


def _probe_key(data: ProbeData) -> list[Any]:
    return [data.limit, *data.settings]


def _without_training(size: int, factor: int) -> list[Subject]:
    cells = size // factor
    methods = [
        (f"majority colour, {cells}x{cells}", 1, baselines.majority_color),
        (f"area + nearest, {cells}x{cells}", 3, baselines.area_nearest),
        (f"area + bilinear, {cells}x{cells}", 3, baselines.area_bilinear),
    ]

    def subject(name: str, channels: int, method: Callable[..., Any]) -> Subject:
        def open_method() -> Callable[[Images], Predictions]:
            run = jax.jit(functools.partial(method, factor=factor))
            return lambda images: {RGB: np.asarray(run(images))}

        key = {"method": method.__name__, "factor": factor, "image_size": size}
        return Subject(name, name, "baseline", (cells, cells, channels), key, open_method)

    return [subject(*each) for each in methods]


def _unshuffled(finest: Group, factor: int, model: Model, data: ProbeData, shares: str) -> Subject:
    """The finest latent in the form of a coarser one: its pictures are the finest run's, its probe is its own."""
    height, width, channels = finest.latent_shape
    shape = height // factor, width // factor, channels * factor**2

    def open_latent() -> Callable[[Images], Predictions]:
        fitted = data.fit(baselines.unshuffle(model.training_latents, factor))

        def predict(images: Images) -> Predictions:
            wide = baselines.unshuffle(model.autoencoder.encode(images), factor)
            return {PROBE: np.asarray(probe.predict(fitted, wide))}

        return predict

    label = f"{finest.label} unshuffled, {shape[0]}x{shape[1]}x{shape[2]}"
    key = {"run": model.key(), "unshuffled": factor, "probe": _probe_key(data)}
    return Subject(label, label, "baseline", shape, key, open_latent, shares, finest.label)


def _projected(finest: Group, factor: int, coarser: Group, model: Model, data: ProbeData) -> Subject:
    """The finest latent unshuffled and cut to the very shape of a coarser one by principal components."""
    shape = coarser.latent_shape

    def open_latent() -> Callable[[Images], Predictions]:
        projection = Projection.fit(model.training_latents, factor, shape[2])
        fitted = data.fit(projection.project(model.training_latents))

        def predict(images: Images) -> Predictions:
            projected = projection.project(model.autoencoder.encode(images))
            made = model.decode(projection.restore(projected))
            return made | {PROBE: np.asarray(probe.predict(fitted, projected))}

        return predict

    label = f"{finest.label} unshuffled + PCA, {shape[0]}x{shape[1]}x{shape[2]}"
    key = {"run": model.key(), "projected": [factor, *shape], "probe": _probe_key(data)}
    return Subject(label, label, "baseline", shape, key, open_latent, run=finest.label)
