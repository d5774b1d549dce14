"""Flow matching (Lipman et al. 2023, arXiv:2210.02747) on the straight paths of Liu et al. 2023 (arXiv:2209.03003).

A path goes from latents at time 0 to noise at time 1; a model predicts the velocity along it.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_REFERENCE_VALUES = 4096  # of a latent whose times are not shifted

Velocity = Callable[[Array, Array], Array]  # (latents, times) to velocities


def shift_of(latent_shape: Sequence[int]) -> float:
    """Returns by what the noise times of latents of this height, width and channels are shifted: sqrt(h w c / 4096).

    The more values say the same thing, the more noise it takes to hide it (Esser et al. 2024, arXiv:2403.03206, section
    5.3.2; by all values of a latent: Zheng et al. 2025, arXiv:2510.11690).
    """
    return math.sqrt(math.prod(latent_shape) / _REFERENCE_VALUES)


def shift_times(times: Float[Array, "*shape"], shift: float) -> Float[Array, "*shape"]:
    """Returns times in [0, 1] moved towards noise by a shift above 1, towards the latents by one below: 1 changes none.

    t' = s t / (1 + (s - 1) t) (Esser et al. 2024, arXiv:2403.03206).
    """
    return times if shift == 1 else shift * times / (1 + (shift - 1) * times)


def loss(predict: Velocity, latents: Float[Array, "b h w c"], key: Array, shift: float = 1.0) -> Float[Array, ""]:
    """Returns the mean squared error of the velocity, noise minus latents, at a random time of each straight path.

    Times follow the logit-normal distribution of Esser et al. 2024 (arXiv:2403.03206), mostly in the middle, where it
    is hard; then they are shifted.
    """
    key_time, key_noise = jax.random.split(key)
    time = shift_times(jax.nn.sigmoid(jax.random.normal(key_time, latents.shape[:1])), shift)
    noise = jax.random.normal(key_noise, latents.shape)
    at = time[:, None, None, None]
    return jnp.square(predict((1 - at) * latents + at * noise, time) - (noise - latents)).mean()


def draw(predict: Velocity, noise: Float[Array, "b h w c"], num_steps: int, shift: float = 1.0) -> Array:
    """Returns latents [b, h, w, c]: Heun's method (Karras et al. 2022, arXiv:2206.00364) from noise back to time 0.

    The times are equally spaced, then shifted.
    """
    times = shift_times(jnp.linspace(1, 0, num_steps + 1), shift)

    def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        start, stop = (jnp.full(x.shape[0], end) for end in ends)
        length = ends[1] - ends[0]
        first = predict(x, start)
        second = predict(x + length * first, stop)
        return x + length * (first + second) / 2, None

    return jax.lax.scan(step, noise, (times[:-1], times[1:]))[0]
