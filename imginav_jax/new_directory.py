"""A directory that appears whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imginav_jax.errors import RunError, UserError


def check_is_new(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists already; choose another --out")


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end and leaves nothing behind where that is not reached.

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
