"""Files that a reader sees whole or as they were before, whatever cuts the writer off."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Replaces the file in one step and durably."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
