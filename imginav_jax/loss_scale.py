"""Dynamic loss scaling for float16, whose gradients would underflow (Micikevicius et al. 2018, arXiv:1710.03740)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

INITIAL = 2.0**15
GROWTH_INTERVAL = 2000  # steps without overflow before the scale doubles
_LARGEST = 2.0**24


class LossScale(NamedTuple):
    scale: Float[Any, ""]
    good_steps: Int32[Any, ""]  # since the scale last changed


def create() -> LossScale:
    return LossScale(jnp.float32(INITIAL), jnp.int32(0))


def update(current: LossScale, is_finite: Bool[Array, ""]) -> LossScale:
    """Half after an overflow, double after `GROWTH_INTERVAL` steps without one."""
    good_steps = jnp.where(is_finite, current.good_steps + 1, 0)
    grows = good_steps == GROWTH_INTERVAL
    grown = jnp.minimum(jnp.where(grows, 2 * current.scale, current.scale), _LARGEST)
    scale = jnp.where(is_finite, grown, jnp.maximum(current.scale / 2, 1))
    return LossScale(scale, jnp.where(grows, 0, good_steps))
