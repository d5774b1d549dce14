"""Training steps of the U-Net, and of a ControlNet on a frozen U-Net: pure functions to be jitted, `state` donated."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from imginav_jax.models.diffusion import flow_matching, unet
from imginav_jax.models.diffusion.flow_matching import Velocity
from imginav_jax.models.diffusion.unet import Demand, Params

_LOSS_SCALE = 1024.0  # in float16, whose smallest gradients are else zero
_OVERFLOWS_IN_A_ROW = 100  # that are left out; then parameters become NaN and show it


class Recipe(NamedTuple):
    """How a model is trained.

    Attributes:
      shift: of the noise times.
      dtype: that convolutions and attention run in.
      learning_rate: of Adam, after `warmup` steps.
      memory: steps over which the running average of the weights reaches back.
    """

    shift: float = 1.0
    dtype: str = "float32"
    learning_rate: float = 1e-3
    warmup: int = 50
    memory: int = 200

    def optimizer(self) -> optax.GradientTransformation:
        """Returns Adam at a constant rate after a linear warm-up, gradients clipped to a norm of 1."""
        rate = optax.linear_schedule(0.0, self.learning_rate, self.warmup)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        return optax.apply_if_finite(optimizer, _OVERFLOWS_IN_A_ROW) if self.dtype == "float16" else optimizer


class State(NamedTuple):
    step: Int32[Array, ""]
    params: Params  # the trained ones
    average: Params  # of them over the last steps: what draws
    opt_state: Any


def create_state(params: Params, recipe: Recipe) -> State:
    return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), recipe.optimizer().init(params))


def unet_step(
    state: State, latents: Float[Array, "b h w c"], key: Array, *, recipe: Recipe
) -> tuple[State, Float[Array, ""]]:
    """Takes one step of the U-Net and returns the new state and the loss; noise is drawn from `key` and the step."""
    return _update(state, latents, key, recipe, lambda params: functools.partial(unet.velocity, params))


def controlnet_step(
    state: State, frozen: Params, latents: Float[Array, "b h w c"], demand: Demand, key: Array, *, recipe: Recipe
) -> tuple[State, Float[Array, ""]]:
    """Takes one step of the ControlNet on a frozen U-Net, as `unet_step`."""

    def predict(params: Params) -> Velocity:
        return functools.partial(unet.controlled_velocity, frozen, params, demand=demand)

    return _update(state, latents, key, recipe, predict)


def _update(
    state: State, latents: Array, key: Array, recipe: Recipe, predict: Callable[[Params], Callable[..., Array]]
) -> tuple[State, Array]:
    key = jax.random.fold_in(key, state.step)
    scale = _LOSS_SCALE if recipe.dtype == "float16" else 1.0

    def loss_fn(params: Params) -> Array:
        model = functools.partial(predict(params), dtype=recipe.dtype)
        return scale * flow_matching.loss(model, latents, key, recipe.shift)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    grads = jax.tree.map(lambda leaf: leaf / scale, grads)
    updates, opt_state = recipe.optimizer().update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    # Young averages forget faster, so that the first weights, which were drawn, do not stay in them.
    kept = jnp.minimum(1 - 1 / recipe.memory, (1 + state.step) / (10 + state.step))
    average: Any = optax.incremental_update(params, state.average, 1 - kept)
    return State(state.step + 1, params, average, opt_state), loss / scale
