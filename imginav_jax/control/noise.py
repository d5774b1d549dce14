"""Noise tolerance: what is left of a layout that is decoded from a latent with noise in it; nothing is trained."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.control.latents import Latents
from imginav_jax.report.measurement import measure as report_measure
from imginav_jax.report.measurement.subjects import RGB, Images, Predictions, Subject
from imginav_jax.runs.results.noise_file import NoisePoint

SIGMAS = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)  # of noise on latents of variance 1
_SEED = 0


@dataclasses.dataclass(frozen=True)
class HeldOutImages:
    """The layouts that are disturbed."""

    stored: UInt8[np.ndarray, "n h w 3"]

    def __len__(self) -> int:
        return len(self.stored)

    def images(self, indices: Sequence[int]) -> UInt8[np.ndarray, "b h w 3"]:
        return self.stored[list(indices)]


def measure(
    latents: Latents, images: UInt8[np.ndarray, "n h w 3"], data_key: str, folder: Path
) -> tuple[NoisePoint, ...]:
    """Returns what is left at no noise and at each of SIGMAS; `folder` keeps what has been measured."""
    subjects = {sigma: _subject(latents, sigma, len(images)) for sigma in (0.0, *SIGMAS)}
    measured = report_measure.measure(list(subjects.values()), HeldOutImages(images), data_key, folder)
    covariance = channel_covariance(latents.training)
    cells = latents.shape[0] * latents.shape[1]
    return tuple(
        NoisePoint(sigma, capacity_bits(covariance, cells, sigma), measured[subject.name][RGB])
        for sigma, subject in subjects.items()
    )


def _subject(latents: Latents, sigma: float, count: int) -> Subject:
    def open_latents() -> Callable[[Images], Predictions]:
        random = np.random.default_rng(_SEED)  # batches come in order, and each sigma sees the same noise

        def predict(images: Images) -> Predictions:
            disturbed = disturb(latents.encode(images), sigma, random)
            return {RGB: latents.decode(disturbed)}

        return predict

    name = f"{latents.name}, noise {sigma:g}"
    key = {"run": latents.autoencoder.digest, "sigma": sigma, "layouts": count}
    return Subject(latents.label, name, "run", latents.shape, key, open_latents)


def disturb(
    latents: Float[np.ndarray, "b h w c"], sigma: float, random: np.random.Generator
) -> Float[np.ndarray, "b h w c"]:
    """Returns normalised latents with normal noise of this deviation."""
    return latents + sigma * random.standard_normal(latents.shape)


def channel_covariance(latents: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "c c"]:
    """Returns the covariance of a latent's channels over all cells and layouts."""
    channels, count = latents.shape[-1], 0
    total, products = np.zeros(channels), np.zeros((channels, channels))
    for each in latents:
        cells = each.reshape(-1, channels).astype(np.float64)
        total, products, count = total + cells.sum(0), products + cells.T @ cells, count + len(cells)
    mean = total / count
    return products / count - np.outer(mean, mean)


def capacity_bits(covariance: Float[np.ndarray, "c c"], cells: int, sigma: float) -> float:
    """Returns how many bits a latent carries at most through this noise; infinite without noise.

    The capacity of Gaussian channels of this covariance (Cover & Thomas 2006, section 9.4), cells independent of each
    other: (cells / 2) log2 det(I + C / sigma^2).
    """
    if sigma == 0:
        return float("inf")
    values = np.maximum(np.linalg.eigvalsh(covariance), 0)
    return float(cells / 2 * np.log2(1 + values / sigma**2).sum())
