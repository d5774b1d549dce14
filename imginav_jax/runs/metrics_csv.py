"""The metrics CSV: one row an epoch, replaced whole, so that a reader never sees half of it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from imginav_jax.system import csv_table, files
from imginav_jax.system.errors import UserError


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Replaces the file by these rows, in one step and durably; the first row names the columns, no rows no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, render(rows))


def render(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Returns the file's content; the first row names the columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


_TEXTS = ("device", "data")  # columns; all others hold numbers
_REQUIRED = ("epoch", "step", "val_MSE_rgb")

CsvRow = dict[str, str]  # one epoch, by column; every value but the texts' is a number


def read(path: Path) -> tuple[list[CsvRow], list[int]]:
    """Returns the whole rows, and the numbers of the lines that are torn or hold a value that is no number.

    Raises:
      UserError: the file cannot be read, or lacks a column that every run of this program has.
    """
    try:
        table = csv_table.read(path, _REQUIRED, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    absent = [column for column in _REQUIRED if column not in table.columns]
    if absent:
        raise UserError(f"{path} has no column {absent[0]}")
    table.find(table.columns)  # none twice
    rows, torn = [], [line for line, _ in table.problems]
    for line, values in table.records:
        is_cut = line == table.last_line and table.is_cut
        if is_cut or not _is_whole(table.columns, values):
            torn.append(line)
        else:
            rows.append(dict(zip(table.columns, values, strict=True)))
    return rows, sorted(torn)


def _is_whole(columns: Sequence[str], line: Sequence[str]) -> bool:
    return len(line) == len(columns) and all(
        column in _TEXTS or _is_number(value) for column, value in zip(columns, line, strict=True)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
