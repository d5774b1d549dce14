"""Batches: full and reshuffled for training, every image once for evaluation, uint8 all the way."""

import errno
import itertools
import os
import resource
import shutil

import grain
import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from imginav_jax.datasets import layout_record, preparation, prepared_files
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.pipeline import Part
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.system.errors import UserError


@pytest.fixture(scope="module")
def data(synthetic_manifest, tmp_path_factory):
    spec = preparation.DataSpec(str(synthetic_manifest), None, 32, 0, 0.3, 42)
    return preparation.prepare(spec, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def source(data):
    return LayoutSource(data.directory, preparation.TRAIN)


def indices(dataset):
    return [np.asarray(batch.index).tolist() for batch in dataset]


def test_every_epoch_is_another_shuffle_in_full_batches(source):
    steps = pipeline.steps_per_epoch(len(source), 4)
    batches = indices(pipeline.train_dataset(source, 4, 3, 42))
    assert len(batches) == 3 * steps
    assert all(len(batch) == 4 for batch in batches)
    epochs = [np.concatenate(batches[epoch * steps : (epoch + 1) * steps]).tolist() for epoch in range(3)]
    assert all(len(set(epoch)) == 4 * steps for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_depends_on_the_seed_alone_and_a_run_can_start_anywhere(source):
    whole = indices(pipeline.train_dataset(source, 4, 3, 42))
    assert indices(pipeline.train_dataset(source, 4, 3, 42)) == whole
    assert indices(pipeline.train_dataset(source, 4, 3, 43)) != whole
    assert indices(pipeline.train_dataset(source, 4, 9, 42))[: len(whole)] == whole
    for step in (1, len(whole) // 2, len(whole) - 1):
        assert indices(pipeline.train_dataset(source, 4, 3, 42)[step:]) == whole[step:]


@pytest.mark.parametrize("part", [Part(), Part(0, 2), Part(1, 2)])
def test_the_order_is_grains_own_shuffle_of_every_epoch(source, part):
    used = len(source) // 4 * 4
    order = grain.MapDataset.range(len(source)).shuffle(seed=42)[:used].batch(4 // part.count)
    expected = [batch.tolist() for batch in order[part.index :: part.count].repeat(3)]
    assert indices(pipeline.train_dataset(source, 4, 3, 42, part)) == expected


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (4, 1), (7, 1), (64, 1), (2, 2), (6, 2), (64, 2)])
def test_evaluation_sees_every_image_once_and_pads_with_the_last(source, batch_size, processes):
    last = layout_record.decode(source[len(source) - 1]["image"])
    parts = [pipeline.eval_dataset(source, batch_size, Part(part, processes)) for part in range(processes)]
    seen, padding = [], 0
    for batch in itertools.chain.from_iterable(zip(*parts, strict=True)):
        assert batch.image.shape == (batch_size // processes, 32, 32, 3)
        assert set(batch.index[~batch.mask].tolist()) <= {-1}
        assert all(np.array_equal(image, last) for image in batch.image[~batch.mask])
        seen += batch.index[batch.mask].tolist()
        padding += int((~batch.mask).sum())
    assert seen == list(range(len(source)))
    assert padding == -len(source) % batch_size


def test_what_reaches_the_device_is_uint8_and_as_stored(source, data):
    device = jax.devices()[0]
    batches = list(pipeline.prefetch(pipeline.eval_dataset(source, 4), SingleDeviceSharding(device)))
    for batch in batches:
        assert isinstance(batch.image, jax.Array)
        assert (batch.image.dtype, batch.type.dtype, batch.index.dtype) == (np.uint8, np.int32, np.int32)
        for image, index in zip(batch.image, batch.index, strict=True):  # -1 is the last layout, which pads
            stored = layout_record.decode(source[int(index)]["image"])
            np.testing.assert_array_equal(image, stored)
    assert source.layout_id(0).startswith("synthetic_")


def test_shared_memory_that_is_too_small_for_workers_is_one_line(source, monkeypatch):
    dataset, sharding = pipeline.train_dataset(source, 4, 1, 0), SingleDeviceSharding(jax.devices()[0])
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**20, 2**20 - 2**16, 2**16))
    message = r"/dev/shm, .*, is too small \(0\.1 MiB are free\): .* --config\.data\.num_workers=0$"
    with pytest.raises(UserError, match=message):
        pipeline.prefetch(dataset, sharding, num_workers=1)
    assert len(list(pipeline.prefetch(dataset, sharding))) == len(dataset), "threads need none"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Worker process was terminated unexpectedly with exit code -7. Search the logs"),  # SIGBUS
    ],
)
def test_shared_memory_that_runs_full_later_is_named_too(error):
    def batches():
        yield "batch"
        raise error

    found = pipeline._name_shared_memory(batches())
    assert next(found) == "batch"
    with pytest.raises(UserError, match=r"/dev/shm, over which workers hand their batches, is too small"):
        next(found)


