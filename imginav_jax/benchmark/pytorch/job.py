"""What PyTorch's process is told and what it says first; needs neither JAX nor PyTorch."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

_JOB = "job.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run, on which device."""

    device: str  # cpu or cuda
    precision: str  # as in the config; a CPU computes in float32 all the same
    allow_tf32: bool  # for float32 on a GPU, as JAX has it
    latent_channels: int
    base_channels: int
    downsampling_steps: int
    learning_rate: float
    weight_decay: float
    loss_weights: tuple[float, ...]  # of MSE, segmentation, classification, KL divergence
    shortcuts: bool = False
    variational: bool = False


class Ready(NamedTuple):
    """The first answer."""

    form: str  # version, precision and so on, for a person
    loss: float  # of the batch, with the weights as given


def save(folder: Path, job: Job, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the job, and as arrays: images (uint8), types, and the state dict."""
    (folder / _JOB).write_text(json.dumps(dataclasses.asdict(job)))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path) -> tuple[Job, dict[str, np.ndarray]]:
    """Returns the job and its arrays."""
    job = Job(**json.loads((folder / _JOB).read_text()))
    return job, {path.stem: np.load(path) for path in folder.glob("*.npy")}
