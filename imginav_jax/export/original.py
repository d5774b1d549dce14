"""Files of the original: its checkpoint, and the same tensors as safetensors, in float32 with its names and axes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from imginav_jax.pytorch import architecture, tensors
from imginav_jax.runs import weights
from imginav_jax.runs.weights import Weights
from imginav_jax.system import versions
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import check_is_new, new_file


class _Original(NamedTuple):
    weights: Weights
    config: dict[str, Any]
    state_dict: dict[str, np.ndarray]


def export_checkpoint(directory: Path, out: Path, step: int | None = None) -> Weights:
    """Writes the weights of a workdir or an imported checkpoint as a checkpoint of the original, in one step.

    Args:
      directory: the workdir, or the imported checkpoint.
      out: the file to make, a dict with `state_dict` and `config` that `Autoencoder.load_checkpoint` of ImgiNav reads.
      step: of the checkpoint; default: the best.

    Raises:
      UserError: torch is missing, the directory holds no weights or a model that the original cannot have, or `out`
        exists or cannot be written.
    """
    check_is_new(out)
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch writes these files and is not installed: pip install torch") from None
    made = _load(directory, step)
    payload = {
        "state_dict": {name: torch.from_numpy(tensor.copy()) for name, tensor in made.state_dict.items()},
        "config": made.config,
        "program": versions.stamp(),
    }
    with new_file(out) as temporary, temporary.open("wb") as file:
        torch.save(payload, file)
    return made.weights


def export_safetensors(directory: Path, out: Path, step: int | None = None) -> Weights:
    """Writes a file of safetensors, whose metadata holds the original's config and this program's versions as JSON.

    Arguments and errors are those of `export_checkpoint`, but PyTorch is not needed.
    """
    check_is_new(out)
    made = _load(directory, step)
    metadata = {"config": json.dumps(made.config), "program": json.dumps(versions.stamp())}
    with new_file(out) as temporary:
        temporary.write_bytes(safetensors.numpy.save(made.state_dict, metadata))
    return made.weights


def _load(directory: Path, step: int | None) -> _Original:
    loaded = weights.load(directory, step)
    try:
        config = architecture.make_config(loaded.config)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    return _Original(loaded, config, tensors.from_params(loaded.config, loaded.params))
