"""A small U-Net for diffusion in a latent space, and a ControlNet that steers it, in flax.nnx behind pure functions.

The functions take nested dicts of arrays (`Params`); nothing outside this module needs to know flax.  The U-Net is
trained by flow matching (`flow_matching.py`).  The ControlNet is that of Zhang et al. 2023 (arXiv:2302.05543); beside
a map of the latent's cells it takes a vector that says what is there and not where, added to its time embedding.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

_LEAST_WIDTH = 64
_GROUPS = 8  # of the norms
_MOST_HALVINGS = 2

Params = dict[str, Any]
Shape = tuple[int, int, int]  # height, width and channels of a latent


class Widths(NamedTuple):
    """Channels of a U-Net."""

    outer: int  # at the latents' own size, at least as many as theirs
    inner: int  # below
    embedding: int  # of the time

    @classmethod
    def of(cls, latent_channels: int) -> "Widths":
        """Returns 64, 128 and 256, or more where the latents have more than 64 channels."""
        outer = max(_LEAST_WIDTH, -(-latent_channels // _GROUPS) * _GROUPS)
        return cls(outer, 2 * outer, 4 * outer)


class Features(NamedTuple):
    """What the inward half makes of latents, or what a ControlNet adds to it."""

    skips: tuple[Float[Array, "b _ _ _"], ...]  # a level, outermost first
    middle: Float[Array, "b _ _ c"]


class Demand(NamedTuple):
    """What a ControlNet is told to draw; None for what is not said."""

    cells: Float[Array, "b h w k"] | None  # where something is, by the latent's cells
    contents: Float[Array, "b v"] | None  # what is there, wherever


class DemandShape(NamedTuple):
    """How many numbers a `Demand` has; 0 for what is not said."""

    channels: int  # a cell
    contents: int


class Block(nnx.Module):
    """Two convolutions with a residual connection; the time shifts and scales between them."""

    def __init__(self, cin: int, cout: int, embedding: int, *, dtype: Any, rngs: nnx.Rngs):
        conv, zeros = functools.partial(nnx.Conv, dtype=dtype, rngs=rngs), nnx.initializers.zeros
        self.norm1 = nnx.GroupNorm(cin, _GROUPS, dtype=dtype, rngs=rngs)
        self.conv1 = conv(cin, cout, (3, 3))
        self.time = nnx.Linear(embedding, 2 * cout, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.GroupNorm(cout, _GROUPS, dtype=dtype, rngs=rngs)
        self.conv2 = conv(cout, cout, (3, 3), kernel_init=zeros)
        self.skip = conv(cin, cout, (1, 1))

    def __call__(self, x: Float[Array, "b h w cin"], time: Float[Array, "b e"]) -> Float[Array, "b h w cout"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        scale, shift = jnp.split(self.time(time)[:, None, None, :], 2, -1)
        y = self.conv2(jax.nn.silu(self.norm2(y) * (1 + scale) + shift))
        return self.skip(x) + y


class Attention(nnx.Module):
    """Self-attention over all cells, with a residual connection."""

    def __init__(self, channels: int, *, dtype: Any, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(channels, _GROUPS, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, channels, dtype=dtype, decode=False, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        return x + self.attention(self.norm(x).reshape(b, h * w, c)).reshape(b, h, w, c)


class Encoder(nnx.Module):
    """The U-Net's inward half and its middle; it halves height and width twice, less often where they become odd."""

    def __init__(self, latent_shape: Sequence[int], *, dtype: Any, rngs: nnx.Rngs):
        height, across, channels = latent_shape
        self.dtype = dtype
        self.halvings = sum(height % 2**n == across % 2**n == 0 for n in range(1, _MOST_HALVINGS + 1))
        outer, inner, embedding = Widths.of(channels)
        self.time = nnx.Linear(outer, embedding, dtype=dtype, rngs=rngs)
        self.place = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, height, across, outer)))
        self.inward = nnx.Conv(channels, outer, (3, 3), dtype=dtype, rngs=rngs)
        block = functools.partial(Block, embedding=embedding, dtype=dtype, rngs=rngs)
        self.down = nnx.List([block(outer, outer), block(outer, inner), block(inner, inner)])
        self.middle = Attention(inner, dtype=dtype, rngs=rngs)

    def embed(self, time: Float[Array, " b"], contents: Float[Array, "b e"] | float = 0.0) -> Float[Array, "b e"]:
        """Returns the times, in [0, 1], as the blocks take them; `contents` is added before the activation."""
        waves = self.time.in_features // 2
        angles = time[:, None] * jnp.exp(jnp.linspace(0, np.log(1000), waves))[None, :]
        return jax.nn.silu(self.time(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)) + contents)

    def __call__(
        self, x: Float[Array, "b h w c"], embedded: Float[Array, "b e"], hint: Float[Array, "b h w width"] | None = None
    ) -> Features:
        """Returns the features of `x`; `hint` is added to what the first convolution makes of it."""
        x = self.inward(x) + self.place[...].astype(self.dtype)
        x = x if hint is None else x + hint
        skips = []
        for level, block in enumerate(self.down):
            x = block(_halve(x) if 0 < level <= self.halvings else x, embedded)
            skips.append(x)
        return Features(tuple(skips), self.middle(x))


