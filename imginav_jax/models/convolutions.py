"""The convolutions of the autoencoder, in the form that is fastest on the platform; every form gives the same result.

On the CPU, Winograd's form where there are channels and tiles enough for its transformations to pay, else direct forms.
Elsewhere XLA's own: cuDNN chooses among such forms by itself.  Kernels are HWIO, images NHWC.
"""

from jaxtyping import Array, Float

from imginav_jax.devices import target
from imginav_jax.models import plain_convolutions
from imginav_jax.models.cpu import convolutions as cpu


def conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "k k cin cout"]) -> Float[Array, "b h w cout"]:
    """Convolves with stride 1 and an odd kernel, zero-padded to keep the size."""
    return cpu.conv(x, kernel) if target.platform() == "cpu" else plain_convolutions.conv(x, kernel)


def downsample_conv(
    x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]
) -> Float[Array, "b h/2 w/2 cout"]:
    """Halves height and width, as PyTorch's Conv2d(kernel 4, stride 2, padding 1)."""
    return cpu.downsample(x, kernel) if target.platform() == "cpu" else plain_convolutions.downsample(x, kernel)


def upsample_conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b 2*h 2*w cout"]:
    """Doubles height and width, as PyTorch's ConvTranspose2d(kernel 4, stride 2, padding 1) with a flipped kernel."""
    return cpu.upsample(x, kernel) if target.platform() == "cpu" else plain_convolutions.upsample(x, kernel)
