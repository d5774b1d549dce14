"""The metrics CSV: one row an epoch, replaced whole, so that a reader never sees half of it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from imginav_jax import atomic


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Replaces the file by these rows, in one step and durably; the first row names the columns, no rows no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, render(rows))


def render(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Returns the file's content; the first row names the columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
