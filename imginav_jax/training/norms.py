"""Gradients as the optimizer takes them, and the norms of gradients and parameters; on GPUs in few kernels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from imginav_jax.devices import target
from imginav_jax.models.network import Params

_SMALL = 4096  # values of an array, below which XLA's kernel for it takes longer to start than to run
_ROW = 1024  # values that are added up first


def settle(grads: Params, params: Params) -> tuple[Params, Float[Array, ""], Float[Array, ""]]:
    """Returns the gradients, their norm and that of the parameters, the roots of the sums of squares.

    Elsewhere than on CPUs the gradients are the same in an order of memory that suits the optimizer: a kernel's
    gradient comes from cuDNN in another than its parameters have, and an update that turned it could not be made in
    place.  Small arrays are put into one, so that their norm takes a few kernels and not several an array.
    """
    if target.platform() == "cpu":
        return grads, optax.tree.norm(grads), optax.tree.norm(params)
    leaves, structure = jax.tree.flatten(grads)
    others = jax.tree.leaves(params)
    sizes = [leaf.size if leaf.size < _SMALL else 0 for leaf in leaves]
    # Together, so that the small parameters are read before the optimizer writes them: else XLA copies each.
    small, small_params = lax.optimization_barrier((_join(leaves, sizes), _join(others, sizes)))
    starts = [0, *itertools.accumulate(sizes)]
    settled = [
        (small[start : start + size] if size else lax.optimization_barrier(leaf.ravel())).reshape(leaf.shape)
        for leaf, start, size in zip(leaves, starts, sizes, strict=False)
    ]
    grad_norm = _norm(small, [leaf for leaf, size in zip(settled, sizes, strict=True) if not size])
    param_norm = _norm(small_params, [leaf for leaf, size in zip(others, sizes, strict=True) if not size])
    return jax.tree.unflatten(structure, settled), grad_norm, param_norm


def _join(leaves: Sequence[Array], sizes: Sequence[int]) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf, size in zip(leaves, sizes, strict=True) if size])


def _norm(small: Float[Array, " n"], large: Sequence[Any]) -> Float[Array, ""]:
    rows = [jnp.square(leaf.reshape(-1, math.gcd(leaf.size, _ROW))).sum(1) for leaf in large]
    return jnp.sqrt(lax.optimization_barrier(jnp.concatenate([jnp.square(small), *rows])).sum())
