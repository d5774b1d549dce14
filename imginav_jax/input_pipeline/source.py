"""Random access to the layouts of a prepared data set."""

import copy
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from imginav_jax.datasets import layout_record, prepared_files

_MEMORY_SHARE = 0.05  # of the free memory, for packed layouts
_BYTES_A_LAYOUT = 500  # what Python adds to one in memory


class Packed(NamedTuple):
    """What a batch needs of a layout, before it is decoded."""

    image: bytes  # as `layout_record` packs it
    type: int
    row: int  # position in the split


class LayoutSource(Sequence[dict[str, Any]]):
    """Random access to one split of a prepared data set."""

    def __init__(self, directory: Path, split: str):
        """Opens all files of the split.

        Raises:
          UserError: one cannot be opened.
        """
        try:
            builder: Any = tfds.builder_from_directory(directory)
            self._records = builder.as_data_source(split)
            lengths = builder.info.splits[split].shard_lengths
            for first in itertools.accumulate(lengths[:-1], initial=0):  # opened now, not when an epoch is done
                self._records[first]
        except Exception as error:  # TFDS, protobuf and ArrayRecord have their own
            raise prepared_files.explain(directory, error) from None
        self._rows: Sequence[int] = range(len(self._records))
        self._read: dict[int, Packed] | None = {} if _fits_in_memory(directory, len(self._records)) else None

    def restrict(self, rows: Sequence[int]) -> "LayoutSource":
        """Returns a source of these rows alone; a batch's `index` goes on to be the position in the split."""
        found = copy.copy(self)
        found._rows = rows
        return found

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        return self._records[self._rows[int(index)]]

    def packed(self, index: int) -> "Packed":
        """Returns a layout as it is stored; once read it is kept in memory, unless the data set is too large."""
        row = self._rows[index]
        found = None if self._read is None else self._read.get(row)
        if found is None:
            record = self._records[row]
            found = Packed(record["image"], int(record["type"]), row)
            if self._read is not None:
                self._read[row] = found
        return found

    def images(self, indices: Iterable[int]) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the decoded layouts at these positions."""
        return np.stack([layout_record.decode(self[index]["image"]) for index in indices])

    def layout_id(self, index: int) -> str:
        """Returns the name of the layout at this position in the split."""
        return self._records[index]["layout_id"].decode()

    def scene_ids(self) -> list[str]:
        """Reads every row and returns the scene id of each, in order."""
        return [self._records[row]["scene_id"].decode() for row in self._rows]


def _fits_in_memory(directory: Path, count: int) -> bool:
    """Returns whether a data set of `count` layouts, or a split of it, may be kept in this process."""
    size = sum(path.stat().st_size for path in directory.iterdir()) + _BYTES_A_LAYOUT * count
    return size <= _MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
