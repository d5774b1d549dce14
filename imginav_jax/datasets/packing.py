"""Layout files on their way into a prepared data set: each is read once and decoded once, in bounded memory."""

import contextlib
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from imginav_jax.datasets import layout_file, layout_record
from imginav_jax.datasets.manifest import ManifestRow
from imginav_jax.system.errors import UserError

_FILE_BYTES = 2**27  # of files in memory: the 22,000 of the experiment are 77 MB
_RECORD_BYTES = 2**26  # of records in memory: about 35 MB of theirs; more go to disk


class LayoutFiles:
    """The manifest's layout files, for many threads: kept in memory from their digest to their decoding.

    A data set that is there already needs the digests alone; only then is it known whether to decode.  Files beyond
    the bound are read again, and whether they are still the same is checked.
    """

    def __init__(self, image_size: int):
        """Takes the height and width that every layout must have, in pixels."""
        self._image_size = image_size
        self._lock = threading.Lock()
        self._digests: dict[int, str] = {}  # by the row's line
        self._kept: dict[int, bytes] = {}
        self._free = _FILE_BYTES
        self._changed: list[ManifestRow] = []

    def digest(self, row: ManifestRow) -> str:
        """Returns the SHA-256 of the row's file, in hex digits.

        Raises:
          UserError: as `layout_file.read_layout`.
        """
        content = layout_file.read_layout(row.path, self._image_size)
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._digests[row.line] = digest
            if len(content) <= self._free:
                self._kept[row.line] = content
                self._free -= len(content)
        return digest

    def take(self, row: ManifestRow) -> bytes:
        """Returns the bytes of a file whose digest was asked for, and keeps them no longer.

        Raises:
          UserError: as `layout_file.read_layout`.
        """
        with self._lock:
            content = self._kept.pop(row.line, None)
        if content is not None:
            return content
        content = layout_file.read_layout(row.path, self._image_size)
        if hashlib.sha256(content).hexdigest() != self._digests[row.line]:
            self._changed.append(row)
        return content

    def inspect(self, row: ManifestRow) -> layout_file.Pixels:
        """Returns what `take` gives decodes to.

        Raises:
          UserError: as `take` and `layout_file.inspect_layout`.
        """
        return layout_file.inspect_layout(row.path, self.take(row))

    def raise_changes(self) -> None:
        """Reports a file that was another one when it was taken.

        Raises:
          UserError: there is one; it names the first such row.
        """
        if self._changed:
            row = min(self._changed, key=lambda row: row.line)
            raise UserError(f"row {row.line}: {row.path} changed while the data set was being prepared")


class PackedLayout(NamedTuple):
    """What is kept of a decoded layout."""

    pixels: layout_file.Pixels
    start: int  # of its record, in bytes
    length: int  # in bytes


class RecordStore:
    """The records of decoded layouts until they are written, for many threads; beyond a bound they lie on disk."""

    def __init__(self, file: IO[bytes]):
        self._file, self._end, self._lock = file, 0, threading.Lock()

    def pack(self, row: ManifestRow, content: bytes) -> PackedLayout:
        """Decodes a layout file and stores its record; returns what it holds, and where.

        Raises:
          UserError: as `layout_file.decode_layout`.
          OSError: there is no room on the disk.
        """
        image = layout_file.decode_layout(row.path, content)
        pixels, record = layout_file.describe(image), layout_record.encode(image)
        with self._lock:
            start, self._end = self._end, self._end + len(record)
            self._file.seek(start)
            self._file.write(record)
        return PackedLayout(pixels, start, len(record))

    def read(self, packed: PackedLayout) -> bytes:
        """Returns the record, as `layout_record.encode` has made it."""
        with self._lock:
            self._file.seek(packed.start)
            return self._file.read(packed.length)


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[RecordStore]:
    """Yields a place for records, without a name in `folder`, and empties it in the end."""
    with tempfile.SpooledTemporaryFile(_RECORD_BYTES, dir=str(folder)) as file:
        yield RecordStore(file)
