"""The latents that a diffusion model is trained on: of a run, normalised, in the run's own grid or a coarser one."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.autoencoder import Autoencoder
from imginav_jax.datasets.preparation import TRAIN, VALIDATION
from imginav_jax.latents import encoding
from imginav_jax.latents.storage import StoredLatents
from imginav_jax.models.inference import Reconstruction
from imginav_jax.report.measurement import baselines
from imginav_jax.runs.phase_folder import ComparedRun
from imginav_jax.system.errors import UserError

_DTYPE = "float16"  # in the cache and on the device


@dataclasses.dataclass(frozen=True)
class Latents:
    """Latents of one run as a diffusion model sees them.

    Attributes:
      label: R1, or "R1 unshuffled, 8x8x64".
      run: the label of the run.
      name: of the run on disk.
      autoencoder: makes pictures of them.
      shape: height, width, channels.
      factor: cells of the run's own grid along one axis of a cell of this one.
      mean, scale: a channel, over all training layouts.
      training, validation: normalised, float16 [layouts, height, width, channels].
    """

    label: str
    run: str
    name: str
    autoencoder: Autoencoder
    shape: tuple[int, int, int]
    factor: int
    mean: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]
    training: Float[np.ndarray, "n h w c"]
    validation: Float[np.ndarray, "m h w c"]

    def decode(self, latents: Float[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b height width 3"]:
        """Returns the pictures that the run's decoder makes of normalised latents; UserError without an RGB head."""
        own = baselines.shuffle(np.asarray(latents, np.float64) * self.scale + self.mean, self.factor)
        return self._require_images(self.autoencoder.decode_heads(own.astype(np.float32)))

    def encode(self, images: UInt8[np.ndarray, "b height width 3"]) -> Float[np.ndarray, "b h w c"]:
        """Returns the normalised latents of pictures."""
        own = self.autoencoder.encode(images).astype(np.float64)
        return (baselines.unshuffle(own, self.factor) - self.mean) / self.scale

    def reconstruct(self, images: UInt8[np.ndarray, "b height width 3"]) -> UInt8[np.ndarray, "b height width 3"]:
        """Returns what the autoencoder itself makes of pictures; UserError without an RGB head."""
        return self._require_images(self.autoencoder.reconstruct(images))

    def _require_images(self, made: Reconstruction) -> UInt8[np.ndarray, "b height width 3"]:
        if made.images is None:
            raise UserError(f"{self.name} has no RGB head, whose pictures are what control is measured on")
        return made.images

    def unshuffled(self, factor: int) -> "Latents":
        """Returns the same latents in a grid coarser by `factor`: no information is lost, and no cell is as fine."""
        height, width, channels = self.shape
        shape = height // factor, width // factor, channels * factor**2
        return dataclasses.replace(
            self,
            label=f"{self.run} unshuffled, {shape[0]}x{shape[1]}x{shape[2]}",
            shape=shape,
            factor=factor,
            mean=np.tile(self.mean, factor**2),
            scale=np.tile(self.scale, factor**2),
            training=baselines.unshuffle(self.training, factor),
            validation=baselines.unshuffle(self.validation, factor),
        )


def open_latents(label: str, run: ComparedRun) -> Latents:
    """Encodes both splits into the data set's cache, unless they are there, and returns the latents normalised.

    Raises:
      InUseError: another process encodes them.
      UserError: the run's data is gone, or the cache cannot be written.
      RunError: a latent is not finite.
    """
    trained = run.trained
    assert trained.experiment is not None  # of a run that is compared
    autoencoder = Autoencoder(trained.weights, trained.directory)
    folder = Path(trained.experiment.cache_dir) / "latents" / f"{autoencoder.digest[:16]}_{trained.data['key'][:16]}"
    found = encoding.encode(trained.directory, folder, dtype=_DTYPE)
    assert found is not None  # the work is not shared
    stored = StoredLatents(folder)
    training, validation = (_normalize(stored, split, found.mean, found.scale) for split in (TRAIN, VALIDATION))
    return Latents(
        label, label, run.name, autoencoder, run.latent_shape, 1, found.mean, found.scale, training, validation
    )


def _normalize(stored: StoredLatents, split: str, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    count = stored.description.examples[split]
    latents = np.empty((count, *stored.description.latent_shape), _DTYPE)
    for index in range(count):
        latents[index] = (stored.read(split, index).latent.astype(np.float64) - mean) / scale
    return latents
