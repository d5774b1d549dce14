"""What a benchmark has measured, and its JSON file; no device and no model is needed to read it."""

import dataclasses
import math
import typing
from pathlib import Path
from typing import Any

from imginav_jax.runs.results.naming import device_file
from imginav_jax.system import files
from imginav_jax.system.errors import UserError

FORMAT_VERSION = 1  # to be raised when a field changes its name or its meaning


@dataclasses.dataclass(frozen=True)
class Spread:
    """Of the rounds' values."""

    median: float
    lower_quartile: float
    upper_quartile: float

    def scaled(self, factor: float) -> "Spread":
        """Returns the spread in another unit."""
        return Spread(factor * self.median, factor * self.lower_quartile, factor * self.upper_quartile)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of a call with one batch."""

    seconds_per_batch: Spread
    images_per_second: Spread  # of the seconds' median and quartiles


@dataclasses.dataclass(frozen=True)
class AutoencoderCost:
    """What training and using an autoencoder costs.

    Attributes:
      run: R1, R2 or R3, or "R1 shortcuts" and so on.
      latent_shape: height, width, channels.
      compile_seconds: of the training step.
      train_memory_mib: the compiler's estimate of what a training step needs on its device.
      train_flops_per_image: of a training step's convolutions and matrix products.
      train, encode, decode: a training step; images to latents; latents to images, classes and room/scene.
    """

    run: str
    downsampling_steps: int
    latent_shape: tuple[int, ...]
    parameters: int
    compile_seconds: float
    train_memory_mib: float
    train_flops_per_image: float
    train: Timing
    encode: Timing
    decode: Timing


@dataclasses.dataclass(frozen=True)
class TrainingStepCost:
    """What a training step of a diffusion model costs.

    Attributes:
      trained_parameters: a ControlNet's U-Net is frozen and does not count.
      memory_mib, flops_per_image: as of an autoencoder's training step.
      timing: of a training step.
      seconds_ratio_to_r1: its seconds over those of the same step on R1's latents in the same round.
    """

    trained_parameters: int
    memory_mib: float
    flops_per_image: float
    timing: Timing
    seconds_ratio_to_r1: Spread


@dataclasses.dataclass(frozen=True)
class DiffusionCost:
    """What diffusion on latents of one shape costs.

    Attributes:
      names: all that have latents of this shape.
      latent_shape: height, width, channels.
      unet: a training step of the U-Net.
      controlnet: a training step of a ControlNet, with the frozen U-Net.
    """

    names: tuple[str, ...]
    latent_shape: tuple[int, ...]
    unet: TrainingStepCost
    controlnet: TrainingStepCost


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Under which something was measured.

    Attributes:
      device_kind, platform: as JAX names them.
      precision: what convolutions ran in.
      image_size: pixels, height and width.
      batch_size: images a call.
      rounds: samples of every time.
    """

    device_kind: str
    platform: str
    num_devices: int
    jax_version: str
    precision: str
    image_size: int
    batch_size: int
    rounds: int


@dataclasses.dataclass(frozen=True)
class Benchmark(Conditions):
    """What one device has been measured at."""

    autoencoders: tuple[AutoencoderCost, ...]
    diffusion: tuple[DiffusionCost, ...]

    @property
    def file_name(self) -> str:
        return device_file("benchmark", self.device_kind, self.precision)

    def dump(self) -> dict[str, Any]:
        """Returns what the JSON file holds."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}


def save(folder: Path, benchmark: Benchmark) -> Path:
    """Writes the file in one step, and replaces that of an earlier benchmark; UserError where that fails."""
    path = folder / benchmark.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(path, benchmark.dump())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    return path


def load(path: Path) -> Benchmark:
    """Returns what `save` has written.

    Raises:
      UserError: the file is missing, damaged, or of another version.
    """
    content: Any = files.read_json(path)
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version is None:
        raise UserError(f"{path} is no benchmark: it has no format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has format_version {version}, expected {FORMAT_VERSION}; measure again")
    try:
        return _build(Benchmark, content, "")
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _build(kind: Any, value: Any, place: str) -> Any:
    """Returns `value`, as JSON has it, as an object of type `kind`; ValueError names the place that does not fit."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, place)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_build(typing.get_args(kind)[0], each, f"{place}[{n}]") for n, each in enumerate(value))
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    raise ValueError(f"{place} is {value!r}")


def _build_dataclass(kind: Any, value: Any, place: str) -> Any:
    fields = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {value!r}")
    differing = sorted(fields.keys() ^ value.keys())
    if differing:
        raise ValueError(f"{place + ': ' if place else ''}missing or unknown fields {', '.join(differing)}")
    return kind(**{name: _build(fields[name], value[name], f"{place}.{name}".lstrip(".")) for name in fields})