class UNet(nnx.Module):
    """The velocity on the path from latents (time 0) to noise (time 1)."""

    def __init__(self, latent_shape: Sequence[int], *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.encoder = Encoder(latent_shape, dtype=dtype, rngs=rngs)
        outer, inner, embedding = Widths.of(latent_shape[-1])
        block = functools.partial(Block, embedding=embedding, dtype=dtype, rngs=rngs)
        self.up = nnx.List([block(2 * inner, inner), block(2 * inner, inner), block(inner + outer, outer)])
        self.norm = nnx.GroupNorm(outer, _GROUPS, dtype=dtype, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.outward = nnx.Conv(outer, latent_shape[-1], (3, 3), kernel_init=zeros, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, " b"], control: Features | None = None
    ) -> Float[Array, "b h w c"]:
        embedded = self.encoder.embed(time)
        features = self.encoder(x, embedded)
        skips, x = features if control is None else jax.tree.map(jnp.add, features, control)
        for level, block in zip((2, 1, 0), self.up, strict=True):
            x = _double(x) if level < self.encoder.halvings else x
            x = block(jnp.concatenate([x, skips[level]], -1), embedded)
        return self.outward(jax.nn.silu(self.norm(x))).astype(jnp.float32)


class ControlNet(nnx.Module):
    """What a demand adds to a U-Net's features: an inward half of its own, closed off by convolutions of zeros."""

    def __init__(self, latent_shape: Sequence[int], demand: DemandShape, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        outer, inner, embedding = Widths.of(latent_shape[-1])
        zeros = nnx.initializers.zeros
        zero_conv = functools.partial(nnx.Conv, kernel_size=(1, 1), kernel_init=zeros, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(latent_shape, dtype=dtype, rngs=rngs)
        if demand.channels:
            self.condition = zero_conv(demand.channels, outer)
        if demand.contents:
            self.contents = nnx.Linear(demand.contents, embedding, kernel_init=zeros, dtype=dtype, rngs=rngs)
        self.skips = nnx.List([zero_conv(channels, channels) for channels in (outer, inner, inner)])
        self.middle = zero_conv(inner, inner)

    def __call__(self, x: Float[Array, "b h w c"], time: Float[Array, " b"], demand: Demand) -> Features:
        hint = None if demand.cells is None else self.condition(demand.cells)
        contents = 0.0 if demand.contents is None else self.contents(demand.contents)
        features = self.encoder(x, self.encoder.embed(time, contents), hint)
        skips = tuple(conv(skip) for conv, skip in zip(self.skips, features.skips, strict=True))
        return Features(skips, self.middle(features.middle))


def _halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    return x.repeat(2, 1).repeat(2, 2)


@functools.cache
def _unet_graph(latent_shape: Shape, dtype: str) -> nnx.GraphDef[UNet]:
    return nnx.split(nnx.eval_shape(lambda: UNet(latent_shape, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))))[0]


@functools.cache
def _controlnet_structure(
    latent_shape: Shape, demand: DemandShape, dtype: str
) -> tuple[nnx.GraphDef[ControlNet], nnx.State]:
    """Returns what the modules are, and the shapes of their parameters."""

    def create() -> ControlNet:
        return ControlNet(latent_shape, demand, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))

    return nnx.split(nnx.eval_shape(create))


def init_unet(latent_shape: Sequence[int], key: Array) -> Params:
    """Draws float32 parameters for latents of this height, width and channels, and returns them."""
    return nnx.to_pure_dict(nnx.state(UNet(latent_shape, rngs=nnx.Rngs(params=key)), nnx.Param))


def init_controlnet(unet: Params, latent_shape: Shape, demand: DemandShape) -> Params:
    """Returns a ControlNet's first parameters: the U-Net's inward half, and zeros, so that it adds nothing."""
    abstract = nnx.to_pure_dict(_controlnet_structure(latent_shape, demand, "float32")[1])
    copied = jax.tree.map(jnp.copy, unet["encoder"])
    zeros = {name: part for name, part in abstract.items() if name != "encoder"}
    return {"encoder": copied, **jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), zeros)}


def velocity(
    unet: Params, latents: Float[Array, "b h w c"], times: Float[Array, " b"], *, dtype: str = "float32"
) -> Float[Array, "b h w c"]:
    """Returns the U-Net's velocity at `times` in [0, 1], float32; convolutions and attention run in `dtype`."""
    _, height, width, channels = latents.shape
    return nnx.merge(_unet_graph((height, width, channels), dtype), nnx.State(unet))(latents, times)


def controlled_velocity(
    unet: Params,
    controlnet: Params,
    latents: Float[Array, "b h w c"],
    times: Float[Array, " b"],
    demand: Demand,
    *,
    dtype: str = "float32",
) -> Float[Array, "b h w c"]:
    """Returns `velocity` with the ControlNet's features added to the U-Net's skip connections and middle."""
    _, height, width, channels = latents.shape
    shape = height, width, channels
    numbers = (0 if each is None else each.shape[-1] for each in demand)
    steer = nnx.merge(_controlnet_structure(shape, DemandShape(*numbers), dtype)[0], nnx.State(controlnet))
    return nnx.merge(_unet_graph(shape, dtype), nnx.State(unet))(latents, times, steer(latents, times, demand))
