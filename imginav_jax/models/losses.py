"""The three loss terms, one value an image, in float32, and how they are weighted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32


def mse_rgb(rgb: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the mean squared error over pixels and channels, in [0, 4], for both are in [-1, 1]."""
    return jnp.square(rgb - target).mean((1, 2, 3))


def cross_entropy_segmentation(
    logits: Float[Array, "b h w classes"], labels: Bool[Array, "b h w classes"]
) -> Float[Array, " b"]:
    """Returns the mean cross-entropy over each image's labelled pixels, in nats; 0 for an image that has none.

    `labels` is one-hot, all False where a pixel is to be ignored.  The product with it replaces a gather, which
    XLA turns into slow scatters in the backward pass.
    """
    picked = jnp.where(labels, jax.nn.log_softmax(logits), 0).sum((1, 2, 3))
    return -picked / jnp.maximum(labels.any(-1).sum((1, 2)), 1)


def cross_entropy_classification(logits: Float[Array, "b types"], types: Int32[Array, " b"]) -> Float[Array, " b"]:
    """Returns the cross-entropy of the room/scene logits, in nats; `types` is 0 for a room, 1 for a scene."""
    labels = jax.nn.one_hot(types, logits.shape[-1], dtype=logits.dtype)
    return -(labels * jax.nn.log_softmax(logits)).sum(-1)


class LossWeights(NamedTuple):
    """What each loss term is multiplied by."""

    mse: float = 1.0
    segmentation: float = 0.05
    classification: float = 0.01


class Losses(NamedTuple):
    """The loss terms: one value an image or means, unweighted unless said otherwise; CE in nats.

    The term of a head that the model does not have is 0.
    """

    mse_rgb: Any
    ce_segmentation: Any
    ce_classification: Any


def weigh_losses(terms: Losses, weights: LossWeights) -> Losses:
    """Returns each term multiplied by its weight; their sum is the loss."""
    return Losses(*(term * weight for term, weight in zip(terms, weights, strict=True)))
