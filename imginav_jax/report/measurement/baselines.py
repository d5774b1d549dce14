"""What a latent of a given resolution is worth without training: the yardsticks of the trained ones.

Pictures are uint8 [b h w 3]; `factor` is the pixels of a cell along one axis, and divides height and width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from imginav_jax.datasets import palette
from imginav_jax.report.measurement import fidelity


def majority_color(images: UInt8[Array, "b h w 3"], factor: int) -> UInt8[Array, "b h w 3"]:
    """Draws each cell in the palette colour that most of its pixels are or are near; of equals the first class."""
    b, h, w, _ = images.shape
    classes = jax.nn.one_hot(fidelity.snap(images), palette.NUM_CLASSES, dtype=jnp.float32)
    counts = classes.reshape(b, h // factor, factor, w // factor, factor, -1).sum((2, 4))
    return _repeat(jnp.asarray(palette.COLORS)[counts.argmax(-1)], factor)


def area_nearest(images: UInt8[Array, "b h w 3"], factor: int) -> UInt8[Array, "b h w 3"]:
    """Draws each cell in the mean colour of its pixels."""
    return _repeat(_to_pixels(_cell_means(images, factor)), factor)


def area_bilinear(images: UInt8[Array, "b h w 3"], factor: int) -> UInt8[Array, "b h w 3"]:
    """Draws the cells' mean colours, linearly interpolated between their centres."""
    return _to_pixels(jax.image.resize(_cell_means(images, factor), images.shape, "bilinear"))


def _cell_means(images: Array, factor: int) -> Array:
    b, h, w, c = images.shape
    return images.astype(jnp.float32).reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


def _repeat(cells: Array, factor: int) -> Array:
    return cells.repeat(factor, 1).repeat(factor, 2)


def _to_pixels(values: Array) -> Array:
    return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


def unshuffle(latents: Float[np.ndarray, "b h w c"], factor: int) -> Float[np.ndarray, "b h/f w/f c*f*f"]:
    """Makes factor x factor cells the channels of one: a coarser latent that has lost nothing (Shi et al. 2016)."""
    b, h, w, c = latents.shape
    cells = latents.reshape(b, h // factor, factor, w // factor, factor, c)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor * factor * c)


def shuffle(latents: Float[np.ndarray, "b h w c*f*f"], factor: int) -> Float[np.ndarray, "b h*f w*f c"]:
    """Inverts `unshuffle`."""
    b, h, w, channels = latents.shape
    cells = latents.reshape(b, h, w, factor, factor, channels // factor**2)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, -1)


@dataclasses.dataclass(frozen=True)
class Projection:
    """Unshuffled latents in fewer channels, by the principal components of a training set's cells."""

    factor: int
    mean: Float[np.ndarray, " wide"]
    components: Float[np.ndarray, "wide channels"]  # orthonormal columns

    @classmethod
    def fit(cls, latents: Float[np.ndarray, "b h w c"], factor: int, channels: int) -> "Projection":
        """Finds the `channels` components that keep most of the variance (Pearson 1901)."""
        cells = unshuffle(latents, factor)
        cells = cells.reshape(-1, cells.shape[-1]).astype(np.float64)
        mean = cells.mean(0)
        centred = cells - mean
        _, vectors = np.linalg.eigh(centred.T @ centred)
        return cls(factor, mean, vectors[:, ::-1][:, :channels])

    def project(self, latents: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h/f w/f channels"]:
        return ((unshuffle(latents, self.factor) - self.mean) @ self.components).astype(np.float32)

    def restore(self, projected: Float[np.ndarray, "b h w channels"]) -> Float[np.ndarray, "b h*f w*f c"]:
        """Returns what is left of the latents."""
        return shuffle((projected @ self.components.T + self.mean).astype(np.float32), self.factor)
