"""A trained autoencoder for code that comes after it; README.md has an example."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.devices import target
from imginav_jax.models import inference, latent_statistics
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.inference import Reconstruction
from imginav_jax.models.latent_statistics import LatentStatistics
from imginav_jax.models.network import Params
from imginav_jax.runs import weights
from imginav_jax.runs.weights import Weights
from imginav_jax.system import files
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user

BATCH_SIZE = 4  # images a call of the device


class Autoencoder:
    """Encodes and decodes in float32, compiled once for an image size whatever the number of images.

    Attributes:
      config: the architecture.
    """

    def __init__(self, loaded: Weights, directory: Path, batch_size: int = BATCH_SIZE):
        """Of weights that `weights.load` has read from `directory`; `load` does both."""
        self.config: AutoencoderConfig = loaded.config
        self._weights, self._directory, self._batch_size = loaded, directory, batch_size
        self._encode, self._decode = _make_programs(loaded.config, target.platform())

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights and of what decides what they compute; stored latents name it."""
        return weights.digest(self._weights)

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h/f w/f latent"]:
        """Returns the latents as the encoder makes them: float32, not normalised.

        Raises:
          ValueError: not uint8 images, or height or width that do not divide by `config.compression`.
        """
        images = np.asarray(images)
        f = self.config.compression
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {_describe(images)}, expected uint8 [batch, height, width, 3]")
        if not _is_divisible(images.shape[1:3], f):
            raise ValueError(f"images are {_describe(images)}, expected a height and a width that divide by {f}")
        return self._map(self._encode, images)

    def decode(self, latents: Float[np.ndarray, "b h w latent"]) -> UInt8[np.ndarray, "b h*f w*f 3"]:
        """Returns the images that the RGB head makes of latents.

        Raises:
          ValueError: not float latents of this model's channels, or the model has no RGB head.
        """
        images = self.decode_heads(latents).images
        if images is None:
            raise ValueError("this autoencoder has no RGB head")
        return images

    def reconstruct(self, images: UInt8[np.ndarray, "b h w 3"]) -> Reconstruction:
        """Encodes images and returns what all heads make of their latents; ValueError as `encode`."""
        return self.decode_heads(self.encode(images))

    def normalize(self, latents: Float[np.ndarray, "*shape latent"]) -> Float[np.ndarray, "*shape latent"]:
        """Returns latents scaled to mean 0 and standard deviation 1 a channel over the training split, float32.

        Raises:
          UserError: the checkpoint has no statistics.
        """
        found = self.statistics
        return ((np.asarray(latents, np.float64) - found.mean) / found.scale).astype(np.float32)

    def denormalize(self, latents: Float[np.ndarray, "*shape latent"]) -> Float[np.ndarray, "*shape latent"]:
        """Returns latents for `decode`: the inverse of `normalize`; UserError likewise."""
        found = self.statistics
        return (np.asarray(latents, np.float64) * found.scale + found.mean).astype(np.float32)

    @functools.cached_property
    def statistics(self) -> LatentStatistics:
        """The statistics of the latents of the training split that `imginav_jax.encode` has stored with the checkpoint.

        Raises:
          UserError: there are none, or they are of other weights.
        """
        path = weights.step_folder(self._directory, self._weights.step) / latent_statistics.FILE_NAME
        how = f"make them: python -m imginav_jax.encode {self._directory} --out LATENTS"
        if not path.exists():
            raise UserError(f"{path.parent} has no statistics of its latents; {how}")
        try:
            found = LatentStatistics.load(files.read_json(path))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} does not hold statistics of latents; {how}") from None
        if found.origin.get("digest") != self.digest:
            raise UserError(f"{path} holds statistics of other weights; {how}")
        return found

    def decode_heads(self, latents: Float[np.ndarray, "b h w latent"]) -> Reconstruction:
        """Returns what all heads make of latents; ValueError where they are not float or have other channels."""
        latents, channels = np.asarray(latents), self.config.latent_channels
        is_float = np.issubdtype(latents.dtype, np.floating)
        if not is_float or latents.ndim != 4 or latents.shape[-1] != channels or not all(latents.shape[1:3]):
            raise ValueError(f"latents are {_describe(latents)}, expected float [batch, height, width, {channels}]")
        return self._map(self._decode, latents.astype(np.float32))

    def _map(self, function: Callable[[Params, Any], Any], rows: np.ndarray) -> Any:
        """Batch by batch, the last one padded, and the next one dispatched before one is fetched."""
        size, results, pending = self._batch_size, [], None
        for start in range(0, max(len(rows), 1), size):
            batch = rows[start : start + size]
            padding = np.zeros((size - len(batch), *rows.shape[1:]), rows.dtype)
            running = function(self._weights.params, np.concatenate([batch, padding]))
            if pending is not None:
                results.append(jax.device_get(pending))
            pending = running
        results.append(jax.device_get(pending))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *results)


def load(directory: str | Path, *, step: int | None = None, batch_size: int = BATCH_SIZE) -> Autoencoder:
    """Reads the autoencoder of a run's workdir, or of what `import_torch` wrote, and returns it.

    Args:
      directory: where it is.
      step: of the checkpoint; default: the best.
      batch_size: images a call of the device; fewer are padded to it.

    Raises:
      UserError: there is no such checkpoint.
      ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    directory = expand_user(directory)
    return Autoencoder(weights.load(directory, step), directory, batch_size)


@functools.cache
def _make_programs(config: AutoencoderConfig, platform: str) -> tuple[Any, Any]:
    """Returns the compiled forms of encoding and decoding, which weights of one architecture share.

    `platform` is what the compiler's options are for.
    """
    del platform
    jit = functools.partial(jax.jit, compiler_options=target.compiler_options())
    encode, decode = (functools.partial(function, config=config) for function in (inference.encode, inference.decode))
    return jit(encode), jit(decode)


def _is_divisible(sides: tuple[int, ...], factor: int) -> bool:
    return all(side and side % factor == 0 for side in sides)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
