"""Weights with their architecture, from a run's workdir or an imported checkpoint: both keep them the same way."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imginav_jax.devices import target
from imginav_jax.models import network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.network import Params
from imginav_jax.runs import checkpoints
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import new_directory, require_literal

ARCHITECTURE = "architecture"  # key of a checkpoint's JSON
TAKEN = "weights"  # key too: which part of the state `load` takes, the parameters where it is not said
PARAMS, EMA = "params", "ema"  # parts of the state
_FOLDER = "checkpoints"


class Weights(NamedTuple):
    config: AutoencoderConfig
    params: Params  # on the default device
    step: int  # optimizer steps done when they were saved
    kept: tuple[int, ...] = ()  # every step whose checkpoint can be restored, in order
    part: str = PARAMS  # of the state that was saved


def load(directory: Path, step: int | None = None) -> Weights:
    """Reads and returns a step's weights; by default the best one's, or the latest's before the first validation.

    Raises:
      UserError: the directory, or the step, holds no weights, or there is no device for them.
    """
    target.require_devices()
    folder = directory / _FOLDER
    found = checkpoints.find(folder)
    if found is None:
        raise UserError(f"{directory} is neither a workdir with a checkpoint nor an imported checkpoint")
    if step is None:
        step = _best_step(found, folder)
    if step in found.damaged:
        raise UserError(f"the checkpoint of step {step} in {folder} cannot be restored: {found.damaged[step]}")
    if step not in found.sound:
        raise UserError(f"{directory} has no checkpoint of step {step}; there are {', '.join(map(str, found.sound))}")
    try:
        config = AutoencoderConfig.from_architecture(found.contents[ARCHITECTURE])
    except (KeyError, TypeError):
        raise UserError(f"the checkpoints in {folder} do not name their architecture") from None
    part = found.contents.get(TAKEN, PARAMS)
    return Weights(config, _restore(folder, config, step, part), step, tuple(found.sound), part)


def load_given(
    directory: Path, step: int | None, sha256: str | None, log_variance: float | None
) -> tuple[Weights, str]:
    """Reads and returns the weights that a run starts from, by the fields of its config, and their digest as stored.

    Args:
      directory: `init_from`.
      step: `init_step`; None for the best one.
      sha256: `init_sha256`, that `digest` must find; None for any.
      log_variance: `init_log_variance`, with which a deterministic model becomes a variational one; None: it does not.

    Raises:
      UserError: there are no such weights; names the field.
    """
    try:
        loaded = load(directory, step)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from None
    found = digest(loaded)
    if sha256 is not None and found != sha256:
        place = f"the weights of step {loaded.step} in config.init_from {directory}"
        raise UserError(f"config.init_sha256 is {sha256}, but {place} have {found}")
    if log_variance is None:
        return loaded, found
    if loaded.config.variational:
        raise UserError(f"config.init_log_variance is {log_variance}, but config.init_from {directory} has its own")
    return _make_variational(loaded, log_variance), found


def _make_variational(loaded: Weights, log_variance: float) -> Weights:
    """The latent becomes the mean, and the log-variance is this one everywhere, to begin with."""
    config = dataclasses.replace(loaded.config, variational=True)
    layer = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.log_variance_layer(config))
    layer["bias"] += log_variance
    encoder = {**loaded.params["encoder"], network.LOG_VARIANCE: layer}
    return loaded._replace(config=config, params={**loaded.params, "encoder": encoder})


def load_kept(directory: Path, loaded: Weights, step: int) -> Weights:
    """Returns the weights of another kept step of a directory from which `load` has read `loaded`.

    Raises:
      UserError: the step cannot be restored any more.
    """
    return loaded._replace(params=_restore(directory / _FOLDER, loaded.config, step, loaded.part), step=step)


def _restore(folder: Path, config: AutoencoderConfig, step: int, part: str) -> Params:
    """Returns the weights of a step that has just been found sound."""
    here = jnp.zeros(()).sharding
    abstract = jax.tree.map(lambda leaf: leaf.update(sharding=here), network.abstract_params(config))
    return checkpoints.restore(folder, step, {part: abstract}, is_verified=True)[part]


def _best_step(found: checkpoints.Found, folder: Path) -> int:
    """Never another one in silence: UserError if a newer step is damaged or the best one is gone."""
    others = f"name another step ({', '.join(map(str, found.sound))})"
    newest = max(found.damaged, default=0)
    if newest > found.step:
        raise UserError(f"the newest checkpoint in {folder}, {newest}, is damaged: {found.damaged[newest]}; {others}")
    stopping = found.contents.get("early_stopping", {})
    if not math.isfinite(stopping.get("best_loss", math.inf)):
        return found.step
    best = stopping["best_step"]
    if best not in found.sound:
        raise UserError(f"the best checkpoint in {folder}, {best}, is damaged or gone; {others}")
    return best


def save(directory: Path, config: AutoencoderConfig, params: Params, origin: dict[str, Any]) -> None:
    """Writes a new directory for `load`, in one step; `origin` is JSON that says where the weights are from.

    Raises:
      UserError: the directory exists or cannot be written.
    """
    require_literal(directory, "--out")
    with new_directory(directory) as temporary:
        kept = checkpoints.Checkpoints(temporary / _FOLDER, keep_period=1)
        kept.save(0, {PARAMS: params}, {ARCHITECTURE: config.architecture(), "origin": origin}, best_step=0)
        kept.close()


def step_folder(directory: Path, step: int) -> Path:
    """Returns the folder in which a step is kept; what else belongs to its weights may lie there too."""
    return directory / _FOLDER / str(step)


def digest(loaded: Weights) -> str:
    """Returns the SHA-256 of names, shapes, dtypes and values, and of there being shortcuts, in hexadecimal."""
    found = hashlib.sha256(b"shortcuts" if loaded.config.shortcuts else b"")
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded.params):
        values = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {values.shape} {values.dtype}".encode())
        found.update(values.tobytes())
    return found.hexdigest()
