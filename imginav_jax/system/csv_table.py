"""CSV files as people, spreadsheets and pandas leave them, read line by line: no row ever swallows another.

Read as they are: commas, semicolons or tabs; UTF-8 with or without a byte order mark, UTF-16 with one; any line end,
also mixed; empty lines and lines of nothing but commas; Excel's `sep=;`; quoted values, also over several lines where
that can mean nothing else.
"""

import codecs
import csv
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from imginav_jax.system.errors import UserError

_DELIMITERS = ",;\t"
_SEPARATOR_LINE = re.compile(rf'\s*"?sep=(\t|[^\w\s"])"?[{_DELIMITERS} ]*', re.IGNORECASE)
_LINE_END = re.compile("\r\n|\n|\r")
_LARGEST = 2**30  # bytes; no table of layouts comes near
_NOT_CLOSED = "a quote is opened in this line and never closed"


class Record(NamedTuple):
    line: int  # of the file, the first of them where there are several; from 1
    values: list[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's header and rows.

    Attributes:
      name: of the file, for messages.
      columns: of the header, without the spaces around them.
      records: the rows that could be split into values, as many as there happen to be.
      problems: the lines that could not be, and why.
      last_line: of those that are not empty; 0 where all are.
      is_cut: the file does not end with the end of a line.
    """

    name: str
    columns: list[str]
    records: list[Record] = dataclasses.field(default_factory=list)
    problems: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    last_line: int = 0
    is_cut: bool = False

    def find(self, expected: Sequence[str]) -> list[int]:
        """Finds each of these columns and returns its index in a row; upper and lower case are the same.

        Raises:
          UserError: one is missing or stands twice.
        """
        names = [column.casefold() for column in self.columns]
        if not names:
            raise UserError(f"{self.name} is empty; expected the columns {', '.join(expected)}")
        missing = [column for column in expected if column.casefold() not in names]
        if missing:
            noun = "column" if len(missing) == 1 else "columns"
            raise UserError(f"{self.name} lacks the {noun} {', '.join(missing)}; it has {', '.join(self.columns)}")
        for column in expected:
            places = [number for number, name in enumerate(names, 1) if name == column.casefold()]
            if len(places) > 1:
                found = " and ".join(map(str, places))
                raise UserError(f"{self.name} has the column {column} {len(places)} times (columns {found})")
        return [names.index(column.casefold()) for column in expected]


def read(path: Path, expected: Sequence[str], name: str) -> Table:
    """Reads a file and returns the table in it.

    Args:
      path: of the file.
      expected: columns by which its delimiter is recognised.
      name: of the file, for messages.

    Raises:
      OSError: the file cannot be read.
      UserError: it is no text, or its header cannot be split.
    """
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{name} cannot be read as a CSV file: it is larger than {_LARGEST / 2**30:.0f} GiB")
    lines, problems = _decode(path.read_bytes(), name)
    filled = [number for number, line in enumerate(lines) if line.strip(f" {_DELIMITERS}")]
    number = filled[0] if filled else len(lines)
    forced = _SEPARATOR_LINE.fullmatch(lines[number]) if filled else None
    if forced:
        number = filled[1] if len(filled) > 1 else len(lines)
    if number == len(lines):
        return Table(name, [])
    if number in problems:
        raise UserError(f"{name} cannot be read as a CSV file: line {number + 1} {problems[number]}")
    try:
        columns, delimiter = _split_header(lines[number], expected, forced and forced[1])
    except csv.Error as error:
        raise UserError(f"{name} cannot be read as a CSV file: line {number + 1}: {error}") from None
    table = Table(name, columns, last_line=filled[-1] + 1, is_cut=bool(lines[-1]))
    _read_records(table, lines, number + 1, delimiter, problems)
    return table


def _decode(content: bytes, name: str) -> tuple[list[str], dict[int, str]]:
    """The lines, and by number what is wrong with some; UserError where there are none to be found."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UserError(f"{name} cannot be read as a CSV file: {error}") from None
    else:
        # What is no UTF-8 comes back as lone surrogates, which no file can hold otherwise.
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    lines, problems = _LINE_END.split(text), {}
    if not text.isascii() or "\0" in text:
        for number, line in enumerate(lines):
            foreign = next((each for each in line if "\udc80" <= each <= "\udcff"), None)
            if foreign is not None:
                problems[number] = f'is not UTF-8 (byte {ord(foreign) - 0xDC00:#04x}); save the file as "CSV UTF-8"'
            elif "\0" in line:
                problems[number] = "holds a NUL byte: it is no text, or UTF-16 without a byte order mark"
    return lines, problems


def _split_header(header: str, expected: Sequence[str], forced: str | None) -> tuple[list[str], str]:
    """The columns, and the delimiter by which most of the expected ones are found."""
    wanted = {column.casefold() for column in expected}
    candidates = []
    for delimiter in forced or _DELIMITERS:
        columns = [column.strip() for column in _split(header, delimiter) or ()]
        candidates.append((len(wanted & {column.casefold() for column in columns}), columns, delimiter))
    _, columns, delimiter = max(candidates, key=lambda each: each[0])
    if not columns:
        raise csv.Error(_NOT_CLOSED)
    return columns, delimiter


def _read_records(table: Table, lines: list[str], start: int, delimiter: str, problems: dict[int, str]) -> None:
    number = start
    while number < len(lines):
        line, used = lines[number], 1
        if number in problems:
            table.problems.append((number + 1, problems[number]))
        else:
            try:
                values = _split(line, delimiter)
                if values is None:
                    values, used = _join(lines, number, delimiter, len(table.columns), problems)
            except csv.Error as error:
                table.problems.append((number + 1, str(error)))
            else:
                if any(value.strip() for value in values):
                    table.records.append(Record(number + 1, values))
        number += used


def _split(line: str, delimiter: str) -> list[str] | None:
    """A line's values; None where a quote is opened and not closed on it."""
    if '"' not in line:
        return line.split(delimiter)
    reader = csv.reader([f"{line}\n", ""], delimiter=delimiter, skipinitialspace=True)
    values = next(reader)
    return values if reader.line_num == 1 else None


def _join(lines: list[str], start: int, delimiter: str, count: int, problems: dict[int, str]) -> tuple[list[str], int]:
    """The values of a row over several lines, and how many; csv.Error unless it is sure to be one row.

    A quote that was never closed swallows rows up to the next quote.  Then at least two of the lines have as many
    values as a row has.
    """
    rest = (f"{lines[number]}\n" for number in range(start, len(lines)))  # islice would walk there, for every row
    reader = csv.reader(rest, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        values = next(reader)
    except csv.Error:
        raise csv.Error(_NOT_CLOSED) from None
    used = range(start, start + reader.line_num)
    rows = sum(lines[number].count(delimiter) >= count - 1 for number in used)
    if rows > 1 or len(values) != count or any(number in problems for number in used):
        raise csv.Error(_NOT_CLOSED)
    return values, len(used)
