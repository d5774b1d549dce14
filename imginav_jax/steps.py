"""The training, evaluation and reconstruction steps: pure functions from arrays to arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, UInt8

from imginav_jax import losses, metrics, model
from imginav_jax.batch import Batch
from imginav_jax.datasets import palette
from imginav_jax.train_state import TrainState


class LossWeights(NamedTuple):
    mse: float = 1.0
    segmentation: float = 0.05
    classification: float = 0.01


class Losses(NamedTuple):
    """The loss terms: one value an image or means, unweighted unless said otherwise; CE in nats."""

    mse_rgb: Any
    ce_segmentation: Any
    ce_classification: Any


class TrainMetrics(NamedTuple):
    """Scalars of one step; the loss terms are already multiplied by their weights."""

    loss: Float[Any, ""]
    mse_rgb: Float[Any, ""]
    ce_segmentation: Float[Any, ""]
    ce_classification: Float[Any, ""]
    grad_norm: Float[Any, ""]


class EvalMetrics(NamedTuple):
    """What one batch adds to an evaluation; values of padded rows are to be dropped by `mask`."""

    losses: Losses
    room_scene_correct: Bool[Array, " b"]
    confusion: Int32[Array, "classes classes"]
    mask: Bool[Array, " b"]


class Reconstruction(NamedTuple):
    rgb: UInt8[Any, "b h w 3"]
    classes: UInt8[Any, "b h w"]


def scale_images(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """uint8 to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def unscale_images(images: Float[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """[-1, 1] to uint8, to the nearest value."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def compute_losses(outputs: model.Outputs, batch: Batch) -> Losses:
    return Losses(
        losses.mse_rgb(outputs.rgb, scale_images(batch.image)),
        losses.cross_entropy_segmentation(outputs.segmentation_logits, palette.one_hot(batch.image)),
        losses.cross_entropy_classification(outputs.room_scene_logits, batch.type),
    )


def weigh_losses(terms: Losses, weights: LossWeights) -> Losses:
    """Each term multiplied by its weight; their sum is the loss."""
    return Losses(*(term * weight for term, weight in zip(terms, weights, strict=True)))


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    config: model.AutoencoderConfig,
    weights: LossWeights,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, TrainMetrics]:
    """One optimizer step on a full batch; donate `state`."""

    def loss_fn(params: model.Params) -> tuple[Array, Losses]:
        outputs = model.apply(config, params, scale_images(batch.image))
        terms = weigh_losses(jax.tree.map(jnp.mean, compute_losses(outputs, batch)), weights)
        return terms.mse_rgb + terms.ce_segmentation + terms.ce_classification, terms

    (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    measured = TrainMetrics(loss, terms.mse_rgb, terms.ce_segmentation, terms.ce_classification, optax.tree.norm(grads))
    return TrainState(state.step + 1, params, opt_state), measured


def eval_step(params: model.Params, batch: Batch, *, config: model.AutoencoderConfig) -> EvalMetrics:
    """Losses an image and the confusion matrix of one batch, padded or not."""
    outputs = model.apply(config, params, scale_images(batch.image))
    labels = palette.one_hot(batch.image)
    return EvalMetrics(
        compute_losses(outputs, batch),
        outputs.room_scene_logits.argmax(-1) == batch.type,
        metrics.confusion_matrix(outputs.segmentation_logits, labels, batch.mask),
        batch.mask,
    )


def reconstruct(
    params: model.Params, images: UInt8[Array, "b h w 3"], *, config: model.AutoencoderConfig
) -> Reconstruction:
    """What the decoder makes of the images: RGB, and the most likely class of each pixel."""
    outputs = model.apply(config, params, scale_images(images))
    return Reconstruction(unscale_images(outputs.rgb), outputs.segmentation_logits.argmax(-1).astype(jnp.uint8))
