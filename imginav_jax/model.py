"""The autoencoder of Phase 1.2: encoder, decoder and its three heads, in flax.nnx behind pure functions.

`init`, `apply`, `encode` and `decode` take a frozen `AutoencoderConfig` and a nested dict of arrays (`Params`);
nothing outside this module needs to know flax.  Kernels are stored HWIO.  A transposed kernel is stored as the
correlation kernel over the zero-dilated input, that is PyTorch's kernel flipped in both spatial axes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from imginav_jax import convolutions

NUM_ROOM_TYPES = 2
NORM_GROUPS = 8
NORM_EPSILON = 1e-5

Params = dict[str, Any]
Operation = Callable[[Array, Array], Array]  # (images, kernel) to images


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The architecture; every width that is not here follows from it.

    Attributes:
      latent_channels: channels of the latent.
      base_channels: channels of the first encoder stage; half of it must divide into the norm groups.
      downsampling_steps: each halves height and width.
      num_classes: classes of the segmentation head.
      compute_dtype: what convolutions run in; parameters and norm statistics stay float32.
      remat: recompute each stage's activations in the backward pass instead of keeping them.
    """

    latent_channels: int
    base_channels: int
    downsampling_steps: int
    num_classes: int = 10
    compute_dtype: str = "float32"
    remat: bool = False

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each encoder stage, outermost first."""
        return tuple(self.base_channels * 2**step for step in range(self.downsampling_steps))

    @property
    def compression(self) -> int:
        """Pixels of the image for one cell of the latent, along one axis."""
        return 2**self.downsampling_steps

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(height, width, channels) of the latent of a square image."""
        side = image_size // self.compression
        return side, side, self.latent_channels


