"""The two 4x4 stride-2 convolutions, in forms that suit the platform.

XLA's CPU backend runs a zero-dilated convolution in a slow loop.  Both the transposed convolution and the input
gradient of the strided one are such, so on the CPU they go through `_upsample_by_phase`: one undilated 2x2 convolution
into the four output phases, then depth-to-space.  It is the same sum.  Elsewhere XLA's own forms are used: cuDNN has
fast paths for them.  Kernels are HWIO, images NHWC.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from imginav_jax import target

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "k k cin cout"]) -> Float[Array, "b h w cout"]:
    """Stride 1 with an odd kernel, zero-padded to keep the size."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad), (pad, pad)], dimension_numbers=_DIMENSIONS)


def downsample_conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b h2 w2 cout"]:
    """PyTorch's Conv2d(kernel 4, stride 2, padding 1): halves height and width."""
    return _downsample_by_phase(x, kernel) if target.platform() == "cpu" else _downsample(x, kernel)


def upsample_conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b h2 w2 cout"]:
    """PyTorch's ConvTranspose2d(kernel 4, stride 2, padding 1), its kernel flipped: doubles height and width."""
    return _upsample_by_phase(x, kernel) if target.platform() == "cpu" else _upsample(x, kernel)


def _downsample(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=_DIMENSIONS)


def _upsample(x: Array, kernel: Array) -> Array:
    pads = [(2, 2), (2, 2)]
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=_DIMENSIONS)


def _upsample_by_phase(x: Array, kernel: Array) -> Array:
    b, h, w, cin = x.shape
    cout = kernel.shape[-1]
    # Axes: (tap, phase) along y and along x.  Cropping one row and column below swaps the phases, hence the flips.
    taps = kernel.reshape(2, 2, 2, 2, cin, cout)[:, ::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, cin, 4 * cout)
    # Padded by hand: with the convolution's own padding, XLA's CPU takes a slow path for the kernel's gradient.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = lax.conv_general_dilated(x, taps, (1, 1), "VALID", dimension_numbers=_DIMENSIONS)
    y = y.reshape(b, h + 1, w + 1, 2, 2, cout).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h + 2, 2 * w + 2, cout)[:, 1:-1, 1:-1]


@jax.custom_vjp
def _downsample_by_phase(x: Array, kernel: Array) -> Array:
    return _downsample(x, kernel)


def _downsample_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _downsample(x, kernel), (x, kernel)


def _downsample_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (kernel_gradient,) = jax.vjp(lambda kernel: _downsample(x, kernel), kernel)[1](gradient)
    # The transpose of a strided convolution is the transposed one with the kernel flipped and its channels swapped.
    return _upsample_by_phase(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), kernel_gradient


_downsample_by_phase.defvjp(_downsample_forward, _downsample_backward)
