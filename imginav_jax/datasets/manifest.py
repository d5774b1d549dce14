"""Reading `layouts.csv`: which layouts there are, and every problem with its rows at once."""

import dataclasses
import itertools
import operator
from collections.abc import Sequence
from pathlib import Path

from imginav_jax.system import csv_table
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user

COLUMNS = ("scene_id", "type", "room_id", "layout_path", "is_empty")
TYPES = ("room", "scene")
_BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_NOT_THERE = {"", "nan", "none", "null", "<na>", "n/a", "#n/a"}  # as pandas and spreadsheets write an empty cell
_ROWS_SHOWN = 20
_LONGEST = 4096  # characters of a value; no path is longer


@dataclasses.dataclass(frozen=True)
class ManifestRow:
    """One layout that is to be used."""

    line: int  # in the manifest, 1 is the header
    scene_id: str
    type: str
    room_id: str
    path: Path


@dataclasses.dataclass
class Manifest:
    """The rows of a manifest that are to be used, and what is wrong with the others."""

    path: Path
    rows: list[ManifestRow] = dataclasses.field(default_factory=list)
    skipped_empty: int = 0  # is_empty is true
    skipped_without_path: int = 0
    problems: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # line and what is wrong with it

    def raise_problems(self) -> None:
        """Reports the bad rows, if there are any.

        Raises:
          UserError: there are; it names the first 20 and their count.
        """
        if not self.problems:
            return
        rows = [
            f"row {line}: {'; '.join(text for _, text in problems)}"
            for line, problems in itertools.groupby(sorted(self.problems), key=operator.itemgetter(0))
        ]
        count = f"{len(rows)} bad {'row' if len(rows) == 1 else 'rows'}"
        more = len(rows) - _ROWS_SHOWN
        tail = [f"... and {more} more"] if more > 0 else []
        raise UserError("\n  ".join([f"{self.path}: {count}", *rows[:_ROWS_SHOWN], *tail]))


def read_manifest(path: str | Path, root: str | Path | None = None) -> Manifest:
    """Reads a manifest and returns its usable rows; bad rows are in its `problems`, for `raise_problems`.

    Args:
      path: a CSV file with the columns scene_id, type, room_id, layout_path, is_empty; others are ignored.
      root: what relative layout paths are relative to, and what no path may leave; without it they are relative
        to the manifest's folder and may lead anywhere.

    Raises:
      UserError: the file is missing, unreadable, empty or lacks a column.
    """
    path = expand_user(path)
    manifest = Manifest(path)
    folder = _existing_folder(root) if root else None
    try:
        table = csv_table.read(path, COLUMNS, f"manifest {path}")
    except FileNotFoundError:
        raise UserError(f"manifest {path} does not exist (config key data.manifest)") from None
    except OSError as error:
        raise UserError(f"manifest {path} cannot be read as a CSV file: {error}") from None
    places = table.find(COLUMNS)
    manifest.problems += table.problems
    for line, values in table.records:
        if any(value.strip() for value in values[len(table.columns) :]):
            manifest.problems.append((line, "more values than columns"))
        else:
            found = [values[place] if place < len(values) else None for place in places]
            _add_record(manifest, found, line, folder)
    return manifest


def _existing_folder(root: str | Path) -> Path:
    folder = expand_user(root)
    if not folder.is_dir():
        raise UserError(f"data.root {folder} is not a folder")
    return folder.resolve()


def _add_record(manifest: Manifest, found: Sequence[str | None], line: int, root: Path | None) -> None:
    """Adds a row of the file, its values by `COLUMNS`: as one to use, to the count of skipped ones, or as problems."""
    absent = [column for column, value in zip(COLUMNS, found, strict=True) if value is None]
    if absent:
        manifest.problems.append((line, f"no value for {', '.join(absent)}"))
        return
    scene_id, type_, room_id, layout_path, is_empty = ((value or "").strip() for value in found)
    odd = [column for column, value in zip(COLUMNS, found, strict=True) if not _is_a_name(value or "")]
    if odd:
        manifest.problems.append((line, f"{odd[0]} holds a line break or is longer than {_LONGEST} characters"))
        return
    if layout_path.casefold() in _NOT_THERE:
        layout_path = ""
    location = (root or manifest.path.parent) / layout_path
    problems = _find_problems(scene_id, type_, is_empty)
    if root and not location.resolve().is_relative_to(root):
        problems.append(f"layout_path {layout_path} leaves data.root {root}")
    manifest.problems += [(line, problem) for problem in problems]
    if problems:
        return
    if not layout_path:
        manifest.skipped_without_path += 1
    elif _BOOLEANS[is_empty.lower()]:
        manifest.skipped_empty += 1
    else:
        manifest.rows.append(ManifestRow(line, scene_id, type_, room_id, location))


def _is_a_name(value: str) -> bool:
    """Tells a name from text of several lines, which a quote at a wrong place makes of the rows that follow."""
    return len(value) <= _LONGEST and len(value.strip().splitlines()) <= 1


def _find_problems(scene_id: str, type_: str, is_empty: str) -> list[str]:
    problems = []
    if scene_id.casefold() in _NOT_THERE:
        problems.append(f"scene_id is {scene_id or 'empty'}")
    if type_ not in TYPES:
        problems.append(f'type "{type_}", expected {" or ".join(TYPES)}')
    if is_empty.lower() not in _BOOLEANS:
        problems.append(f'is_empty "{is_empty}", expected true, false, 0 or 1')
    return problems
