"""Which files a finished folder has, stored with it: a purge takes files and leaves folders."""

import json
from pathlib import Path

from imginav_jax.system.files import write_atomically

FILE_NAME = "files.json"


def write(folder: Path) -> None:
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