def test_another_end_of_a_worker_keeps_its_own_words():
    def batches():
        yield "batch"
        raise RuntimeError("exit code -9")

    with pytest.raises(RuntimeError, match="exit code -9"):
        list(pipeline._name_shared_memory(batches()))


@pytest.mark.parametrize("split", [preparation.TRAIN, preparation.VALIDATION])
def test_a_damaged_file_is_noticed_before_the_first_step(data, tmp_path, split):
    directory = tmp_path / data.directory.parent.name / data.directory.name
    shutil.copytree(data.directory, directory)
    for path in directory.glob(f"*{split}*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"cannot be read: .*; delete it, and it is prepared anew"):
        LayoutSource(directory, split)


def test_whole_files_are_not_called_damaged_where_no_more_can_be_opened(data):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(UserError) as raised:
            LayoutSource(data.directory, preparation.TRAIN)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert str(raised.value).startswith(f"{data.directory} cannot be read: [Errno 24] Too many open files")
    assert "delete" not in str(raised.value)


def caused_by(cause):
    error = OSError("Could not read dataset info from a/dataset_info.json")  # as TFDS's, without a number
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "is_damage"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "[Errno 13] Permission denied", False),
        (OSError(errno.ESTALE, "Stale file handle"), "[Errno 116] Stale file handle", False),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error", False),
        (RuntimeError("open() failed: Permission denied; opening a"), "open() failed: Permission denied", False),
        (RuntimeError("read() failed: Stale file handle; reading a"), "read() failed: Stale file handle", False),
        (caused_by(OSError(errno.EMFILE, "Too many open files")), "[Errno 24] Too many open files", False),
        (MemoryError(), "MemoryError", False),
        (caused_by(FileNotFoundError(errno.ENOENT, "No such file")), "Could not read dataset info", True),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), "[Errno 21] Is a directory", True),
        (RuntimeError("open() failed: No such file or directory; opening a"), "open() failed: No such file", True),
        (RuntimeError("ArrayRecord file should be at least 64KB big"), "ArrayRecord file should", True),
        (ValueError(" \nCannot restore\nmore"), "Cannot restore;", True),
        (KeyError(), "KeyError;", True),
    ],
)
def test_only_files_that_are_damaged_or_missing_are_to_be_deleted(tmp_path, error, reason, is_damage):
    message = str(prepared_files.explain(tmp_path, error))
    assert message.startswith(f"{tmp_path} cannot be read: {reason}")
    assert message.endswith("; delete it, and it is prepared anew") == is_damage


def test_memory_of_forgotten_batches_is_used_again_up_to_a_bound():
    memory = pipeline.BatchMemory(most=2)
    shapes = [(2, 4096), (3, 4096)]
    arrays = [memory.empty(shape) for shape in shapes for _ in range(4)]
    places = [array.ctypes.data for array in arrays]
    assert len(set(places)) == 8
    assert all(place % 4096 == 0 for place in places)
    view = arrays[3][1:]
    del arrays
    assert [len(memory.free(shape)) for shape in shapes] == [2, 2]
    assert memory.empty(shapes[0]).ctypes.data in places[:3], "the fourth is still in use by a view"
    assert view.ctypes.data == places[3] + 4096
