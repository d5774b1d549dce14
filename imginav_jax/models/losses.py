"""The loss terms, one value an image, in float32, and how they are weighted."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, UInt8

from imginav_jax.devices import target


def mse_rgb(rgb: Float[Array, "b h w 3"], expected: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the mean squared error over pixels and channels, in [0, 4], for both are in [-1, 1]."""
    return jnp.square(rgb - expected).mean((1, 2, 3))


def cross_entropy_segmentation(
    logits: Float[Array, "b h w classes"], labels: Bool[Array, "b h w classes"]
) -> Float[Array, " b"]:
    """Returns the mean cross-entropy over each image's labelled pixels, in nats; 0 for an image that has none.

    `labels` is one-hot, all False where a pixel is to be ignored.  The product with it replaces a gather, which
    XLA turns into slow scatters in the backward pass.
    """
    if target.platform() == "cpu":
        picked = jnp.where(labels, jax.nn.log_softmax(logits), 0).sum((1, 2, 3))
        return -picked / jnp.maximum(labels.any(-1).sum((1, 2)), 1)
    numbers = jnp.arange(1, labels.shape[-1] + 1, dtype=jnp.uint8).reshape(1, 1, 1, -1)
    number = lax.optimization_barrier(jnp.where(labels, numbers, 0).max(-1))  # a byte a pixel, not one a class
    return -_log_likelihood(logits, number) / jnp.maximum((number > 0).sum((1, 2)), 1)


@jax.custom_vjp
def _log_likelihood(logits: Float[Array, "b h w classes"], number: UInt8[Array, "b h w"]) -> Float[Array, " b"]:
    """Returns the sum over labelled pixels of the label's log-softmax; `number` is its class from 1, or 0 for none.

    Classes are taken one by one: as a reduction over the last axis, XLA would keep logits in float32.
    """
    return _forward(logits, number)[0]


def _forward(logits: Array, number: Array) -> tuple[Array, tuple[Array, ...]]:
    each = [logits[..., index] for index in range(logits.shape[-1])]
    top = functools.reduce(jnp.maximum, each)
    log_sum = top + jnp.log(functools.reduce(jnp.add, [jnp.exp(logit - top) for logit in each]))
    picked = jnp.zeros_like(top)
    for index, logit in enumerate(each):
        picked = jnp.where(number == index + 1, logit - log_sum, picked)
    return picked.sum((1, 2)), (logits, number, log_sum)


def _backward(saved: tuple[Array, ...], gradient: Float[Array, " b"]) -> tuple[Array, None]:
    logits, number, log_sum = saved
    labels = number[..., None] == jnp.arange(1, logits.shape[-1] + 1, dtype=jnp.uint8).reshape(1, 1, 1, -1)
    change = jnp.where(number[..., None] > 0, labels - jnp.exp(logits - log_sum[..., None]), 0)
    return change * gradient[:, None, None, None], None


_log_likelihood.defvjp(_forward, _backward)


def cross_entropy_classification(logits: Float[Array, "b types"], types: Int32[Array, " b"]) -> Float[Array, " b"]:
    """Returns the cross-entropy of the room/scene logits, in nats; `types` is 0 for a room, 1 for a scene."""
    labels = jax.nn.one_hot(types, logits.shape[-1], dtype=logits.dtype)
    return -(labels * jax.nn.log_softmax(logits)).sum(-1)


class LossWeights(NamedTuple):
    """What each loss term is multiplied by."""

    mse: float = 1.0
    segmentation: float = 0.05
    classification: float = 0.01
    kl: float = 0.0


class Losses(NamedTuple):
    """The loss terms: one value an image or means, unweighted unless said otherwise; CE in nats.

    The term of a head that the model does not have is 0.  A model that is not variational has no KL divergence.
    """

    mse_rgb: Any
    ce_segmentation: Any
    ce_classification: Any
    kld: Any = None


def weigh_losses(terms: Losses, weights: LossWeights) -> Losses:
    """Returns each term multiplied by its weight; their sum is the loss."""
    weighted = (None if term is None else term * weight for term, weight in zip(terms, weights, strict=True))
    return Losses(*weighted)


def sum_losses(terms: Losses) -> Any:
    """Returns the sum of the terms that there are."""
    total = terms.mse_rgb + terms.ce_segmentation + terms.ce_classification
    return total if terms.kld is None else total + terms.kld
