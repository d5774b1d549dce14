"""What a measurement of noise tolerance has found, and its two files; no device is needed to read them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from imginav_jax.runs.results import arrays

FORMAT_VERSION = 1  # to be raised when a field changes its name or its meaning
_PREFIX = "noise_"


@dataclasses.dataclass(frozen=True)
class NoisePoint:
    """What is left with one strength of noise.

    Attributes:
      sigma: deviation of the noise, where each channel of the latent has deviation 1.
      bits: that the latent carries through it at most; infinite at 0.
      counts: the report's, of what is decoded, a held-out layout a row.
    """

    sigma: float
    bits: float
    counts: Mapping[str, Float[np.ndarray, "layouts ..."]]


@dataclasses.dataclass(frozen=True)
class NoisyLatent:
    """The latents of one run.

    Attributes:
      label: R1, say; runs that differ in the seed alone share it.
      name: of the run on disk.
      digest: of its weights.
      latent_shape: height, width, channels.
      points: without noise first.
    """

    label: str
    name: str
    digest: str
    latent_shape: tuple[int, int, int]
    points: tuple[NoisePoint, ...]


@dataclasses.dataclass(frozen=True)
class Noise:
    """What one device has measured.

    Attributes:
      data_key: of the layouts.
      held_out: which layouts of the validation split were decoded, by index.
    """

    data_key: str
    image_size: int
    held_out: tuple[int, ...]
    latents: tuple[NoisyLatent, ...]


def beside(control: Path) -> Path:
    """Returns the JSON file's path beside that of the same device's control."""
    return control.with_name(_PREFIX + control.name.removeprefix("control_"))


def find(folder: Path) -> list[Path]:
    """Returns the JSON files of a phase folder, by name."""
    return sorted(folder.glob(f"{_PREFIX}*.json"))


def save(path: Path, noise: Noise) -> None:
    """Writes both files; UserError where that fails."""
    arrays.save(path, dataclasses.asdict(noise), FORMAT_VERSION)


def load(path: Path) -> Noise:
    """Returns what `save` has written.

    Raises:
      UserError: a file is missing, damaged, or of another version, or the two do not belong together.
    """
    return arrays.load(path, FORMAT_VERSION, _build)


def _build(content: dict[str, Any]) -> Noise:
    latents = tuple(
        NoisyLatent(
            **{
                **each,
                "latent_shape": tuple(each["latent_shape"]),
                "points": tuple(NoisePoint(**point) for point in each["points"]),
            }
        )
        for each in content["latents"]
    )
    return Noise(**{**content, "held_out": tuple(content["held_out"]), "latents": latents})
