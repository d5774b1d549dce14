"""Convolutions as sums over a kernel's taps: XLA's own, and forms of the same sums that its CPU does faster.

On the CPU, XLA multiplies matrices near the processor's limit, but
- a zero-dilated convolution runs in a slow loop; `upsample_by_phase` makes the transposed convolution one undilated 2x2
  convolution into the four output phases, then depth-to-space;
- few output channels leave most of a vector register empty, so `conv_by_columns` computes neighbouring columns of the
  output as more channels;
- the gradient of a kernel, a convolution of two batches over each other, wants both with the batch innermost, and these
  transpositions took as long as the sum itself; `kernel_gradient` lays the batch out as one tall image instead.
Kernels are HWIO, images NHWC; around an image are as many zeros as keep, halve or double its size.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from imginav_jax.models import plain_convolutions
from imginav_jax.models.plain_convolutions import DIMENSIONS

_TALL_ROWS = 32  # of an image from which on a tall image of all of them is faster; below, its seams cost too much


def upsample_by_phase(
    x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]
) -> Float[Array, "b 2*h 2*w cout"]:
    """Doubles height and width by a transposed convolution, as one undilated convolution into four phases."""
    b, h, w, cin = x.shape
    cout = kernel.shape[-1]
    # Axes: (tap, phase) along y and along x.  Cropping one row and column below swaps the phases, hence the flips.
    taps = kernel.reshape(2, 2, 2, 2, cin, cout)[:, ::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, cin, 4 * cout)
    # Padded by hand: XLA's CPU is slow where a 2x2 convolution pads by itself.
    y = lax.conv_general_dilated(_pad(x, 1), taps, (1, 1), "VALID", dimension_numbers=DIMENSIONS)
    y = y.reshape(b, h + 1, w + 1, 2, 2, cout).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h + 2, 2 * w + 2, cout)[:, 1:-1, 1:-1]


def conv_by_columns(x: Float[Array, "b h w cin"], kernel: Float[Array, "k k cin cout"]) -> Float[Array, "b h w cout"]:
    """Convolves with stride 1 and an odd kernel, several columns of the result at once."""
    b, h, w, cin = x.shape
    size, cout = kernel.shape[0], kernel.shape[-1]
    columns = _columns(cin, cout)
    if columns == 1 or w % columns:
        return plain_convolutions.conv(x, kernel)
    # One wider kernel a column, moved along by as many pixels; the result's channels are (column, channel).
    shifted = [jnp.pad(kernel, ((0, 0), (n, columns - 1 - n), (0, 0), (0, 0))) for n in range(columns)]
    wide = jnp.stack(shifted, 3).reshape(size, size + columns - 1, cin, columns * cout)
    return plain_convolutions.conv_with_strides(x, wide, columns).reshape(b, h, w, cout)


def kernel_gradient(
    x: Float[Array, "b h w cin"], y: Float[Array, "b h2 w2 cout"], size: int, stride: int = 1
) -> Float[Array, "k k cin cout"]:
    """Returns the kernel's gradient of `conv`, or with stride 2 of `downsample`; y is the output's, `size` is k."""
    if stride == 1 and x.shape[-1] > y.shape[-1]:  # the wider of the two fills the registers
        return _correlate(_pad(y, size // 2), x)[::-1, ::-1].swapaxes(2, 3)
    return _correlate(_pad(x, (size - stride + 1) // 2), y, stride)


def _columns(cin: int, cout: int) -> int:
    """Returns how many columns to compute at once; measured with images of 128x128."""
    if cout <= 4:
        return 4
    return 2 if cin * cout <= 256 else 1


def _pad(x: Array, pixels: int) -> Array:
    return jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))


def _correlate(
    x: Float[Array, "b hx wx cin"], gradient: Float[Array, "b h w cout"], stride: int = 1
) -> Float[Array, "k k cin cout"]:
    """Returns the gradient of a k x k kernel that is convolved with an unpadded x; `gradient` is the output's.

    hx is stride * (h - 1) + k; with stride 2, k is 4.
    """
    b, rows, columns, cin = x.shape
    if rows < _TALL_ROWS * stride:
        dimensions, dilation = ("CHWN", "IHWO", "HWNC"), (stride, stride)
        return lax.conv_general_dilated(
            x, gradient, (1, 1), "VALID", rhs_dilation=dilation, dimension_numbers=dimensions
        )
    if stride == 2:
        # Neighbouring columns are channels of half an image already; even and odd rows are taken apart.
        pairs = x.reshape(b, rows, columns // 2, 2 * cin)
        by_row = [_correlate(pairs[:, start::2], gradient) for start in range(2)]
        return jnp.stack(by_row, 1).reshape(4, 4, cin, -1)
    # All images below one another, a channel an image; the gradient gets rows of zeros where x's next image begins.
    seam = rows - gradient.shape[1]
    tall = x.transpose(3, 0, 1, 2).reshape(cin, b * rows, columns, 1)
    gradient = jnp.pad(gradient, ((0, 0), (0, seam), (0, 0), (0, 0))).reshape(b * rows, -1, 1, gradient.shape[-1])
    gradient = gradient[: b * rows - seam]
    return lax.conv_general_dilated(tall, gradient, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "HWNC"))
