"""The autoencoder of Phase 1.2: encoder, decoder and its three heads, in flax.nnx behind pure functions.

`init`, `encode`, `posterior` and `decode` take a frozen `AutoencoderConfig` and a nested dict of arrays (`Params`);
nothing outside this module needs to know flax.  Kernels are stored HWIO.  A transposed kernel is stored as the
correlation kernel over the zero-dilated input, that is PyTorch's kernel flipped in both spatial axes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from imginav_jax.models import convolutions, normalization, shortcuts
from imginav_jax.models.architecture import ACTIVATIONS, NORM_GROUPS, AutoencoderConfig, HeadConfig
from imginav_jax.models.posterior import Posterior

LOG_VARIANCE = "to_log_variance"  # key of a variational encoder's second layer to the latent
Params = dict[str, Any]
Operation = Callable[[Array, Array], Array]  # (images, kernel) to images
Shortcut = Callable[[Array], Array]  # what a stage gets to what it adds to its result
Draw = Callable[[tuple[int, ...], int], Array]  # (shape, fan_in) to a parameter's first values


class HeadOutputs(NamedTuple):
    """What the decoder's heads return, None for a head that is missing; logits are unnormalised, all is float32."""

    rgb: Float[Array, "b h w 3"] | None  # in [-1, 1]
    segmentation_logits: Float[Array, "b h w classes"] | None
    room_scene_logits: Float[Array, "b 2"] | None


class _Uniform:
    """PyTorch's default for weights and biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    `kaiming_uniform_(a=sqrt(5))` has this very bound; see torch.nn.modules.conv._ConvNd.reset_parameters.
    The parameters share one draw, handed out in turn: a draw for each takes XLA many seconds to compile.
    """

    def __init__(self, numbers: Float[Array, " parameters"]):
        """`numbers` are in [-1, 1) and at least as many as the parameters."""
        self._numbers, self._used = numbers, 0

    def __call__(self, shape: tuple[int, ...], fan_in: int) -> Array:
        start, self._used = self._used, self._used + math.prod(shape)
        return self._numbers[start : self._used].reshape(shape) / math.sqrt(fan_in)


def _zeros(shape: tuple[int, ...], fan_in: int) -> Array:
    del fan_in
    return jnp.zeros(shape, jnp.float32)


