"""Prepared layouts to batches: shuffled and prefetched by Grain, decoded in place; uint8 travels to the device."""

import collections
import contextlib
import errno
import functools
import itertools
import math
import mmap
import os
import shutil
import signal
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import UInt8

from imginav_jax.datasets import layout_record
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.system import signals
from imginav_jax.system.errors import UserError
from imginav_jax.system.process import workers

_MAX_DECODING_THREADS = 8  # each decodes a batch of its own
_DEVICE_BATCHES = 2  # on the device ahead of the step
_SHUFFLE_ROUNDS = 4  # Grain's own number
_SHARED_MEMORY = Path("/dev/shm")
_BYTES_OF_LOCKS = 2**18  # a process; each is a page


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of full batches in an epoch; the layouts left over at the end of its shuffle go unused."""
    return num_examples // batch_size


class Part(NamedTuple):
    """Which rows of every batch a process reads: its share, `batch_size / count` of them."""

    index: int = 0
    count: int = 1


_WHOLE = Part()


def train_dataset(
    source: LayoutSource, batch_size: int, num_epochs: int, seed: int, part: Part = _WHOLE
) -> grain.MapDataset[Batch]:
    """Returns all training batches of a run in order: element n is the batch of step n, whatever reads it.

    Every epoch is a new shuffle of the whole split, decided by the seed and the epoch alone.
    """
    steps = steps_per_epoch(len(source), batch_size)
    return _batches(source, Positions(len(source), seed, steps, batch_size, part), num_epochs)


def eval_dataset(source: LayoutSource, batch_size: int, part: Part = _WHOLE) -> grain.MapDataset[Batch]:
    """Returns batches of every layout once, in order; the last layout fills up the last batch, with index -1."""
    steps = -(-len(source) // batch_size)
    return _batches(source, Positions(len(source), None, steps, batch_size, part), 1)


class Positions(NamedTuple):
    """Which layouts a batch has, by their positions in the source."""

    count: int  # layouts
    seed: int | None  # None keeps their order
    steps_per_epoch: int
    batch_size: int
    part: Part

    def of_batch(self, number: int) -> list[int]:
        """Returns the positions of this process's share of batch `number`.

        Without a shuffle, those that would fill up the last batch are `count` or more.
        """
        epoch, step = divmod(number, self.steps_per_epoch)
        share = self.batch_size // self.part.count
        start = step * self.batch_size + self.part.index * share
        places = range(start, start + share)
        if self.seed is None:
            return list(places)
        seed = (self.seed + epoch) % 2**32
        # As `grain.MapDataset.shuffle` does it, which takes three times as long for 22,000 layouts.
        return [grain.experimental.index_shuffle(place, self.count - 1, seed, _SHUFFLE_ROUNDS) for place in places]


def _batches(source: LayoutSource, positions: Positions, num_epochs: int) -> grain.MapDataset[Batch]:
    """Returns the batches of so many epochs; only their numbers go through Grain, as slow with a number as a batch."""
    numbers = grain.MapDataset.range(positions.steps_per_epoch * num_epochs)
    return numbers.map(functools.partial(_read_batch, source, positions))


def prefetch(
    dataset: grain.MapDataset[Batch], sharding: jax.sharding.Sharding, num_workers: int = 0
) -> Iterator[Batch]:
    """Returns the batches on the device, read and decoded ahead; closing the iterator ends its workers.

    Args:
      dataset: of host batches.
      sharding: where each array's leading axis goes.
      num_workers: processes that decode, one thread each; 0 decodes in threads of this process.

    Raises:
      UserError: the memory over which workers hand their batches is too small.
    """
    if not num_workers:
        return _prefetch(dataset, sharding, 0)
    _require_shared_memory(dataset, num_workers)
    return _name_shared_memory(_prefetch(dataset, sharding, num_workers))


def _prefetch(
    dataset: grain.MapDataset[Batch], sharding: jax.sharding.Sharding, num_workers: int
) -> Generator[Batch, None, None]:
    place = functools.partial(_place, sharding)
    if num_workers:
        batches = _decode_in_processes(dataset, num_workers).map(place)
        batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=_DEVICE_BATCHES)
    else:
        threads = min(_MAX_DECODING_THREADS, len(os.sched_getaffinity(0)))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + _DEVICE_BATCHES)
        batches = dataset.map(place).to_iter_dataset(options)  # no thread more: handing over costs as much as placing
    with signals.withheld() if num_workers else contextlib.nullcontext():
        iterator: Any = iter(batches)
        first = list(itertools.islice(iterator, 1))  # the workers are started by now
    try:
        while first:
            yield first.pop()  # and holds it no longer
        yield from iterator
    finally:
        iterator.close()


def _require_shared_memory(dataset: grain.MapDataset[Batch], num_workers: int) -> None:
    """Checks that the batches fit that are there at once: two of each worker, one on its way.

    Raises:
      UserError: they do not.
    """
    batch = dataset[0] if len(dataset) and _SHARED_MEMORY.exists() else None
    if batch is None:
        return
    needed = (2 * num_workers + 1) * sum(array.nbytes for array in batch) + (num_workers + 1) * _BYTES_OF_LOCKS
    if shutil.disk_usage(_SHARED_MEMORY).free < needed:
        raise UserError(_say_too_small())


def _name_shared_memory(batches: Generator[Batch, None, None]) -> Iterator[Batch]:
    """Yields the batches.

    Raises:
      UserError: the workers' memory is full.
    """
    try:
        with contextlib.closing(batches):
            yield from batches
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if is_full or f"exit code {-signal.SIGBUS}" in str(error):
            raise UserError(_say_too_small()) from error
        raise


def _say_too_small() -> str:
    free = shutil.disk_usage(_SHARED_MEMORY).free / 2**20
    return (
        f"{_SHARED_MEMORY}, over which workers hand their batches, is too small ({free:.1f} MiB are free): enlarge it, "
        "or decode in this process by --config.data.num_workers=0"
    )


def _decode_in_processes(dataset: grain.MapDataset[Batch], count: int) -> grain.IterDataset[Batch]:
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers=count)
    return batches.mp_prefetch(options, worker_init_fn=functools.partial(workers.end_with, os.getpid()))


def _place(sharding: jax.sharding.Sharding, batch: Batch) -> Batch:
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)  # the same, sooner
    return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, sharding), batch)


def _read_batch(source: LayoutSource, positions: Positions, number: int) -> Batch:
    """Reads a batch and decodes each layout into its place; the last layout pads, where a position is behind it."""
    indices = positions.of_batch(number)
    found = [source.packed(min(index, len(source) - 1)) for index in indices]
    side = layout_record.side(found[0].image)
    images = _MEMORY.empty((len(found), side, side, 3))
    for layout, out in zip(found, images, strict=True):
        layout_record.decode(layout.image, out)
    rows = [layout.row if index < len(source) else -1 for layout, index in zip(found, indices, strict=True)]
    return Batch(images, np.array([layout.type for layout in found], np.int32), np.array(rows, np.int32))


class BatchMemory:
    """Memory of forgotten batches for new ones: fresh pages cost more than decoding into them.

    It begins with a page, so that JAX on the CPU takes it without a copy.
    """

    def __init__(self, most: int):
        """Keeps at most so many pieces of a size; what is more goes back to the system."""
        self._most = most
        self._free: dict[int, collections.deque[mmap.mmap]] = {}  # by size in bytes

    def empty(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
        """Returns an array whose values are whatever was there; once it is forgotten, its memory is free again."""
        count, free = math.prod(shape), self.free(shape)
        try:
            memory = free.pop()  # the latest, of which the processor's cache may still hold some
        except IndexError:
            # Private, for shared memory seldom gets huge pages.
            memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_HUGEPAGE)
        owner = np.frombuffer(memory, np.uint8)  # every view keeps this one alive, and so does JAX
        weakref.finalize(owner, free.append, memory).atexit = False
        return owner.reshape(shape)

    def free(self, shape: tuple[int, ...]) -> collections.deque[mmap.mmap]:
        """Returns the pieces that are free for arrays of this shape."""
        return self._free.setdefault(math.prod(shape), collections.deque(maxlen=self._most))


_MEMORY = BatchMemory(most=_MAX_DECODING_THREADS + 2 * _DEVICE_BATCHES)  # batches that are decoded, and placed
