"""State dicts as wrappers and savers leave them, as the bare model has them: the names, and float32."""

import re
from collections.abc import Mapping

import numpy as np

from imginav_jax.system.errors import UserError
from imginav_jax.system.progress import logger

# What DataParallel, torch.compile and Lightning modules put before a model's names, in any order.
_PREFIXED = re.compile(r"((?:module\.|_orig_mod\.|model\.|autoencoder\.)*)(?:encoder|decoder)\.")
_HALVES = ("float16", "bfloat16")


def unwrap(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors as the bare model names and keeps them, and says what has been changed.

    A prefix of the encoder's and the decoder's names is left out; names without it stay as they are.  Float16 or
    bfloat16 becomes float32 where all tensors have it, else they stay as they are.

    Raises:
      UserError: names begin with different prefixes.
    """
    return _to_float32(_without_prefix(tensors))


def _without_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefixes = {found[1] for name in tensors if (found := _PREFIXED.match(name))}
    if len(prefixes) > 1:
        names = ", ".join(repr(prefix) for prefix in sorted(prefixes))
        raise UserError(f"the tensors of encoder and decoder have the prefixes {names}, expected the same for all")
    prefix = "".join(prefixes)
    if prefix:
        logger.info("The prefix %s is left out of the tensors' names", prefix)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _to_float32(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    dtypes = {tensor.dtype.name for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes.issubset(_HALVES):
        return tensors
    logger.info("The tensors are converted from %s to float32", *dtypes)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
