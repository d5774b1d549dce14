"""Files of weights as people have them, of PyTorch or of safetensors, as NumPy arrays."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from imginav_jax.pytorch import config_file, torch_pickle
from imginav_jax.system.errors import UserError, first_line

SAFETENSORS = ".safetensors"  # ending of a file's name


class Content(NamedTuple):
    tensors: dict[str, np.ndarray]  # by the names of the file
    config: Any  # the original's, of which nothing has been checked; None where there is none
    epoch: int | None = None


def read(path: Path) -> Content:
    """Reads a checkpoint of the original or of Lightning, a state dict alone, or a file of safetensors.

    Nothing in the file can run code.  PyTorch is not needed for safetensors.

    Raises:
      UserError: it is none of these, holds what is no tensor, or PyTorch is needed and missing.
    """
    return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_pickle(path)


def _read_safetensors(path: Path) -> Content:
    _require_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names, metadata = file.keys(), file.metadata() or {}
            tensors = {name: _read_tensor(file, name, path) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a file of safetensors: {first_line(error)}") from None
    try:
        config = json.loads(metadata.get("config", "null"))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: config in the metadata is not JSON") from None
    return Content(tensors, config)


def _read_tensor(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (AttributeError, TypeError):  # of a dtype that NumPy does not have
        dtype = file.get_slice(name).get_dtype()
        raise UserError(f"{path}: {name} is {dtype}, expected float32") from None


def _read_pickle(path: Path) -> Content:
    torch_pickle.require_torch()
    _require_file(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # the error below says it better
            payload = torch_pickle.load(path)
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    try:
        if _is_state_dict(payload):
            return Content(_to_numpy(payload), None)
        if not isinstance(payload, dict) or not isinstance(payload.get("state_dict"), dict):
            raise UserError("neither a checkpoint of the original nor a state dict alone: it has no dict 'state_dict'")
        return Content(_to_numpy(payload["state_dict"]), _config(payload), _epoch(payload))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is not a file")


def _is_state_dict(payload: Any) -> bool:
    import torch

    is_tensor = (isinstance(value, torch.Tensor) for value in payload.values()) if isinstance(payload, dict) else ()
    return bool(payload) and isinstance(payload, dict) and all(is_tensor)


def _config(payload: Mapping[str, Any]) -> Any:
    """The original's own, or the hyperparameters of Lightning where they hold one."""
    if isinstance(payload.get("config"), dict):
        return payload["config"]
    return config_file.find_model(payload.get("hyper_parameters"))


def _epoch(payload: Mapping[str, Any]) -> int | None:
    epoch = payload.get("epoch")
    return epoch if isinstance(epoch, int) else None


def _to_numpy(state_dict: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """As they are; what is no dense tensor of a NumPy dtype is named by an error."""
    import torch

    arrays = {}
    for name, tensor in state_dict.items():
        try:
            plain = tensor.detach()
            is_bfloat16 = plain.dtype == torch.bfloat16  # which PyTorch does not hand to NumPy
            array = plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if is_bfloat16 else plain.numpy()
        except (AttributeError, TypeError, RuntimeError):
            raise UserError(f"{name} is {getattr(tensor, 'dtype', type(tensor).__name__)}, expected float32") from None
        arrays[str(name)] = array
    return arrays