class Conv(nnx.Module):
    """A convolution and a bias; `operation` says how it steps over the image."""

    def __init__(self, operation: Operation, cin: int, cout: int, size: int, fan_in: int, *, dtype: Any, draw: Draw):
        self.kernel = nnx.Param(draw((size, size, cin, cout), fan_in))
        self.bias = nnx.Param(draw((cout,), fan_in))
        self.operation, self.dtype = operation, dtype

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        # In float32, for the bias's gradient is a sum over every pixel: in bfloat16 it was wrong by half and more.
        return (self.without_bias(x).astype(jnp.float32) + self.bias[...].reshape(1, 1, 1, -1)).astype(self.dtype)

    def without_bias(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return self.operation(x, self.kernel[...].astype(self.dtype))


def _same(cin: int, cout: int, size: int, *, dtype: Any, draw: Draw) -> Conv:
    return Conv(convolutions.conv, cin, cout, size, size * size * cin, dtype=dtype, draw=draw)


def _down(channels: int, *, dtype: Any, draw: Draw) -> Conv:
    return Conv(convolutions.downsample_conv, channels, channels, 4, 4 * 4 * channels, dtype=dtype, draw=draw)


def _up(cin: int, cout: int, *, dtype: Any, draw: Draw) -> Conv:
    # PyTorch counts the fan of a transposed kernel by its second axis, which is the outputs.
    return Conv(convolutions.upsample_conv, cin, cout, 4, 4 * 4 * cout, dtype=dtype, draw=draw)


class NormAct(nnx.Module):
    """The parameters of a GroupNorm, and the activation behind it; `conv_norm_act` applies them."""

    def __init__(self, channels: int, groups: int = NORM_GROUPS, activation: str = "SiLU"):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.groups, self.activation = groups, activation


def conv_norm_act(conv: Conv, norm: NormAct, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the activation of the normalised convolution of x; the convolution's bias is added with the norm."""
    parameters = conv.bias[...], norm.scale[...], norm.bias[...]
    return normalization.bias_norm_act(conv.without_bias(x), *parameters, norm.groups, ACTIVATIONS[norm.activation])


class Stage(nnx.List):
    """Convolutions, each with its norm and activation behind it, and perhaps a shortcut around them.

    A list, for checkpoints name its parts by their places.
    """

    def __init__(self, layers: Sequence[Conv | NormAct], shortcut: Shortcut | None = None):
        super().__init__(layers)
        self.shortcut = shortcut

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 c"]:
        layers, y = list(self), x
        for conv, norm in zip(layers[::2], layers[1::2], strict=True):
            y = conv_norm_act(conv, norm, y)
        return y if self.shortcut is None else y + self.shortcut(x)


class Encoder(nnx.Module):
    """Image to latent: one (conv, norm, strided conv, norm) stage a downsampling step, then a bottleneck.

    A variational one has a second layer beside that to the latent, for the log-variance; the latent is the mean.
    """

    def __init__(self, config: AutoencoderConfig, draw: Draw):
        dtype = jnp.dtype(config.compute_dtype)
        norm = functools.partial(NormAct, groups=config.norm_groups, activation=config.activation)
        stages, cin = [], 3
        for c in config.stage_channels:
            conv = _same(cin, c, 3, dtype=dtype, draw=draw)
            down = _down(c, dtype=dtype, draw=draw)
            shortcut = functools.partial(shortcuts.down, channels=c) if config.shortcuts else None
            stages.append(Stage([conv, norm(c), down, norm(c)], shortcut))
            cin = c
        self.stages = nnx.List(stages)
        self.bottleneck = Stage([_same(cin, cin, 3, dtype=dtype, draw=draw), norm(cin)])
        self.to_latent = _same(cin, config.latent_channels, 1, dtype=dtype, draw=draw)
        to_log_variance = functools.partial(_same, cin, config.latent_channels, 1, dtype=dtype, draw=draw)
        self.to_log_variance = to_log_variance() if config.variational else None
        latent = functools.partial(shortcuts.resize_channels, channels=config.latent_channels)
        self.shortcut = latent if config.shortcuts else None  # around the bottleneck and the layer to the latent
        self.dtype, self.remat = dtype, config.remat

    def __call__(self, images: Float[Array, "b h w 3"]) -> Posterior:
        x = images.astype(self.dtype)
        for stage in self.stages:
            x, _ = _run(stage, x, self.remat)
        features, x = _run(self.bottleneck, x, self.remat)
        y = self.to_latent(features)
        mean = (y if self.shortcut is None else y + self.shortcut(x)).astype(jnp.float32)
        if self.to_log_variance is None:
            return Posterior(mean, None)
        return Posterior(mean, self.to_log_variance(features).astype(jnp.float32))


class PictureHead(nnx.Module):
    """Features to a picture: convolution, norm and activation, convolution."""

    def __init__(self, cin: int, head: HeadConfig, *, dtype: Any, draw: Draw):
        groups = max(groups for groups in range(1, head.norm_groups + 1) if cin % groups == 0)
        hidden, norm = _same(cin, cin, 3, dtype=dtype, draw=draw), NormAct(cin, groups, head.activation)
        self.layers: Any = nnx.List([hidden, norm, _same(cin, head.outputs, 3, dtype=dtype, draw=draw)])

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w outputs"]:
        hidden, norm, out = self.layers
        x = conv_norm_act(hidden, norm, x)
        return out(x).astype(jnp.float32)


class LogitsHead(nnx.Module):
    """Features to logits: the mean over the image, then a linear layer, in float32."""

    def __init__(self, cin: int, head: HeadConfig, *, draw: Draw):
        self.kernel = nnx.Param(draw((cin, head.outputs), cin))
        self.bias = nnx.Param(draw((head.outputs,), cin))

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b logits"]:
        pooled = x.astype(jnp.float32).mean((1, 2))
        return pooled @ self.kernel[...] + self.bias[...].reshape(1, -1)


class Decoder(nnx.Module):
    """Latent to shared features at image size, then the RGB, segmentation and room/scene heads."""

    def __init__(self, config: AutoencoderConfig, draw: Draw):
        dtype = jnp.dtype(config.compute_dtype)
        norm = functools.partial(NormAct, groups=config.norm_groups, activation=config.activation)
        c = config.stage_channels[-1]
        shortcut = functools.partial(shortcuts.resize_channels, channels=c) if config.shortcuts else None
        stages = [Stage([_same(config.latent_channels, c, 3, dtype=dtype, draw=draw), norm(c)], shortcut)]
        for _ in range(config.downsampling_steps):
            up = _up(c, c // 2, dtype=dtype, draw=draw)
            c //= 2
            shortcut = functools.partial(shortcuts.up, channels=c) if config.shortcuts else None
            stages.append(Stage([up, norm(c)], shortcut))
        self.stages = nnx.List(stages)
        rgb, segmentation, classification = map(config.head, ("rgb", "segmentation", "classification"))
        self.rgb = PictureHead(c, rgb, dtype=dtype, draw=draw) if rgb else None
        self.segmentation = PictureHead(c, segmentation, dtype=dtype, draw=draw) if segmentation else None
        self.classification = LogitsHead(c, classification, draw=draw) if classification else None
        self.dtype, self.remat = dtype, config.remat

    def __call__(self, latents: Float[Array, "b h w latent"]) -> HeadOutputs:
        x = latents.astype(self.dtype)
        for stage in self.stages:
            x, _ = _run(stage, x, self.remat)
        rgb = segmentation_logits = room_scene_logits = None
        if self.rgb is not None:
            rgb, x = _run(self.rgb, x, self.remat)
            rgb = jnp.tanh(rgb)
        if self.segmentation is not None:
            segmentation_logits, x = _run(self.segmentation, x, self.remat)
        if self.classification is not None:
            room_scene_logits = self.classification(x)
        return HeadOutputs(rgb, segmentation_logits, room_scene_logits)


class Autoencoder(nnx.Module):
    def __init__(self, config: AutoencoderConfig, draw: Draw):
        self.encoder = Encoder(config, draw)
        self.decoder = Decoder(config, draw)


def _run(module: Any, x: Array, remat: bool) -> tuple[Array, Array]:
    """Returns what the module makes of x, and x itself: whatever else uses x takes the one that is returned.

    With `remat` nothing between the two is kept for the backward pass, and the barrier puts that pass in order: the
    module is computed anew once the gradient of everything that uses what is returned is there, and no earlier one
    is before all gradients of these are.  Otherwise the activations of several stages, or of two heads, would be live
    at once.  The barriers need `target.compiler_options` on the CPU.
    """
    if not remat:
        return module(x), x
    definition, state = nnx.split(module)

    @jax.checkpoint
    def run(state: nnx.State, x: Array) -> tuple[Array, Array]:
        state, x = lax.optimization_barrier((state, x))
        return nnx.merge(definition, state)(x), x

    return run(state, x)


@functools.cache
def _structure(config: AutoencoderConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """What the modules are, and the shapes of their parameters."""
    return nnx.split(nnx.eval_shape(lambda: Autoencoder(config, _zeros)))


def _merge(config: AutoencoderConfig, params: Params) -> Autoencoder:
    return nnx.merge(_structure(config)[0], nnx.State(params))


def abstract_params(config: AutoencoderConfig) -> Params:
    """Shapes and dtypes of the parameters, without making them."""
    return nnx.to_pure_dict(_structure(config)[1])


def log_variance_layer(config: AutoencoderConfig) -> Params:
    """Shapes and dtypes of the layer that a variational encoder has more than a deterministic one."""
    return abstract_params(config)["encoder"][LOG_VARIANCE]


def init(config: AutoencoderConfig, key: Array) -> Params:
    """Returns fresh float32 parameters with PyTorch's default distribution, as a nested dict of arrays."""
    count = parameter_count(abstract_params(config))
    numbers = jax.random.uniform(key, (count,), jnp.float32, -1, 1)
    return nnx.to_pure_dict(nnx.state(Autoencoder(config, _Uniform(numbers)), nnx.Param))


def encode(config: AutoencoderConfig, params: Params, images: Float[Array, "b h w 3"]) -> Float[Array, "b h/f w/f c"]:
    """Returns float32 latents of images in [-1, 1], whose height and width must divide by `config.compression`.

    A variational encoder's are the means.
    """
    return posterior(config, params, images).mean


def posterior(config: AutoencoderConfig, params: Params, images: Float[Array, "b h w 3"]) -> Posterior:
    """Returns what the encoder says of the latents of images in [-1, 1]."""
    return _merge(config, params).encoder(images)


def decode(config: AutoencoderConfig, params: Params, latents: Float[Array, "b h w c"]) -> HeadOutputs:
    """Returns the heads' outputs at `config.compression` times the latents' height and width."""
    return _merge(config, params).decoder(latents)


def parameter_count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
