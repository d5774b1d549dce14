"""What an autoencoder is made of, without its parameters: every width follows from a frozen config."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

MAX_DOWNSAMPLING_STEPS = 7
NORM_GROUPS = 8

# By the names of torch.nn, with its defaults: the checkpoints of the original name them so.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "CELU": jax.nn.celu,
    "ELU": jax.nn.elu,
    "GELU": functools.partial(jax.nn.gelu, approximate=False),
    "Hardsigmoid": jax.nn.hard_sigmoid,
    "Hardswish": jax.nn.hard_swish,
    "Hardtanh": jax.nn.hard_tanh,
    "Identity": jax.nn.identity,
    "LeakyReLU": jax.nn.leaky_relu,
    "LogSigmoid": jax.nn.log_sigmoid,
    "Mish": jax.nn.mish,
    "ReLU": jax.nn.relu,
    "ReLU6": jax.nn.relu6,
    "SELU": jax.nn.selu,
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """One head of the decoder.

    Attributes:
      kind: rgb, segmentation or classification (of room or scene).
      outputs: channels of the picture, or logits.
      name: what PyTorch's state dict calls it.
      activation, norm_groups: of a picture's hidden layer; the groups are the largest number up to `norm_groups` that
        divides its channels.
    """

    kind: str
    outputs: int
    name: str
    activation: str = "SiLU"
    norm_groups: int = NORM_GROUPS


_HEADS = (
    HeadConfig("rgb", 3, "rgb"),
    HeadConfig("segmentation", 10, "segmentation"),
    HeadConfig("classification", 2, "classification"),
)


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The architecture; every width that is not here follows from it.

    Attributes:
      latent_channels: channels of the latent.
      base_channels: channels of the first encoder stage; half of it must divide into the norm groups.
      downsampling_steps: each halves height and width.
      activation: of the encoder and the decoder's shared layers, one of `ACTIVATIONS`.
      norm_groups: of their norms.
      heads: at most one of each kind, in PyTorch's order.
      shortcuts: add to each stage's result what it gets, by `models/shortcuts.py`; without parameters.
      variational: the encoder says a mean and a log-variance of each latent value; the latent is the mean.
      compute_dtype: what convolutions run in; parameters and norm statistics stay float32.
      remat: recompute each stage's activations in the backward pass instead of keeping them.
    """

    latent_channels: int
    base_channels: int
    downsampling_steps: int
    activation: str = "SiLU"
    norm_groups: int = NORM_GROUPS
    heads: tuple[HeadConfig, ...] = _HEADS
    shortcuts: bool = False
    variational: bool = False
    compute_dtype: str = "float32"
    remat: bool = False

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Returns the channels of each encoder stage, outermost first."""
        return tuple(self.base_channels * 2**step for step in range(self.downsampling_steps))

    def head(self, kind: str) -> HeadConfig | None:
        """Returns the head of this kind; None where there is none."""
        return next((head for head in self.heads if head.kind == kind), None)

    @property
    def compression(self) -> int:
        """Returns the pixels of the image for one cell of the latent, along one axis."""
        return 2**self.downsampling_steps

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Returns (height, width, channels) of the latent of a square image of `image_size` pixels a side."""
        side = image_size // self.compression
        return side, side, self.latent_channels

    def architecture(self) -> dict[str, Any]:
        """Returns what decides the parameters and what they compute, as JSON; not how it is computed."""
        fields = dataclasses.asdict(self)
        del fields["compute_dtype"], fields["remat"]
        return {**fields, "heads": list(fields["heads"])}

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> "AutoencoderConfig":
        """Returns the config of which `architecture` made this JSON.

        Raises:
          TypeError: it has a field that there is not, or lacks one.
          KeyError: it has no heads.
        """
        heads = tuple(HeadConfig(**head) for head in architecture["heads"])
        return cls(**{**architecture, "heads": heads})
