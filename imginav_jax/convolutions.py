"""The convolutions of the autoencoder, in forms that suit the platform; every form is the same sum.

On the CPU, XLA multiplies matrices near the processor's limit, but
- a zero-dilated convolution runs in a slow loop.  Both the transposed convolution and the input gradient of the strided
  one are such, so they go through `_upsample_by_phase`: one undilated 2x2 convolution into the four output phases, then
  depth-to-space;
- few output channels leave most of a vector register empty, so `_conv_by_columns` computes neighbouring columns of the
  output as more channels;
- the gradient of a kernel, a convolution of two batches over each other, wants both with the batch innermost, and these
  transpositions took as long as the sum itself; `_kernel_gradient` lays the batch out as one tall image instead.
Elsewhere XLA's own forms are used: cuDNN has fast paths for them.  Kernels are HWIO, images NHWC.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from imginav_jax import target

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_TALL_ROWS = 32  # of an image from which on a tall image of all of them is faster; below, its seams cost too much


def conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "k k cin cout"]) -> Float[Array, "b h w cout"]:
    """Stride 1 with an odd kernel, zero-padded to keep the size."""
    return _conv_by_columns(x, kernel) if target.platform() == "cpu" else _conv(x, kernel)


def downsample_conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b h2 w2 cout"]:
    """PyTorch's Conv2d(kernel 4, stride 2, padding 1): halves height and width."""
    return _downsample_by_phase(x, kernel) if target.platform() == "cpu" else _downsample(x, kernel)


def upsample_conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b h2 w2 cout"]:
    """PyTorch's ConvTranspose2d(kernel 4, stride 2, padding 1), its kernel flipped: doubles height and width."""
    return _upsample_by_phase(x, kernel) if target.platform() == "cpu" else _upsample(x, kernel)


def _conv(x: Array, kernel: Array, columns: int = 1) -> Array:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (1, columns), [(pad, pad), (pad, pad)], dimension_numbers=_DIMENSIONS)


def _downsample(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=_DIMENSIONS)


def _upsample(x: Array, kernel: Array) -> Array:
    pads = [(2, 2), (2, 2)]
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def _conv_by_columns(x: Array, kernel: Array) -> Array:
    b, h, w, cin = x.shape
    size, cout = kernel.shape[0], kernel.shape[-1]
    columns = _columns(cin, cout)
    if columns == 1 or w % columns:
        return _conv(x, kernel)
    # One wider kernel a column, moved along by as many pixels; the result's channels are (column, channel).
    shifted = [jnp.pad(kernel, ((0, 0), (n, columns - 1 - n), (0, 0), (0, 0))) for n in range(columns)]
    wide = jnp.stack(shifted, 3).reshape(size, size + columns - 1, cin, columns * cout)
    return _conv(x, wide, columns).reshape(b, h, w, cout)


def _columns(cin: int, cout: int) -> int:
    """How many columns to compute at once; measured with images of 128x128."""
    if cout <= 4:
        return 4
    return 2 if cin * cout <= 256 else 1


def _conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv_by_columns(x, kernel), (x, kernel)


def _conv_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    pad = kernel.shape[0] // 2
    if x.shape[-1] > gradient.shape[-1]:  # the wider of the two fills the registers
        kernel_gradient = _kernel_gradient(_pad(gradient, pad), x)[::-1, ::-1].swapaxes(2, 3)
    else:
        kernel_gradient = _kernel_gradient(_pad(x, pad), gradient)
    return _conv_by_columns(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), kernel_gradient


_conv_by_columns.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def _downsample_by_phase(x: Array, kernel: Array) -> Array:
    return _downsample(x, kernel)


def _downsample_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _downsample(x, kernel), (x, kernel)


def _downsample_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # The transpose of a strided convolution is the transposed one with the kernel flipped and its channels swapped.
    x_gradient = _upsample_by_phase(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    return x_gradient, _kernel_gradient(_pad(x, 1), gradient, stride=2)


_downsample_by_phase.defvjp(_downsample_forward, _downsample_backward)


def _upsample_by_phase(x: Array, kernel: Array) -> Array:
    b, h, w, cin = x.shape
    cout = kernel.shape[-1]
    # Axes: (tap, phase) along y and along x.  Cropping one row and column below swaps the phases, hence the flips.
    taps = kernel.reshape(2, 2, 2, 2, cin, cout)[:, ::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, cin, 4 * cout)
    y = _conv_of_padded(_pad(x, 1), taps).reshape(b, h + 1, w + 1, 2, 2, cout).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h + 2, 2 * w + 2, cout)[:, 1:-1, 1:-1]


@jax.custom_vjp
def _conv_of_padded(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_DIMENSIONS)


def _conv_of_padded_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv_of_padded(x, kernel), (x, kernel)


def _conv_of_padded_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    full = [(size - 1, size - 1) for size in kernel.shape[:2]]
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    x_gradient = lax.conv_general_dilated(gradient, flipped, (1, 1), full, dimension_numbers=_DIMENSIONS)
    return x_gradient, _kernel_gradient(x, gradient)


_conv_of_padded.defvjp(_conv_of_padded_forward, _conv_of_padded_backward)


def _pad(x: Array, pixels: int) -> Array:
    return jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))


def _kernel_gradient(
    x: Float[Array, "b hx wx cin"], gradient: Float[Array, "b h w cout"], stride: int = 1
) -> Float[Array, "k k cin cout"]:
    """Of an unpadded convolution of x with a k x k kernel, hx = stride * (h - 1) + k; with stride 2, k is 4."""
    b, rows, columns, cin = x.shape
    if rows < _TALL_ROWS * stride:
        dimensions, dilation = ("CHWN", "IHWO", "HWNC"), (stride, stride)
        return lax.conv_general_dilated(
            x, gradient, (1, 1), "VALID", rhs_dilation=dilation, dimension_numbers=dimensions
        )
    if stride == 2:
        # Neighbouring columns are channels of half an image already; even and odd rows are taken apart.
        pairs = x.reshape(b, rows, columns // 2, 2 * cin)
        by_row = [_kernel_gradient(pairs[:, start::2], gradient) for start in range(2)]
        return jnp.stack(by_row, 1).reshape(4, 4, cin, -1)
    # All images below one another, a channel an image; the gradient gets rows of zeros where x's next image begins.
    seam = rows - gradient.shape[1]
    tall = x.transpose(3, 0, 1, 2).reshape(cin, b * rows, columns, 1)
    gradient = jnp.pad(gradient, ((0, 0), (0, seam), (0, 0), (0, 0))).reshape(b * rows, -1, 1, gradient.shape[-1])
    gradient = gradient[: b * rows - seam]
    return lax.conv_general_dilated(tall, gradient, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "HWNC"))