class Outputs(NamedTuple):
    """What the decoder's heads return; logits are unnormalised, everything is float32."""

    rgb: Float[Array, "b h w 3"]  # in [-1, 1]
    segmentation_logits: Float[Array, "b h w classes"]
    room_scene_logits: Float[Array, "b 2"]


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """PyTorch's default for weights and biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    `kaiming_uniform_(a=sqrt(5))` has this very bound; see torch.nn.modules.conv._ConvNd.reset_parameters.
    """
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class Conv(nnx.Module):
    """A convolution and a bias; `operation` says how it steps over the image."""

    def __init__(
        self, operation: Operation, cin: int, cout: int, size: int, fan_in: int, *, dtype: Any, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(_uniform(rngs.params(), (size, size, cin, cout), fan_in))
        self.bias = nnx.Param(_uniform(rngs.params(), (cout,), fan_in))
        self.operation, self.dtype = operation, dtype

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        y = self.operation(x, self.kernel[...].astype(self.dtype))
        return y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


def _same(cin: int, cout: int, size: int, *, dtype: Any, rngs: nnx.Rngs) -> Conv:
    return Conv(convolutions.conv, cin, cout, size, size * size * cin, dtype=dtype, rngs=rngs)


def _down(channels: int, *, dtype: Any, rngs: nnx.Rngs) -> Conv:
    return Conv(convolutions.downsample_conv, channels, channels, 4, 4 * 4 * channels, dtype=dtype, rngs=rngs)


def _up(cin: int, cout: int, *, dtype: Any, rngs: nnx.Rngs) -> Conv:
    # PyTorch counts the fan of a transposed kernel by its second axis, which is the outputs.
    return Conv(convolutions.upsample_conv, cin, cout, 4, 4 * 4 * cout, dtype=dtype, rngs=rngs)


class NormAct(nnx.Module):
    """GroupNorm (8 groups, affine) and SiLU; statistics in float32."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, _, _, c = x.shape
        y = x.astype(jnp.float32)
        # Mean and mean square a channel in one pass over the image, then over each group's channels.
        moments = jnp.stack([y.mean((1, 2)), jnp.square(y).mean((1, 2))])
        mean, square = moments.reshape(2, b, NORM_GROUPS, c // NORM_GROUPS).mean(-1)
        variance = jnp.maximum(square - jnp.square(mean), 0)
        by_channel = jnp.stack([mean, lax.rsqrt(variance + NORM_EPSILON)]).repeat(c // NORM_GROUPS, axis=-1)
        mean, inverse = by_channel.reshape(2, b, 1, 1, c)
        scale = inverse * self.scale[...].reshape(1, 1, 1, c)
        return jax.nn.silu(y * scale + (self.bias[...].reshape(1, 1, 1, c) - mean * scale)).astype(x.dtype)


class Encoder(nnx.Module):
    """Image to latent: one (conv, norm, strided conv, norm) stage a downsampling step, then a bottleneck."""

    def __init__(self, config: AutoencoderConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        stages, cin = [], 3
        for c in config.stage_channels:
            conv = _same(cin, c, 3, dtype=dtype, rngs=rngs)
            down = _down(c, dtype=dtype, rngs=rngs)
            stages.append(nnx.List([conv, NormAct(c), down, NormAct(c)]))
            cin = c
        self.stages = nnx.List(stages)
        self.bottleneck = nnx.List([_same(cin, cin, 3, dtype=dtype, rngs=rngs), NormAct(cin)])
        self.to_latent = _same(cin, config.latent_channels, 1, dtype=dtype, rngs=rngs)
        self.dtype, self.remat = dtype, config.remat

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h/f w/f latent"]:
        x = images.astype(self.dtype)
        for stage in self.stages:
            x = _run(stage, x, self.remat)
        return self.to_latent(_run(self.bottleneck, x, self.remat)).astype(jnp.float32)


class Head(nnx.Module):
    """Features to a picture: conv, norm, conv."""

    def __init__(self, cin: int, cout: int, *, dtype: Any, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [_same(cin, cin, 3, dtype=dtype, rngs=rngs), NormAct(cin), _same(cin, cout, 3, dtype=dtype, rngs=rngs)]
        )


class Decoder(nnx.Module):
    """Latent to shared features at image size, then the RGB, segmentation and room/scene heads."""

    def __init__(self, config: AutoencoderConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        c = config.stage_channels[-1]
        stages = [nnx.List([_same(config.latent_channels, c, 3, dtype=dtype, rngs=rngs), NormAct(c)])]
        for _ in range(config.downsampling_steps):
            stages.append(nnx.List([_up(c, c // 2, dtype=dtype, rngs=rngs), NormAct(c // 2)]))
            c //= 2
        self.stages = nnx.List(stages)
        self.rgb = Head(c, 3, dtype=dtype, rngs=rngs)
        self.segmentation = Head(c, config.num_classes, dtype=dtype, rngs=rngs)
        self.room_scene_kernel = nnx.Param(_uniform(rngs.params(), (c, NUM_ROOM_TYPES), c))
        self.room_scene_bias = nnx.Param(_uniform(rngs.params(), (NUM_ROOM_TYPES,), c))
        self.dtype, self.remat = dtype, config.remat

    def __call__(self, latents: Float[Array, "b h w latent"]) -> Outputs:
        x = latents.astype(self.dtype)
        for stage in self.stages:
            x = _run(stage, x, self.remat)
        pooled = x.astype(jnp.float32).mean((1, 2))
        return Outputs(
            rgb=jnp.tanh(_run(self.rgb.layers, x, self.remat).astype(jnp.float32)),
            segmentation_logits=_run(self.segmentation.layers, x, self.remat).astype(jnp.float32),
            room_scene_logits=pooled @ self.room_scene_kernel[...] + self.room_scene_bias[...].reshape(1, -1),
        )


class Autoencoder(nnx.Module):
    def __init__(self, config: AutoencoderConfig, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)


def _run(layers: nnx.List, x: Array, remat: bool) -> Array:
    def chain(layers: nnx.List, x: Array) -> Array:
        for layer in layers:
            x = layer(x)
        return x

    return nnx.remat(chain)(layers, x) if remat else chain(layers, x)


@functools.cache
def _graphdef(config: AutoencoderConfig) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: Autoencoder(config, nnx.Rngs(0))))[0]


def _merge(config: AutoencoderConfig, params: Params) -> Autoencoder:
    return nnx.merge(_graphdef(config), nnx.State(params))


def init(config: AutoencoderConfig, key: Array) -> Params:
    """Fresh float32 parameters with PyTorch's default distribution, as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(Autoencoder(config, nnx.Rngs(params=key)), nnx.Param))


def encode(config: AutoencoderConfig, params: Params, images: Float[Array, "b h w 3"]) -> Float[Array, "b h/f w/f c"]:
    """Deterministic latents, float32, of images in [-1, 1]; height and width must divide by `config.compression`."""
    return _merge(config, params).encoder(images)


def decode(config: AutoencoderConfig, params: Params, latents: Float[Array, "b h w c"]) -> Outputs:
    """The heads' outputs at `config.compression` times the latents' height and width."""
    return _merge(config, params).decoder(latents)


def apply(config: AutoencoderConfig, params: Params, images: Float[Array, "b h w 3"]) -> Outputs:
    """`decode` of `encode`."""
    return decode(config, params, encode(config, params, images))


def parameter_count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
