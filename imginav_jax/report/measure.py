"""Measures every subject on every layout of a split, and keeps what it has measured."""

import hashlib
import inspect
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from imginav_jax import atomic
from imginav_jax.datasets.layout_file import decode_layout
from imginav_jax.input_pipeline import LayoutSource
from imginav_jax.progress import Progress, logger
from imginav_jax.report import baselines, fidelity, probe, structure, subjects
from imginav_jax.report.subjects import Images, Outputs, Subject

_BATCH_SIZE = 8  # layouts that are predicted at once
_FEW_LAYOUTS = 16  # not worth the start of other processes
_AHEAD = 32  # layouts that may wait to be counted
_COUNT_PICTURES, _SNAP = jax.jit(fidelity.count), jax.jit(fidelity.snap)

Counts = dict[str, Float[np.ndarray, "layouts ..."]]  # a layout a row, by what is counted
Measured = dict[str, Counts]  # by output
_Place = tuple[str, str]  # a subject's name and an output
_Row = Mapping[str, np.ndarray]  # one layout's counts
_Pending = tuple[Future[Any], dict[_Place, _Row]]  # of the class maps, and of the pictures


def measure(chosen: Sequence[Subject], source: LayoutSource, data_key: str, folder: Path) -> dict[str, Measured]:
    """Each subject's counts by its name, from `folder` where they have been measured before.

    Raises:
      OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {subject.name: folder / f"{_key(subject, data_key)}.npz" for subject in chosen}
    missing = [subject for subject in chosen if not paths[subject.name].exists()]
    if len(missing) < len(chosen):
        logger.info("%d of %d measurements are reused from %s", len(chosen) - len(missing), len(chosen), folder)
    for name, measured in _compute(missing, source).items() if missing else ():
        _write(paths[name], measured)
    return {name: _read(path) for name, path in paths.items()}


def _key(subject: Subject, data_key: str) -> str:
    """Changes with the subject, the data, and the program that measures."""
    modules = baselines, fidelity, probe, structure, subjects
    program = [hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in modules]
    return hashlib.sha256(json.dumps([subject.key, data_key, program]).encode()).hexdigest()[:16]


def _write(path: Path, measured: Measured) -> None:
    arrays = {f"{output}/{name}": values for output, counts in measured.items() for name, values in counts.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType]
    atomic.write(path, content.getvalue())


def _read(path: Path) -> Measured:
    measured: Measured = {}
    with np.load(path) as stored:
        for key in stored.files:
            output, _, name = key.partition("/")
            measured.setdefault(output, {})[name] = stored[key]
    return measured


def read_batches(source: LayoutSource) -> Iterator[tuple[Images, int]]:
    """The layouts in order, and how many of a batch are real: the last one is filled up with its last layout."""
    for start in range(0, len(source), _BATCH_SIZE):
        indices = range(start, min(start + _BATCH_SIZE, len(source)))
        images = [decode_layout(source[index]["image"]) for index in indices]
        yield np.stack(images + images[-1:] * (_BATCH_SIZE - len(images))), len(images)


def _compute(chosen: Sequence[Subject], source: LayoutSource) -> dict[str, Measured]:
    predictors = {}
    for subject in chosen:
        if subject.kind == "run":
            logger.info("Loading %s and fitting its probe ...", subject.name)
        predictors[subject.name] = subject.open()
    found: dict[str, Measured] = {}
    with _open_pool(len(source)) as pool, Progress("Measuring", len(source), "layouts") as progress:
        for index, row in enumerate(progress.count(_count_layouts(pool, predictors, source))):
            for (name, output), counts in row.items():
                arrays = found.setdefault(name, {}).setdefault(output, {})
                for key, value in counts.items():
                    if key not in arrays:
                        arrays[key] = np.zeros((len(source), *np.shape(value)))
                    arrays[key][index] = value
    return found


def _count_layouts(
    pool: Executor, predictors: Mapping[str, Callable[[Images], Outputs]], source: LayoutSource
) -> Iterator[dict[_Place, _Row]]:
    """In order; the device predicts while the pool counts what the predictions before were worth."""
    pending: deque[_Pending] = deque()
    for images, count in read_batches(source):
        pending.extend(_submit(pool, predictors, images, count))
        while len(pending) > _AHEAD:
            yield _collect(pending.popleft())
    while pending:
        yield _collect(pending.popleft())


def _open_pool(num_layouts: int) -> Executor:
    """Processes, for SciPy and scikit-image hold on to the interpreter; a few layouts are done before they start."""
    if num_layouts <= _FEW_LAYOUTS:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn"))


def _submit(
    pool: Executor, predictors: Mapping[str, Callable[[Images], Outputs]], images: Images, count: int
) -> Iterator[_Pending]:
    """A task a layout: its class maps to be counted, and what the device has counted of its pictures."""
    pictures: dict[_Place, _Row] = {}
    maps: dict[_Place, np.ndarray] = {}
    for name, predict in predictors.items():
        for output, made in predict(images).items():
            is_picture = made.ndim == 4
            maps[name, output] = np.asarray(_SNAP(made)) if is_picture else made
            if is_picture:
                pictures[name, output] = jax.device_get(_COUNT_PICTURES(images, made))
    for index in range(count):
        counting = pool.submit(
            structure.count_layout, images[index], {place: each[index] for place, each in maps.items()}
        )
        yield counting, {place: {key: value[index] for key, value in each.items()} for place, each in pictures.items()}


def _collect(pending: _Pending) -> dict[_Place, _Row]:
    counting, pictures = pending
    return {place: {**pictures.get(place, {}), **row} for place, row in counting.result().items()}
