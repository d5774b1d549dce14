"""Reading `layouts.csv`: which layouts there are, and every problem with its rows at once."""

import csv
import dataclasses
import itertools
import operator
from collections.abc import Mapping
from pathlib import Path

from imginav_jax.errors import UserError

COLUMNS = ("scene_id", "type", "room_id", "layout_path", "is_empty")
TYPES = ("room", "scene")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_ROWS_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Row:
    """One layout that is to be used."""

    line: int  # in the manifest, 1 is the header
    scene_id: str
    type: str
    room_id: str
    path: Path


@dataclasses.dataclass
class Manifest:
    path: Path
    rows: list[Row] = dataclasses.field(default_factory=list)
    skipped_empty: int = 0  # is_empty is true
    skipped_without_path: int = 0
    problems: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # line and what is wrong with it

    def raise_problems(self) -> None:
        """UserError with the first 20 bad rows and their count, if there are any."""
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
    """The rows whose layout is to be used; bad rows are collected in `problems`, for `raise_problems`.

    Args:
      path: a CSV file with the columns scene_id, type, room_id, layout_path, is_empty; others are ignored.
      root: what relative layout paths are relative to, and what no path may leave; without it they are relative
        to the manifest's folder and may lead anywhere.

    Raises:
      UserError: the file is missing, unreadable, empty or lacks a column.
    """
    path = Path(path).expanduser()
    manifest = Manifest(path)
    folder = _existing_folder(root) if root else None
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would hide the first column.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames)
            for record in reader:
                _add_record(manifest, record, reader.line_num, folder)
    except FileNotFoundError:
        raise UserError(f"manifest {path} does not exist (config key data.manifest)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"manifest {path} cannot be read as a CSV file: {error}") from None
    return manifest


def _existing_folder(root: str | Path) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.root {folder} is not a folder")
    return folder.resolve()


def _check_columns(path: Path, found: object) -> None:
    names = list(found) if isinstance(found, (list, tuple)) else []
    if not names:
        raise UserError(f"manifest {path} is empty; expected the columns {', '.join(COLUMNS)}")
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        noun = "column" if len(missing) == 1 else "columns"
        raise UserError(f"manifest {path} lacks the {noun} {', '.join(missing)}; it has {', '.join(names)}")


def _add_record(manifest: Manifest, record: Mapping[str | None, str | None], line: int, root: Path | None) -> None:
    """One line of the file: a row to use, one to count as skipped, or problems."""
    absent = [column for column in COLUMNS if record[column] is None]
    if absent or None in record:
        # DictReader files what is left over under None.
        text = f"no value for {', '.join(absent)}" if absent else "more values than columns"
        manifest.problems.append((line, text))
        return
    scene_id, type_, room_id, layout_path, is_empty = ((record[column] or "").strip() for column in COLUMNS)
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
        manifest.rows.append(Row(line, scene_id, type_, room_id, location))


def _find_problems(scene_id: str, type_: str, is_empty: str) -> list[str]:
    problems = []
    if not scene_id:
        problems.append("scene_id is empty")
    if type_ not in TYPES:
        problems.append(f'type "{type_}", expected {" or ".join(TYPES)}')
    if is_empty.lower() not in _BOOLEANS:
        problems.append(f'is_empty "{is_empty}", expected true, false, 0 or 1')
    return problems
