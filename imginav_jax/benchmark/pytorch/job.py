"""What PyTorch's process is told and what it says first; needs neither JAX nor PyTorch."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_JOB = "job.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run, on which device.

    Attributes:
      device: cpu or cuda.
      precision: as in the config; a CPU computes in float32 all the same.
      allow_tf32: for float32 on a GPU, as JAX has it.
      loss_weights: of MSE, segmentation, classification.
    """

    device: str
    precision: str
    allow_tf32: bool
    latent_channels: int
    base_channels: int
    downsampling_steps: int
    learning_rate: float
    weight_decay: float
    loss_weights: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Ready:
    """The first answer.

    Attributes:
      form: version, precision and so on, for a person.
      loss: of the batch, with the weights as given.
    """

    form: str
    loss: float


def save(folder: Path, job: Job, arrays: Mapping[str, np.ndarray]) -> None:
    """`arrays`: images (uint8), types, and the state dict."""
    (folder / _JOB).write_text(json.dumps(dataclasses.asdict(job)))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path) -> tuple[Job, dict[str, np.ndarray]]:
    """The job and its arrays."""
    job = Job(**json.loads((folder / _JOB).read_text()))
    return job, {path.stem: np.load(path) for path in folder.glob("*.npy")}
