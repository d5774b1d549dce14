"""Shortcuts around the stages of the autoencoder, without parameters: pixels become channels, or channels pixels.

A stage adds its own result to them, as in J. Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution
Diffusion Models" (2024), arXiv:2410.10733, section 3.2.  Where the channels of the two do not agree, neighbouring ones
are averaged or repeated.  The channels of one pixel are neighbours here, and what is averaged are channels.  In the
authors' code the pixels of one channel are, and R3,quick has 18.5 dB after two epochs where it has 21.1 dB here.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def down(x: Float[Array, "b h w cin"], channels: int) -> Float[Array, "b h/2 w/2 channels"]:
    """Returns x with each 2x2 pixels as one of four times the channels, resized to `channels`."""
    b, h, w, cin = x.shape
    cells = x.reshape(b, h // 2, 2, w // 2, 2, cin).swapaxes(2, 3)
    return resize_channels(cells.reshape(b, h // 2, w // 2, 4 * cin), channels)


def up(x: Float[Array, "b h w cin"], channels: int) -> Float[Array, "b 2*h 2*w channels"]:
    """Returns x resized to four times `channels`, and these as 2x2 pixels: the first quarter the upper left one."""
    b, h, w, _ = x.shape
    cells = resize_channels(x, 4 * channels).reshape(b, h, w, 2, 2, channels)
    return cells.swapaxes(2, 3).reshape(b, 2 * h, 2 * w, channels)


def resize_channels(x: Float[Array, "b h w cin"], channels: int) -> Float[Array, "b h w channels"]:
    """Averages neighbouring channels where there are fewer than before, and repeats each where there are more.

    Channel i of n is the mean of those from floor(i * cin / n) up to, and without, ceil((i + 1) * cin / n), which is
    PyTorch's adaptive_avg_pool1d.
    """
    *shape, cin = x.shape
    if cin % channels == 0:
        return x.reshape(*shape, channels, cin // channels).mean(-1)
    if channels % cin == 0:
        return x.repeat(channels // cin, -1)
    return x @ jnp.asarray(_means(cin, channels), x.dtype)


def _means(cin: int, channels: int) -> Float[np.ndarray, "cin channels"]:
    """Returns the matrix of `resize_channels`."""
    first = np.arange(channels) * cin // channels
    end = -(-np.arange(1, channels + 1) * cin // channels)
    source = np.arange(cin)[:, None]
    return ((first <= source) & (source < end)) / (end - first)
