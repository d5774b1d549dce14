"""All that a training step reads and writes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from imginav_jax import loss_scale, model
from imginav_jax.loss_scale import LossScale


class TrainState(NamedTuple):
    step: Int32[Array, ""]  # optimizer steps done
    params: model.Params
    opt_state: Any
    loss_scale: LossScale | None = None  # with float16 only


def create(key: Array, config: model.AutoencoderConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; run it under jit so that it is born on its devices."""
    params = model.init(config, key)
    scale = loss_scale.create() if config.compute_dtype == "float16" else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), scale)
