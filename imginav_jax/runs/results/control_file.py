"""What a measurement of control has found, and its two files; no device and no model is needed to read them.

The JSON file says what was measured and how; the counts of every layout, of which the scores are made, lie beside it
in a .npz file that the JSON names with its SHA-256, so that the two never come apart.
"""

import dataclasses
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from imginav_jax.system import files
from imginav_jax.system.errors import UserError

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
      realism: by name: value, and the lower and the upper end of its interval; of the last of `equal_steps`.
    """

    seed: int
    equal_steps: tuple[Point, ...]
    equal_flops: tuple[Point, ...]
    shuffled: Counts
    realism: Mapping[str, tuple[float, float, float]]


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
      held_out: which layouts of the validation split demand something, by index.
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
    latents: tuple[MeasuredLatent, ...]


def file_name(device_kind: str, precision: str) -> str:
    """Returns the name of the JSON file of what one device has measured."""
    kind = re.sub(r"[^a-z0-9]+", "-", device_kind.lower()).strip("-")
    return f"control_{kind}_{precision}.json"


def save(path: Path, control: Control) -> None:
    """Writes both files, the JSON last; UserError where that fails."""
    arrays: dict[str, np.ndarray] = {}
    content = _take_out(dataclasses.asdict(control), arrays, "")
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # pyright: ignore[reportArgumentType]
    counts = path.with_suffix(".npz")
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(counts, packed.getvalue())
        files.write_json(path, {"format_version": FORMAT_VERSION, "counts": [counts.name, digest], **content})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None


def load(path: Path) -> Control:
    """Returns what `save` has written.

    Raises:
      UserError: a file is missing, damaged, or of another version, or the two do not belong together.
    """
    content: Any = files.read_json(path)
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has format_version {version}, expected {FORMAT_VERSION}; measure again")
    try:
        name, digest = content.pop("counts")
        packed = (path.parent / name).read_bytes()
        if hashlib.sha256(packed).hexdigest() != digest:
            raise UserError(f"{path} belongs to another {name}; measure again")
        with np.load(io.BytesIO(packed)) as stored:
            return _build(_put_back(content, stored))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _take_out(value: Any, arrays: dict[str, np.ndarray], place: str) -> Any:
    """Returns JSON, with the names of arrays in their places."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return {"array": place}
    if isinstance(value, Mapping):
        return {key: _take_out(each, arrays, f"{place}/{key}".lstrip("/")) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_take_out(each, arrays, f"{place}/{index}") for index, each in enumerate(value)]
    return value


def _put_back(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {key: _put_back(each, arrays) for key, each in value.items()}
    return [_put_back(each, arrays) for each in value] if isinstance(value, list) else value


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
    realism = {name: tuple(values) for name, values in content["realism"].items()}
    return Trial(**{**content, **curves, "realism": realism})
