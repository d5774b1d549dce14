"""The metrics CSV of a run, read as far as it can be trusted."""

import csv
from collections.abc import Sequence
from pathlib import Path

from imginav_jax.errors import UserError

_TEXTS = ("device", "data")  # columns; all others hold numbers
_REQUIRED = ("epoch", "step", "val_MSE_rgb")

Row = dict[str, str]  # one epoch, by column; every value but the texts' is a number


def read(path: Path) -> tuple[list[Row], list[int]]:
    """The whole rows, and the numbers of the lines that are torn or hold a value that is no number.

    Raises:
      UserError: the file cannot be read, or lacks a column that every run of this program has.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    lines = [(number, line) for number, line in enumerate(csv.reader(text.splitlines()), 1) if line]
    columns = lines[0][1] if lines else []
    absent = [column for column in _REQUIRED if column not in columns]
    if absent:
        raise UserError(f"{path} has no column {absent[0]}")
    rows, torn = [], []
    for number, line in lines[1:]:
        is_cut = number == lines[-1][0] and not text.endswith(("\n", "\r"))
        if is_cut or not _is_whole(columns, line):
            torn.append(number)
        else:
            rows.append(dict(zip(columns, line, strict=True)))
    return rows, torn


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
