"""Compiled programs are kept on disk: a command that starts again loads them instead of compiling them anew."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax

from imginav_jax.devices import cards, target
from imginav_jax.system.progress import logger


def enable() -> None:
    """Keeps this process's programs in JAX's compilation cache, in the folder that `cards` names.

    JAX_COMPILATION_CACHE_DIR and JAX's other settings win where they are set.  A folder that cannot be written is
    worth a warning: the programs are compiled anew.  For commands, not for code that others import; after
    `distributed.initialize` and before anything is compiled.

    Raises:
      UserError: there is no device to compile for.
    """
    target.require_devices()
    if not _setting("jax_enable_compilation_cache"):
        return
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # JAX: 1 s, as long as a small step takes
    given = _setting("jax_compilation_cache_dir")
    folder = Path(given) if given else cards.compilation_cache(_card())
    if "://" in str(given):  # of another file system, which is JAX's to open
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logger.warning("Compiled programs are not kept: %s cannot be written: %s", folder, error.strerror)
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _setting(name: str) -> Any:
    return jax.config.values[name]


def _card() -> cards.Card:
    """That which computes; nvidia-smi is not asked where it is the CPU."""
    return cards.find({"JAX_PLATFORMS": "cpu"} if jax.default_backend() == "cpu" else os.environ)
