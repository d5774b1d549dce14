"""All that a training step reads and writes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from imginav_jax import model


class TrainState(NamedTuple):
    step: Int32[Array, ""]  # optimizer steps done
    params: model.Params
    opt_state: Any


def create(key: Array, config: model.AutoencoderConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; run it under jit so that it is born on its devices."""
    params = model.init(config, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
