"""The original's config beside its weights: a YAML file, and whether it agrees with a config in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.pytorch import architecture
from imginav_jax.pytorch.torch_pickle import shorten
from imginav_jax.system.errors import UserError, first_line


def read(path: Path) -> AutoencoderConfig:
    """Reads the architecture that a YAML file of the original names, under `autoencoder` or at its top.

    Raises:
      UserError: the file cannot be read, or names no encoder and decoder, or what is not built here.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    except Exception as error:  # whatever a tag with a value that is none of its kind provokes
        raise UserError(f"--config {path} is not YAML: {_explain(error)}") from None
    config = find_model(content)
    if config is None:
        raise UserError(f"--config {path} has no sections encoder and decoder, under autoencoder or at its top")
    try:
        return architecture.parse_config(config)
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None


def find_model(content: Any) -> Mapping[str, Any] | None:
    """Returns what holds the encoder's and the decoder's config: the content, or its `autoencoder`; None if neither."""
    if not isinstance(content, Mapping):
        return None
    for each in (content.get("autoencoder"), content):
        if isinstance(each, Mapping) and all(isinstance(each.get(part), Mapping) for part in ("encoder", "decoder")):
            return each
    return None


def require_same(own: AutoencoderConfig, given: AutoencoderConfig, path: Path) -> None:
    """Raises UserError where the weights' own config is not that of `path`; names the first field that differs."""
    here, there = (dict(_fields(architecture.make_config(each), "config")) for each in (own, given))
    for field in {**here, **there}:
        if here.get(field) != there.get(field):
            values = f"{shorten(here.get(field))} in the file itself, but {shorten(there.get(field))}"
            raise UserError(f"{field} is {values} in --config {path}")


def _fields(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _fields(each, f"{place}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _fields(each, f"{place}[{index}]")
    else:
        yield place, value


def _explain(error: Exception) -> str:
    """In one line, with the line of the file where that is known."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" in line {mark.line + 1}"
    return f"{getattr(error, 'problem', None) or first_line(error)}{where}"
