"""Which program made a file: versions and commit, as they are stamped into what the program leaves."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import imginav_jax

_ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("jax", "jaxlib", "flax")
_GIT_SECONDS = 10


@functools.cache
def stamp() -> dict[str, str | None]:
    """Returns the versions of the package, of what computes and of the platform, and the commit of a checkout.

    The commit ends in "+" where a tracked file has been changed since, and is None where there is no checkout.
    """
    return {
        "imginav_jax": imginav_jax.__version__,
        "commit": _commit(),
        **{name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def version(package: str) -> str | None:
    """Returns the version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    if not (_ROOT / ".git").exists():  # a folder above may be of another project
        return None
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        is_changed = bool(_git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + "+" * is_changed


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout
