"""Prepared layouts to batches: Grain shuffles, decodes and batches; uint8 travels to the device."""

import contextlib
import copy
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from imginav_jax import signals, workers
from imginav_jax.batch import Batch
from imginav_jax.datasets.layout_file import decode_layout

_MAX_DECODING_THREADS = 8  # each decodes a batch of its own
_DEVICE_BATCHES = 2  # on the device ahead of the step


class LayoutSource(Sequence[dict[str, Any]]):
    """Random access to one split of a prepared data set, as `grain.MapDataset.source` wants it."""

    def __init__(self, directory: Path, split: str):
        builder: Any = tfds.builder_from_directory(directory)
        self._records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        self._rows = range(len(self._records))

    def restrict(self, rows: range) -> "LayoutSource":
        """Some rows of it; `index` goes on to be the position in the split."""
        found = copy.copy(self)
        found._rows = rows
        return found

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        row = self._rows[int(index)]
        return {**self._records[row], "index": row}

    def layout_id(self, index: int) -> str:
        return self._records[index]["layout_id"].decode()

    def scene_ids(self) -> list[str]:
        """Of every row; reads them all."""
        return [self._records[row]["scene_id"].decode() for row in self._rows]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Training batches are full: what is left over at the end of an epoch's shuffle is not used in it."""
    return num_examples // batch_size


class Part(NamedTuple):
    """Which rows of every batch a process reads: its share, `batch_size / count` of them."""

    index: int = 0
    count: int = 1


_WHOLE = Part()


def train_dataset(
    source: LayoutSource, batch_size: int, num_epochs: int, seed: int, part: Part = _WHOLE
) -> grain.MapDataset[Batch]:
    """All training batches of a run in order: element n is the batch of step n, whatever reads it.

    Every epoch is a new shuffle of the whole split, decided by the seed and the epoch alone.
    """
    used = steps_per_epoch(len(source), batch_size) * batch_size
    dataset = grain.MapDataset.source(source).shuffle(seed=seed)[:used].map(_decode)
    return _share(dataset, batch_size, part).repeat(num_epochs)


def eval_dataset(source: LayoutSource, batch_size: int, part: Part = _WHOLE) -> grain.MapDataset[Batch]:
    """Every example once, in order; the last batch is padded with the last example, masked out."""
    padded = -(-len(source) // batch_size) * batch_size
    dataset = grain.MapDataset.range(padded).map(functools.partial(_decode_or_pad, source))
    return _share(dataset, batch_size, part)


def _share(dataset: grain.MapDataset[Batch], batch_size: int, part: Part) -> grain.MapDataset[Batch]:
    return dataset.batch(batch_size // part.count, drop_remainder=True)[part.index :: part.count]


def prefetch(
    dataset: grain.MapDataset[Batch], sharding: jax.sharding.Sharding, num_workers: int = 0
) -> Iterator[Batch]:
    """The batches on the device, read and decoded ahead; close it, and its workers end.

    Args:
      dataset: of host batches.
      sharding: where each array's leading axis goes.
      num_workers: processes that decode, one thread each; 0 decodes in threads of this process.
    """
    threads = 1 if num_workers else min(_MAX_DECODING_THREADS, len(os.sched_getaffinity(0)))
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if num_workers:
        options = grain.MultiprocessingOptions(num_workers=num_workers)
        batches = batches.mp_prefetch(options, worker_init_fn=functools.partial(workers.end_with, os.getpid()))
    place = functools.partial(jax.make_array_from_process_local_data, sharding)
    batches = _read_ahead(batches, 1).map(functools.partial(jax.tree.map, place))
    batches = _read_ahead(batches, _DEVICE_BATCHES)
    with signals.withheld() if num_workers else contextlib.nullcontext():
        iterator: Any = iter(batches)
        first = list(itertools.islice(iterator, 1))  # the workers are started by now
    try:
        yield from first
        yield from iterator
    finally:
        iterator.close()


def _decode(record: dict[str, Any]) -> Batch:
    """One example, without a batch axis."""
    image = decode_layout(record["image"])
    return Batch(image, np.int32(record["type"]), np.int32(record["index"]), np.True_)


def _decode_or_pad(source: LayoutSource, index: int) -> Batch:
    example = _decode(source[min(index, len(source) - 1)])
    return example._replace(mask=np.bool_(index < len(source)))


def _read_ahead(batches: Any, count: int) -> Any:
    return grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=count)
