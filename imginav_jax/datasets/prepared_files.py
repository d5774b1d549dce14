"""The files of a prepared data set: the list that is stored with them, and why they cannot be read.

The list is needed since a purge of old files takes these and leaves folders.
"""

import errno
import json
import os
import re
from pathlib import Path

from imginav_jax.system.errors import UserError, first_line
from imginav_jax.system.files import write_atomically

FILE_NAME = "files.json"
PREPARED_ANEW = "delete it, and it is prepared anew"
_OF_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # what a purge or a bad copy leaves
_OF_ARRAY_RECORD = re.compile(r"\w+\(\) failed: ([^;]+)")  # of a system call, in a RuntimeError


def write_list(folder: Path) -> None:
    """Writes the list of all files in the folder and below it, with their sizes in bytes.

    Raises:
      OSError: the folder cannot be read or written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_atomically(folder / FILE_NAME, json.dumps(sizes).encode())


def find_missing(folder: Path) -> list[str] | None:
    """Returns the names of the listed files that are gone or of another size; None where there is no list.

    Raises:
      OSError: the folder cannot be read.
    """
    try:
        sizes = json.loads((folder / FILE_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(sizes, dict):
        return None
    return [name for name, size in sizes.items() if size_of(folder / name) != size]


def size_of(path: Path) -> int | None:
    """Returns a file's size in bytes; None where there is no such file.

    Raises:
      OSError: its folder cannot be read.
    """
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def explain(directory: Path, error: BaseException, remedy: str = PREPARED_ANEW) -> UserError:
    """Makes an error that names a data set's folder, why it cannot be read, and what helps.

    Args:
      directory: of the data set.
      error: by which reading it has ended; TFDS, protobuf and ArrayRecord have their own.
      remedy: what helps where its files are damaged or missing; it is not said where a limit of the process, a missing
        right or a failing file system is in the way, for then they may be whole.
    """
    cause: BaseException | None = error
    while cause is not None:  # TFDS puts words of its own before the system's
        if _is_obstacle(cause):
            return UserError(f"{directory} cannot be read: {first_line(cause)}")
        cause = cause.__cause__
    return UserError(f"{directory} cannot be read: {first_line(error)}; {remedy}")


def _is_obstacle(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_FILES
    failure = _OF_ARRAY_RECORD.match(str(error))
    if failure is not None:
        return failure[1] not in {os.strerror(number) for number in _OF_FILES}
    return isinstance(error, MemoryError)
