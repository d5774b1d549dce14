"""Paths that users give, and files and folders that a reader sees whole or not at all, whatever cuts the writer off."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imginav_jax.system.errors import RunError, UserError

_PATTERN = re.compile(r"[*?\[\\]|:/")  # what Orbax, and what opens files for it, does not take literally


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file in one step and durably."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def expand_user(path: str | Path) -> Path:
    """Returns the path with the home folder in the place of its ~; where there is none, the ~ is a name like others."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def own_config(name: str) -> Path:
    """Returns the path of a config that came with the package: in a checkout in configs/, once installed inside."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return (installed if installed.is_dir() else package.parent / "configs") / name


def current_config(name: str) -> Path:
    """Returns the path of a config as `--config=configs/NAME` finds it: in the current folder, else the package's."""
    here = Path("configs", name)
    return here if here.exists() else own_config(name)


def require_literal(path: Path, option: str) -> None:
    """Raises UserError where Orbax would take the path for a pattern, and not find again what it has written."""
    found = _PATTERN.search(str(path.absolute()))
    if found:
        raise UserError(
            f"{option} {path.absolute()} holds {found[0]}, and checkpoints cannot be kept there; "
            "choose a path without * ? [ \\ and :/"
        )


def nearest(path: Path) -> Path:
    """Returns the path, or the folder above it in which it would be made."""
    return next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))


def try_to_write(path: Path) -> None:
    """Raises OSError where no file can be made in a folder, or where it is to be made; leaves nothing."""
    with tempfile.TemporaryFile(dir=nearest(path)):
        pass


def check_is_new(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists already; choose another --out")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a path to write, whose file becomes `path` at the end; an error before that leaves nothing behind.

    Raises:
      UserError: the file exists or cannot be written.
    """
    check_is_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # PyTorch's, where a disk is full, is the second
        raise UserError(f"{path} cannot be written: {error}") from None


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `path` at the end; an error before that leaves nothing behind.

    Raises:
      UserError: the directory exists or cannot be written.
    """
    check_is_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except UserError:
        raise
    except (OSError, ValueError, RunError) as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_writable(path: Path, option: str) -> None:
    """Makes the folder where it is missing, before minutes are spent on what is to stand there.

    Raises:
      UserError: a file cannot be made in it; names the option.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object and returns it; UserError where the file cannot be read or holds none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it holds no JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
