"""What a variational encoder says of a latent: a normal distribution for each of its values."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVE = 0.01  # nats, of a channel that carries something


class Posterior(NamedTuple):
    """The distribution of latents, float32; a deterministic encoder has no variance."""

    mean: Float[Array, "b h w c"]
    log_variance: Float[Array, "b h w c"] | None


def sample(posterior: Posterior, noise: Float[Array, "b h w c"] | None) -> Float[Array, "b h w c"]:
    """Returns mean + exp(log-variance / 2) * noise; the mean where the encoder is deterministic.

    The reparametrisation of D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes" (2013), arXiv:1312.6114,
    section 2.4.
    """
    if posterior.log_variance is None or noise is None:
        return posterior.mean
    return posterior.mean + jnp.exp(posterior.log_variance / 2) * noise


def kl_divergence(posterior: Posterior) -> Float[Array, "b c"]:
    """Returns the KL divergence of each image's posterior from N(0, 1), a channel, as the mean over cells, in nats.

    By the formula of Kingma and Welling, arXiv:1312.6114, appendix B.

    Raises:
      ValueError: the encoder is deterministic.
    """
    mean, log_variance = posterior
    if log_variance is None:
        raise ValueError("a deterministic encoder has no KL divergence")
    return -0.5 * (1 + log_variance - jnp.square(mean) - jnp.exp(log_variance)).mean((1, 2))
