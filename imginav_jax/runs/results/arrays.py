"""A result in two files: a JSON file that a person can read, and beside it a .npz file with the arrays.

The JSON file names the other one with its SHA-256, so that the two never come apart.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from imginav_jax.system import files
from imginav_jax.system.errors import UserError

_Result = TypeVar("_Result")


def save(path: Path, content: Mapping[str, Any], version: int) -> None:
    """Writes both files, the JSON last; arrays may stand anywhere in `content`.  UserError where that fails."""
    arrays: dict[str, np.ndarray] = {}
    described = _take_out(content, arrays, "")
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # pyright: ignore[reportArgumentType]
    beside = path.with_suffix(".npz")
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(beside, packed.getvalue())
        files.write_json(path, {"format_version": version, "arrays": [beside.name, digest], **described})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None


def load(path: Path, version: int, build: Callable[[dict[str, Any]], _Result]) -> _Result:
    """Returns what `build` makes of what `save` has written.

    Raises:
      UserError: a file is missing, damaged, or of another version, or the two do not belong together.
    """
    content: Any = files.read_json(path)
    found = content.pop("format_version", None) if isinstance(content, dict) else None
    if found != version:
        raise UserError(f"{path} has format_version {found}, expected {version}; measure again")
    try:
        name, digest = content.pop("arrays")
        packed = (path.parent / name).read_bytes()
        if hashlib.sha256(packed).hexdigest() != digest:
            raise UserError(f"{path} belongs to another {name}; measure again")
        with np.load(io.BytesIO(packed)) as stored:
            return build(_put_back(content, stored))
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
