"""Convolutions as XLA and cuDNN know them, for every platform.

Kernels are HWIO, images NHWC; around an image are as many zeros as keep, halve or double its size.
"""

import jax
from jax import lax
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "k k cin cout"]) -> Float[Array, "b h w cout"]:
    """Convolves with stride 1 and an odd kernel, and keeps the size."""
    return conv_with_strides(x, kernel, 1)


def downsample(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b h/2 w/2 cout"]:
    """Convolves with stride 2: halves height and width."""
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=DIMENSIONS)


@jax.custom_vjp
def upsample(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b 2*h 2*w cout"]:
    """Computes the transposed convolution as what it is, `downsample`'s gradient for its input.

    XLA gives cuDNN a gradient where it finds the kernel reversed, which the barrier keeps it from simplifying away: a
    convolution of an image with zeros in between has four times the products, and its kernel's gradient, with a window
    as large as the image, takes longer than all the rest of a training step.
    """
    b, h, w, _ = x.shape
    image = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, kernel.shape[-1]), x.dtype)
    flipped = lax.optimization_barrier(flip(kernel))
    return jax.linear_transpose(lambda image: downsample(image, flipped), image)(x)[0]


def _upsample_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return upsample(x, kernel), (x, kernel)


def _upsample_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flipped = flip(kernel)
    (of_flipped,) = jax.linear_transpose(lambda flipped: downsample(gradient, flipped), flipped)(x)
    return downsample(gradient, flipped), flip(of_flipped)


upsample.defvjp(_upsample_forward, _upsample_backward)


def flip(kernel: Float[Array, "k k cin cout"]) -> Float[Array, "k k cout cin"]:
    """Returns the kernel of a convolution's transpose: rows and columns reversed, channels swapped."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def conv_with_strides(x: Array, kernel: Array, columns: int) -> Array:
    """Convolves with stride 1 along the rows and `columns` along the columns; the kernel has odd rows."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (1, columns), [(pad, pad), (pad, pad)], dimension_numbers=DIMENSIONS)
