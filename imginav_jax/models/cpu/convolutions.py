"""The forms that are fastest on the CPU, for each convolution and its gradients."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from imginav_jax.models import plain_convolutions
from imginav_jax.models.cpu import direct, winograd

# From which on Winograd's form is faster on two cores, with images of 128x128 and of 512x512: channels of the input and
# the output, by the kernel's width (3 saves 20 of 36 products, 4 saves 7 of 16), and tiles in all images together; with
# fewer tiles, transforming the kernel takes too long.
_CHANNELS = {3: 64, 4: 128}
_TILES = 256


@jax.custom_vjp
def conv(x: Array, kernel: Array) -> Array:
    if _suits_winograd(x, kernel, tile=2):
        return winograd.conv(x, kernel)
    return direct.conv_by_columns(x, kernel)


def _conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return direct.conv_by_columns(x, kernel), (x, kernel)


def _conv_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    x_gradient = direct.conv_by_columns(gradient, plain_convolutions.flip(kernel))
    return x_gradient, direct.kernel_gradient(x, gradient, kernel.shape[0])


conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def downsample(x: Array, kernel: Array) -> Array:
    if _suits_winograd(x, kernel, tile=4):
        return winograd.downsample(x, kernel)
    return plain_convolutions.downsample(x, kernel)


def _downsample_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return plain_convolutions.downsample(x, kernel), (x, kernel)


def _downsample_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # The transpose of a strided convolution is the transposed one with the kernel flipped and its channels swapped.
    x_gradient = direct.upsample_by_phase(gradient, plain_convolutions.flip(kernel))
    return x_gradient, direct.kernel_gradient(x, gradient, 4, stride=2)


downsample.defvjp(_downsample_forward, _downsample_backward)


@jax.custom_vjp
def upsample(x: Array, kernel: Array) -> Array:
    if _suits_winograd(x, kernel, tile=2):
        return winograd.upsample(x, kernel)
    return direct.upsample_by_phase(x, kernel)


def _upsample_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return direct.upsample_by_phase(x, kernel), (x, kernel)


def _upsample_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    x_gradient = plain_convolutions.downsample(gradient, plain_convolutions.flip(kernel))
    return x_gradient, plain_convolutions.flip(direct.kernel_gradient(gradient, x, 4, stride=2))


upsample.defvjp(_upsample_forward, _upsample_backward)


def _suits_winograd(x: Array, kernel: Array, tile: int) -> bool:
    """Whether the images x can be cut into tiles, so many pixels wide, and there are tiles and channels enough."""
    (b, h, w, _), width = x.shape, kernel.shape[0]
    is_possible = width in _CHANNELS and h % tile == 0 and w % tile == 0 and x.dtype == jnp.float32
    return is_possible and min(kernel.shape[2:]) >= _CHANNELS[width] and b * (h // tile) * (w // tile) >= _TILES
