"""The training, evaluation and reconstruction steps: pure functions from arrays to arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from imginav_jax.datasets import palette
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import architecture, losses, metrics, network
from imginav_jax.models.inference import scale_images
from imginav_jax.models.losses import Losses, LossWeights, sum_losses, weigh_losses
from imginav_jax.models.posterior import Posterior, kl_divergence, sample
from imginav_jax.training.norms import settle
from imginav_jax.training.state import TrainState, update_loss_scale

Rows = TypeVar("Rows")  # a tree of arrays, whose first axis is a batch's


class TrainMetrics(NamedTuple):
    """Scalars of one step; the loss terms are already multiplied by their weights."""

    loss: Float[Any, ""]
    mse_rgb: Float[Any, ""]
    ce_segmentation: Float[Any, ""]
    ce_classification: Float[Any, ""]
    grad_norm: Float[Any, ""]
    param_norm: Float[Any, ""]  # before the step
    skipped: Float[Any, ""]  # 1 where float16 has overflowed and nothing was updated, else 0
    kld: Float[Any, ""] | None = None  # of a variational model


class EvalMetrics(NamedTuple):
    """What one batch adds to an evaluation; values of padded rows are to be dropped by `mask`."""

    losses: Losses
    room_scene_correct: Bool[Array, " b"] | None  # None without a classification head
    confusion: Int32[Array, "classes classes"]  # zeros without a segmentation head
    mask: Bool[Array, " b"]
    kl_by_channel: Float[Array, "b c"] | None = None  # nats, the mean over cells; of a variational model


def compute_losses(outputs: network.HeadOutputs, posterior: Posterior, batch: Batch) -> Losses:
    rgb, segmentation, room_scene = outputs
    none = jnp.zeros(batch.type.shape)
    return Losses(
        none if rgb is None else losses.mse_rgb(rgb, scale_images(batch.image)),
        none if segmentation is None else losses.cross_entropy_segmentation(segmentation, palette.one_hot(batch.image)),
        none if room_scene is None else losses.cross_entropy_classification(room_scene, batch.type),
        None if posterior.log_variance is None else kl_divergence(posterior).mean(-1),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    config: architecture.AutoencoderConfig,
    weights: LossWeights,
    optimizer: optax.GradientTransformation,
    accumulate_steps: int = 1,
    seed: int = 0,
    ema_decay: float = 0.0,
) -> tuple[TrainState, TrainMetrics]:
    """Takes one optimizer step on a full batch and returns the new state and the metrics; donate `state`.

    The batch is taken in `accumulate_steps` parts of the same size, one after the other, which changes no result
    beyond rounding: only one part's activations are live at once.  A variational model draws its latents by noise that
    follows from `seed` and the step.  Of a moving average, where the state has one, the share `ema_decay` stays.
    """
    scale = 1.0 if state.loss_scale is None else state.loss_scale.scale

    def loss_fn(params: network.Params, part: _Part) -> tuple[Array, Losses]:
        posterior = network.posterior(config, params, scale_images(part.batch.image))
        outputs = network.decode(config, params, sample(posterior, part.noise))
        # Divided here and not at the end: float16 then over- and underflows as with the whole batch.
        means = jax.tree.map(
            lambda term: term.mean() / accumulate_steps, compute_losses(outputs, posterior, part.batch)
        )
        terms = weigh_losses(means, weights)
        return sum_losses(terms) * scale, terms

    def gradient(part: _Part) -> tuple[network.Params, Losses]:
        return jax.grad(loss_fn, has_aux=True)(state.params, part)

    whole = _Part(batch, draw_noise(config, batch.image.shape, seed, state.step) if config.variational else None)
    if accumulate_steps == 1:
        grads, terms = gradient(whole)
    else:
        grads, terms = _accumulate(gradient, split_batch(whole, accumulate_steps))
    loss = sum_losses(terms)
    grads = jax.tree.map(lambda grad: grad / scale, grads)
    grads, grad_norm, param_norm = settle(grads, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    ema: Any = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - ema_decay)
    stepped = TrainState(state.step + 1, params, opt_state, state.loss_scale, ema)
    is_finite = jnp.isfinite(grad_norm)
    skipped = jnp.float32(0)
    if state.loss_scale is not None:
        skipped = 1 - is_finite.astype(jnp.float32)
        unchanged = state._replace(step=stepped.step)
        stepped = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), stepped, unchanged)
        stepped = stepped._replace(loss_scale=update_loss_scale(state.loss_scale, is_finite))
    measured = TrainMetrics(
        loss=loss,
        mse_rgb=terms.mse_rgb,
        ce_segmentation=terms.ce_segmentation,
        ce_classification=terms.ce_classification,
        grad_norm=grad_norm,
        param_norm=param_norm,
        skipped=skipped,
        kld=terms.kld,
    )
    return stepped, measured


class _Part(NamedTuple):
    """What a gradient is computed of: some rows of a batch, and the noise of their latents."""

    batch: Batch
    noise: Float[Array, "b h w c"] | None


def draw_noise(
    config: architecture.AutoencoderConfig, image_shape: tuple[int, ...], seed: int, step: Int32[Array, ""]
) -> Float[Array, "b h w c"]:
    """Returns the standard normal noise of a batch's latents, which a run's seed and the step decide."""
    b, h, w, _ = image_shape
    shape = b, h // config.compression, w // config.compression, config.latent_channels
    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), step), shape)


def split_batch(batch: Rows, parts: int) -> Rows:
    """Returns the batch in `parts`, a new leading axis; part k has the rows k, k + parts, k + 2 parts, ...

    So every device that holds a share of consecutive rows has its share of every part, and no row moves.
    """
    return jax.tree.map(lambda rows: rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1), batch)


def _accumulate(function: Callable[[_Part], Any], parts: _Part) -> Any:
    """The sum of what the function makes of each part, one at a time."""
    first = jax.tree.map(lambda rows: rows[0], parts)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first))

    def add(total: Any, part: _Part) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    return lax.scan(add, zeros, parts)[0]


def eval_step(params: network.Params, batch: Batch, *, config: architecture.AutoencoderConfig) -> EvalMetrics:
    """Returns each image's losses and the confusion matrix of one batch, padded or not."""
    posterior = network.posterior(config, params, scale_images(batch.image))
    outputs = network.decode(config, params, posterior.mean)
    _, segmentation, room_scene = outputs
    if segmentation is None:
        confusion = jnp.zeros((palette.NUM_CLASSES, palette.NUM_CLASSES), jnp.int32)
    else:
        confusion = metrics.confusion_matrix(segmentation, palette.one_hot(batch.image), batch.mask)
    correct = None if room_scene is None else room_scene.argmax(-1) == batch.type
    by_channel = None if posterior.log_variance is None else kl_divergence(posterior)
    return EvalMetrics(compute_losses(outputs, posterior, batch), correct, confusion, batch.mask, by_channel)
