"""Measures control on the latents of several runs: what a ControlNet draws, against what it was told to draw."""

import dataclasses
import functools
import hashlib
import json
from concurrent.futures import Executor
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from imginav_jax.control import demands, noise
from imginav_jax.control.demands import Demands
from imginav_jax.control.equal_compute import equal_flops_steps
from imginav_jax.control.judge import Drawing, Judge, other_scene, snap
from imginav_jax.control.latents import Latents, open_latents
from imginav_jax.control.settings import Settings
from imginav_jax.control.training import Asked, Data, Programs, Stage, Trainer, make_points
from imginav_jax.datasets.pictures import spread_indices
from imginav_jax.datasets.preparation import TRAIN, VALIDATION
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.models.diffusion import flow_matching
from imginav_jax.models.diffusion.steps import Recipe
from imginav_jax.report.measurement import measure as report_measure
from imginav_jax.report.measurement import realism
from imginav_jax.runs.phase_folder import PhaseRuns
from imginav_jax.runs.results.control_file import Control, MeasuredLatent, Trial
from imginav_jax.runs.results.noise_file import Noise, NoisyLatent
from imginav_jax.system.errors import UserError
from imginav_jax.system.progress import logger
from imginav_jax.system.signals import Stop

MIN_SCENES = 10  # held out, for an interval
_GRID_FACTOR = 4  # the U-Net halves a latent twice
_SHOWN = 6  # layouts in pictures
_DRAWINGS = 2  # of each
_FOR_FEATURES = 512  # training layouts, at most


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Layouts of the validation split whose demands are drawn."""

    indices: list[int]
    scenes: list[str]
    images: np.ndarray
    demands: Demands
    features: Float[np.ndarray, "n features"]


class Measurement:
    """What all latents share."""

    def __init__(self, found: PhaseRuns, settings: Settings, folder: Path, stop: Stop, pool: Executor):
        """`folder`: of what is kept until the measurement is whole.

        Raises:
          UserError: a run's data is gone, too few scenes are held out, or a latent's grid does not suit the U-Net.
        """
        self.settings, self._folder, self._stop, self._pool = settings, folder, stop, pool
        trained = found.runs[0].trained
        directory = trained.find_data()
        self.image_size, self.data_key = trained.image_size, trained.data["key"]
        self._training, validation = (LayoutSource(directory, split) for split in (TRAIN, VALIDATION))
        self.mesh = Mesh(np.array(jax.devices()), ("data",))
        if settings.batch_size % self.mesh.size:
            raise UserError(f"--batch-size is {settings.batch_size}, expected a multiple of {self.mesh.size} devices")
        for run in found.runs:
            require_grid(run.name, run.latent_shape)
        self.scenes = validation.scene_ids()
        self.held_out = self._hold_out(validation)
        self.of_runs = [open_latents(group.label, run) for group in found.groups for run in group.runs]

    @functools.cached_property
    def latents(self) -> list[Latents]:
        """Of every run, and the finest one's in the next grid."""
        return [*self.of_runs, *self._coarser()]

    @functools.cached_property
    def programs(self) -> dict[str, Programs]:
        """By label."""
        return {each.label: self._make_programs(each) for each in self.latents}

    @functools.cached_property
    def _demands(self) -> Demands:
        logger.info("%-12s of %d training layouts", "Demands", len(self._training))
        return demands.read(self._training, range(len(self._training)), self._pool, keep_classes=False)

    @functools.cached_property
    def training_features(self) -> Float[np.ndarray, "n features"]:
        """Of some training layouts."""
        some = spread_indices(len(self._training), _FOR_FEATURES)
        return demands.read_features(self._training, some, self._pool)

    def _hold_out(self, validation: LayoutSource) -> HeldOut:
        indices = list(spread_indices(len(validation), self.settings.held_out))
        indices = indices[: len(indices) // self.mesh.size * self.mesh.size]
        scenes = [self.scenes[index] for index in indices]
        if len(set(scenes)) < MIN_SCENES:
            raise UserError(
                f"the {len(indices)} held-out layouts are of {len(set(scenes))} scenes, expected at least {MIN_SCENES} "
                "for an interval"
            )
        found = demands.read(validation, indices, self._pool, keep_classes=True)
        features = demands.read_features(validation, indices, self._pool)
        return HeldOut(indices, scenes, validation.images(indices), found, features)

    def _coarser(self) -> list[Latents]:
        """The finest latents in the next coarser grid that there is: they separate the grid from the information."""
        side = max(each.shape[0] for each in self.of_runs)
        coarser = [each.shape[0] for each in self.of_runs if each.shape[0] < side]
        if not coarser:
            return []
        finest = {each.label: each for each in reversed(self.of_runs) if each.shape[0] == side}  # of one seed
        return [each.unshuffled(side // max(coarser)) for each in reversed(finest.values())]

    def _make_programs(self, latents: Latents) -> Programs:
        settings = self.settings
        grid = latents.shape[0], latents.shape[1]
        contents = self._demands.contents.shape[1]
        shift = flow_matching.shift_of(latents.shape) if settings.shift is None else settings.shift
        return Programs(
            self.mesh,
            latents.shape,
            demands.shape_of(settings.condition, grid, self.image_size, contents),
            Recipe(shift=shift, dtype=settings.precision, memory=settings.memory),
            settings.batch_size,
            settings.sampling_steps,
        )

    @functools.cached_property
    def flops(self) -> dict[str, tuple[float, float]]:
        """Those of a step of the U-Net and of the ControlNet, by label."""
        count = len(self._demands.masks)
        return {label: programs.flops(count) for label, programs in self.programs.items()}

    def equal_flops_steps(self, label: str) -> tuple[int, int]:
        """Steps of the U-Net and of the ControlNet that take as many FLOPs as the costliest latent's."""
        return equal_flops_steps(self.flops, label, (self.settings.unet_steps, self.settings.controlnet_steps))

    def measure(self, latents: Latents) -> MeasuredLatent:
        """Trains on one latent, with every seed, and returns what was drawn."""
        judge = Judge(latents, self._demanded, self._pool)
        best = snap(latents.reconstruct(self.held_out.images))
        ceiling, features = judge.count(best), judge.features(best)
        trials, pictures = [], None
        for seed in range(self.settings.seeds):
            trial, drawn = self._try(latents, judge, seed)
            trials.append(trial)
            pictures = drawn if pictures is None else pictures
        assert pictures is not None
        programs, (of_unet, of_controlnet) = self.programs[latents.label], self.flops[latents.label]
        return MeasuredLatent(
            latents.label, latents.run, latents.name, latents.autoencoder.digest, latents.shape, programs.recipe.shift,
            of_unet, of_controlnet, ceiling, features, tuple(trials), pictures,
        )  # fmt: skip

    @property
    def _demanded(self) -> np.ndarray:
        classes = self.held_out.demands.classes
        assert classes is not None
        return classes

    def _try(self, latents: Latents, judge: Judge, seed: int) -> tuple[Trial, np.ndarray]:
        settings, (of_unet, of_controlnet) = self.settings, self.flops[latents.label]
        trainer = self._make_trainer(latents, judge, seed)
        logger.info("%-12s %s, seed %d", "Training", latents.label, seed)
        unet = trainer.train_unet(settings.unet_steps)
        stage = trainer.train_controlnet(unet, settings.controlnet_steps, settings.num_points)
        curve = make_points(stage, settings.unet_steps * of_unet, unet.seconds, of_controlnet)
        longer = self.equal_flops_steps(latents.label)
        other = curve
        if longer != (settings.unet_steps, settings.controlnet_steps):
            further = trainer.train_unet(longer[0], settings.unet_steps)
            more = trainer.train_controlnet(further, longer[1], settings.num_points)
            other = make_points(more, longer[0] * of_unet, further.seconds, of_controlnet)
        drawings = self._draw(trainer, latents, unet, stage)
        shuffled = judge.count(drawings[0], other_scene(self.held_out.scenes))
        shown = list(spread_indices(len(self._demanded), _SHOWN))
        pictures = np.stack([self._demanded[shown], *(each.classes[shown] for each in drawings)], 1)
        copied = self.is_copied(realism.shrink(drawings[0].classes))
        return Trial(seed, curve, other, shuffled, judge.features(drawings[0]), copied), pictures

    def is_copied(self, small: np.ndarray) -> Float[np.ndarray, " n"]:
        """Returns 1 for each picture, of which some pixels are given, that is nearly one of the training layouts."""
        return realism.is_copied(small, self._demands.small).astype(np.float64)

    def _draw(self, trainer: Trainer, latents: Latents, unet: Stage, controlnet: Stage) -> list[Drawing]:
        """The drawings of all held-out demands, from the noise that they were judged by and from other noise."""
        programs = self.programs[latents.label]
        models = [programs.place(each.state.average) for each in (unet, controlnet)]
        asked = [trainer.asked, *(self._ask(latents, trainer.seed, number) for number in range(1, _DRAWINGS))]
        return [snap(latents.decode(np.asarray(programs.draw(models[0], models[1], each)))) for each in asked]

    def _ask(self, latents: Latents, seed: int, number: int = 0) -> Asked:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), number)
        noise = jax.random.normal(key, (len(self.held_out.indices), *latents.shape))
        return self.programs[latents.label].place(Asked(noise, *self._say(self.held_out.demands, latents)))

    def _say(self, given: Demands, latents: Latents) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What the condition says of the demands, in the latent's grid."""
        asked = self.programs[latents.label].demand
        cells = given.cells((latents.shape[0], latents.shape[1])) if asked.channels else None
        return cells, given.contents if asked.contents else None

    def _make_trainer(self, latents: Latents, judge: Judge, seed: int) -> Trainer:
        programs = self.programs[latents.label]
        decisive = [
            latents.autoencoder.digest, latents.factor, self.data_key, self.held_out.indices, seed,
            programs.recipe, programs.demand, self.settings.batch_size, self.settings.sampling_steps,
            self.settings.num_points, jax.devices()[0].device_kind, jax.__version__,
            report_measure.digest_program(), _digest_control(),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        folder = self._folder / f"{latents.name}_{'x'.join(map(str, latents.shape))}" / f"seed{seed}"
        data = programs.place(Data(latents.training, *self._say(self._demands, latents)))
        return Trainer(programs, data, self._ask(latents, seed), judge, seed, folder, key, self._stop)


def require_grid(name: str, shape: tuple[int, int, int]) -> None:
    """Raises UserError where a run's latents do not suit the U-Net."""
    height, width, _ = shape
    if height % _GRID_FACTOR or width % _GRID_FACTOR:
        raise UserError(
            f"{name} has latents of {height}x{width} cells, expected multiples of {_GRID_FACTOR}, which the U-Net "
            "halves twice"
        )


def _digest_control() -> list[str]:
    """Of the sources of this folder, which decide the numbers too."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(__file__).parent.glob("*.py"))]


def measure(measurement: Measurement, stop: Stop) -> Control:
    """Trains on every latent and returns what was drawn; the same call goes on where it was cut off.

    Raises:
      Interrupted: a signal has come, and what had been done is saved.
    """
    stop.defer()
    measured = tuple(measurement.measure(latents) for latents in measurement.latents)
    settings, held_out, device = measurement.settings, measurement.held_out, jax.devices()[0]
    return Control(
        device_kind=device.device_kind,
        platform=device.platform,
        num_devices=measurement.mesh.size,
        jax_version=jax.__version__,
        precision=settings.precision,
        image_size=measurement.image_size,
        data_key=measurement.data_key,
        condition=settings.condition,
        batch_size=settings.batch_size,
        unet_steps=settings.unet_steps,
        controlnet_steps=settings.controlnet_steps,
        sampling_steps=settings.sampling_steps,
        held_out=tuple(held_out.indices),
        features=held_out.features,
        training_features=measurement.training_features,
        copied=measurement.is_copied(held_out.demands.small),
        latents=measured,
    )


def measure_noise(measurement: Measurement, folder: Path) -> Noise:
    """Returns what is left of held-out layouts with noise in every run's latents; `folder` keeps what was measured."""
    measured = [
        NoisyLatent(
            latents.label,
            latents.name,
            latents.autoencoder.digest,
            latents.shape,
            noise.measure(latents, measurement.held_out.images, measurement.data_key, folder),
        )
        for latents in measurement.of_runs
    ]
    held_out = tuple(measurement.held_out.indices)
    return Noise(measurement.data_key, measurement.image_size, held_out, tuple(measured))
