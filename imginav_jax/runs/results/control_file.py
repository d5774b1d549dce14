"""What a measurement of control has found, and its two files; no device and no model is needed to read them.

The JSON file says what was measured and how; the counts of every layout, of which the scores are made, lie beside it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from imginav_jax.runs.results import arrays
from imginav_jax.runs.results.naming import device_file

FORMAT_VERSION = 1  # to be raised when a field changes its name or its meaning

Counts = Mapping[str, Float[np.ndarray, "layouts ..."]]  # a held-out layout a row, by what is counted


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
      step: training steps of the ControlNet; at 0 it adds nothing, and the U-Net draws without a demand.
      flops: of all training until then, the U-Net's included.
      seconds: of all training until then, likewise.
      counts: of what was drawn, against what was demanded.
    """

    step: int
    flops: float
    seconds: float
    counts: Counts


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one seed of the diffusion model has reached.

    Attributes:
      seed: of the models' first weights, batches and noise.
      equal_steps: the curve of as many steps as every latent gets.
      equal_flops: the curve of as many FLOPs as the finest latent's training takes; the same where it is the finest.
      shuffled: the last of `equal_steps`, against what another scene's layout demands.
      features: of the last pictures of `equal_steps`, whose realism is judged by them, a held-out layout a row.
      copied: whether each of them is nearly one of the training layouts.
    """

    seed: int
    equal_steps: tuple[Point, ...]
    equal_flops: tuple[Point, ...]
    shuffled: Counts
    features: Float[np.ndarray, "layouts features"]
    copied: Float[np.ndarray, " layouts"]


@dataclasses.dataclass(frozen=True)
class MeasuredLatent:
    """The latents of one run, or another form of them.

    Attributes:
      label: R1, or "R1 unshuffled, 8x8x64"; runs that differ in the seed alone share it.
      run: the label of the run whose latents these are.
      name: of the run on disk.
      digest: of its weights.
      latent_shape: height, width, channels.
      shift: by which noise times are shifted.
      ceiling: of the autoencoder's reconstructions, against the same demands.
      features: of these reconstructions.
      pictures: classes of demanded layouts and of two drawings of each, uint8 [layouts, 3, height, width].
    """

    label: str
    run: str
    name: str
    digest: str
    latent_shape: tuple[int, int, int]
    shift: float
    unet_flops: float  # of a training step
    controlnet_flops: float
    ceiling: Counts
    features: Float[np.ndarray, "layouts features"]
    trials: tuple[Trial, ...]
    pictures: np.ndarray


@dataclasses.dataclass(frozen=True)
class Control:
    """What one device has measured.

    Attributes:
      device_kind, platform: as JAX names them.
      data_key: of the layouts.
      condition: walls, contents or both.
      unet_steps, controlnet_steps: of equal steps.
      sampling_steps: of Heun's method.
      held_out: which layouts of the validation split were drawn, by index.
      features: of these layouts.
      training_features: of some training layouts, by whose spread features are compared.
      copied: whether each held-out layout is nearly one of the training layouts.
    """

    device_kind: str
    platform: str
    num_devices: int
    jax_version: str
    precision: str
    image_size: int
    data_key: str
    condition: str
    batch_size: int
    unet_steps: int
    controlnet_steps: int
    sampling_steps: int
    held_out: tuple[int, ...]
    features: Float[np.ndarray, "layouts features"]
    training_features: Float[np.ndarray, "some features"]
    copied: Float[np.ndarray, " layouts"]
    latents: tuple[MeasuredLatent, ...]


def file_name(device_kind: str, precision: str) -> str:
    """Returns the name of the JSON file of what one device has measured."""
    return device_file("control", device_kind, precision)


def find(folder: Path) -> list[Path]:
    """Returns the JSON files of a phase folder, by name."""
    return sorted(folder.glob("control_*.json"))


def save(path: Path, control: Control) -> None:
    """Writes both files; UserError where that fails."""
    arrays.save(path, dataclasses.asdict(control), FORMAT_VERSION)


def load(path: Path) -> Control:
    """Returns what `save` has written.

    Raises:
      UserError: a file is missing, damaged, or of another version, or the two do not belong together.
    """
    return arrays.load(path, FORMAT_VERSION, _build)


def _build(content: dict[str, Any]) -> Control:
    latents = tuple(
        MeasuredLatent(
            **{
                **each,
                "latent_shape": tuple(each["latent_shape"]),
                "trials": tuple(_build_trial(trial) for trial in each["trials"]),
            }
        )
        for each in content["latents"]
    )
    return Control(**{**content, "held_out": tuple(content["held_out"]), "latents": latents})


def _build_trial(content: dict[str, Any]) -> Trial:
    curves = {name: tuple(Point(**each) for each in content[name]) for name in ("equal_steps", "equal_flops")}
    return Trial(**{**content, **curves})
