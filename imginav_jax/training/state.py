"""All that a training step reads and writes: parameters, the optimizer's state and the loss scale."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from imginav_jax.models import network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.runs.experiment import Experiment

INITIAL_SCALE = 2.0**15
GROWTH_INTERVAL = 2000  # steps without overflow before the scale doubles
_LARGEST_SCALE = 2.0**24


class LossScale(NamedTuple):
    """Dynamic, for float16, whose gradients would underflow (Micikevicius et al. 2018, arXiv:1710.03740)."""

    scale: Float[Any, ""]
    good_steps: Int32[Any, ""]  # since the scale last changed


class TrainState(NamedTuple):
    step: Int32[Array, ""]  # optimizer steps done
    params: network.Params
    opt_state: Any
    loss_scale: LossScale | None = None  # with float16 only


def create_state(key: Array, config: AutoencoderConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns a fresh state; run it under jit so that it is born on its devices."""
    params = network.init(config, key)
    scale = create_loss_scale() if config.compute_dtype == "float16" else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), scale)


def make_optimizer(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Returns AdamW as PyTorch defines it: decoupled weight decay on every parameter, a constant learning rate.

    Betas 0.9 and 0.999, eps 1e-8 outside the root; norms and biases decay too, as in torch.optim.AdamW.
    """
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


def of_experiment(experiment: Experiment) -> tuple[optax.GradientTransformation, Callable[[Array], TrainState]]:
    """Returns the experiment's optimizer, and what makes a fresh state from a key."""
    fields = experiment.config.optimizer
    optimizer = make_optimizer(fields.learning_rate, fields.weight_decay)
    return optimizer, functools.partial(create_state, config=experiment.model, optimizer=optimizer)


def create_loss_scale() -> LossScale:
    return LossScale(jnp.float32(INITIAL_SCALE), jnp.int32(0))


def update_loss_scale(current: LossScale, is_finite: Bool[Array, ""]) -> LossScale:
    """Halves the scale after an overflow, doubles it after `GROWTH_INTERVAL` steps without one."""
    good_steps = jnp.where(is_finite, current.good_steps + 1, 0)
    grows = good_steps == GROWTH_INTERVAL
    grown = jnp.minimum(jnp.where(grows, 2 * current.scale, current.scale), _LARGEST_SCALE)
    scale = jnp.where(is_finite, grown, jnp.maximum(current.scale / 2, 1))
    return LossScale(scale, jnp.where(grows, 0, good_steps))
