"""How much layout a ControlNet can read from each cell of a latent: a linear probe (Alain & Bengio 2016, 1610.01644).

A 1x1 convolution from a frozen latent's channels to f x f x classes logits, then depth-to-space: multinomial logistic
regression of every pixel's class on the one cell that covers it.  Nothing is mixed between cells.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from imginav_jax.datasets import palette

_LEAST_VARIANCE = 1e-7  # of a direction, as a share of the largest


class Settings(NamedTuple):
    steps: int  # of Adam
    batch_pixels: int  # in the cells of a step
    penalty: float  # of the squared weights, a pixel of the cell
    learning_rate: float  # at the start; falls to 0 along a cosine
    seed: int  # of the batches


class Probe(NamedTuple):
    """Latents are whitened by their training set first: all directions learn at one pace and are penalised alike."""

    mean: Float[Any, " c"]
    whitening: Float[Any, "c k"]
    kernel: Float[Any, "k f*f*classes"]
    bias: Float[Any, " f*f*classes"]

    @property
    def factor(self) -> int:
        return round((self.bias.shape[0] / palette.NUM_CLASSES) ** 0.5)


def fit(latents: Float[np.ndarray, "n h w c"], labels: UInt8[np.ndarray, "n h*f w*f"], settings: Settings) -> Probe:
    """Minimises `objective` over random cells; it is convex, so more steps only come closer to its one optimum.

    A label that is no class's index is passed over.
    """
    cells, labels = to_cells(latents, labels)
    mean, whitening = _whiten(cells)
    kernel, bias = (jnp.zeros((*inputs, labels.shape[1] * palette.NUM_CLASSES)) for inputs in (whitening.shape[1:], ()))
    probe = Probe(jnp.asarray(mean), jnp.asarray(whitening), kernel, bias)
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))
    state: Any = optimizer.init((kernel, bias))
    step = jax.jit(functools.partial(_step, penalty=settings.penalty, optimizer=optimizer), donate_argnums=(1,))
    rng, size = np.random.default_rng(settings.seed), max(1, settings.batch_pixels // labels.shape[1])
    for _ in range(settings.steps):
        rows = rng.integers(0, len(cells), size)
        probe, state = step(probe, state, cells[rows], labels[rows])
    return probe


def to_cells(
    latents: Float[np.ndarray, "n h w c"], labels: UInt8[np.ndarray, "n h*f w*f"]
) -> tuple[Float[np.ndarray, "cells c"], UInt8[np.ndarray, "cells f*f"]]:
    """Returns each cell, and the labels of the pixels that it covers, row by row."""
    n, h, w, c = latents.shape
    f = labels.shape[1] // h
    return latents.reshape(-1, c), labels.reshape(n, h, f, w, f).transpose(0, 1, 3, 2, 4).reshape(-1, f * f)


def _whiten(cells: Float[np.ndarray, "cells c"]) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c k"]]:
    """The cells' mean, and the map to uncorrelated channels of variance 1; directions without variance are left out."""
    cells = cells.astype(np.float64)
    mean = cells.mean(0)
    centred = cells - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(cells))
    kept = variances > _LEAST_VARIANCE * variances.max(initial=0)
    whitening = directions[:, kept] / np.sqrt(variances[kept])
    return mean.astype(np.float32), whitening.astype(np.float32)


def _step(
    probe: Probe, state: Any, cells: Array, labels: Array, *, penalty: float, optimizer: optax.GradientTransformation
) -> tuple[Probe, Any]:
    def loss_fn(weights: tuple[Array, Array]) -> Array:
        return objective(probe._replace(kernel=weights[0], bias=weights[1]), cells, labels, penalty)

    weights = probe.kernel, probe.bias
    updates, state = optimizer.update(jax.grad(loss_fn)(weights), state, weights)
    kernel, bias = optax.apply_updates(weights, updates)  # pyright: ignore[reportGeneralTypeIssues]
    return probe._replace(kernel=kernel, bias=bias), state


def objective(
    probe: Probe, cells: Float[Array, "cells c"], labels: UInt8[Array, "cells f*f"], penalty: float
) -> Float[Array, ""]:
    """Returns the cross-entropy plus half the penalty times the squared weights of a pixel, the mean of a cell."""
    squared_weights = jnp.square(probe.kernel).sum() / probe.factor**2
    return cross_entropy(probe, cells, labels) + penalty / 2 * squared_weights


def cross_entropy(probe: Probe, cells: Float[Array, "cells c"], labels: UInt8[Array, "cells f*f"]) -> Float[Array, ""]:
    """Returns the cross-entropy in nats, the mean over the labelled pixels."""
    one_hot = labels[..., None] == jnp.arange(palette.NUM_CLASSES).reshape(1, 1, -1)
    picked = jnp.where(one_hot, jax.nn.log_softmax(_logits(probe, cells)), 0).sum()
    return -picked / jnp.maximum(one_hot.sum(), 1)


def _logits(probe: Probe, cells: Float[Array, "cells c"]) -> Float[Array, "cells f*f classes"]:
    flat = (cells - probe.mean[None]) @ probe.whitening @ probe.kernel + probe.bias[None]
    return flat.reshape(len(cells), -1, palette.NUM_CLASSES)


@jax.jit
def predict(probe: Probe, latents: Float[Array, "b h w c"]) -> UInt8[Array, "b h*f w*f"]:
    """Returns the most likely class of every pixel."""
    (b, h, w, c), f = latents.shape, probe.factor
    classes = _logits(probe, latents.reshape(-1, c)).argmax(-1).astype(jnp.uint8)
    return classes.reshape(b, h, w, f, f).transpose(0, 1, 3, 2, 4).reshape(b, h * f, w * f)
