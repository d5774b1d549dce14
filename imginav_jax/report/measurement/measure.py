"""Measures every subject on every layout of a split, and keeps what it has measured."""

import contextlib
import hashlib
import io
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float

from imginav_jax.report.measurement import fidelity, structure
from imginav_jax.report.measurement.subjects import Images, Predictions, Subject
from imginav_jax.system import files
from imginav_jax.system.errors import UserError
from imginav_jax.system.process import workers
from imginav_jax.system.progress import Progress, logger

_BATCH_SIZE = 8  # layouts that are predicted at once
_FEW_LAYOUTS = 16  # not worth the start of other processes
_AHEAD = 32  # layouts that may wait to be counted
_COUNT_PICTURES, _SNAP = jax.jit(fidelity.count), jax.jit(fidelity.snap)
_PACKAGE = Path(__file__).resolve().parents[2]
_DECISIVE = ("models", "report/measurement", "datasets/palette.py", "datasets/layout_record.py")  # for the numbers

Counts = dict[str, Float[np.ndarray, "layouts ..."]]  # a layout a row, by what is counted
CountsByOutput = dict[str, Counts]  # by output
_Rows = Mapping[str, Mapping[str, np.ndarray]]  # one layout's counts, by output
_Pending = tuple[Future[Any], _Rows]  # of the class maps, and of the pictures


class Layouts(Protocol):
    """What is measured on: a split, say."""

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int], /) -> Images: ...


def measure(chosen: Sequence[Subject], source: Layouts, data_key: str, folder: Path) -> dict[str, CountsByOutput]:
    """Returns each subject's counts by its name, from `folder` where they have been measured before.

    Each is stored as soon as it is complete, so that a report that was cut off goes on from there.

    Raises:
      OSError: `folder` cannot be written.
      UserError: a process that counts was ended from outside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {subject.name: folder / f"{_digest(subject.key, data_key)}.npz" for subject in chosen}
    measured = {name: stored for name, path in paths.items() if (stored := _read(path)) is not None}
    if measured:
        logger.info("%d of %d measurements are reused from %s", len(measured), len(chosen), folder)
    missing = [subject for subject in chosen if subject.name not in measured]
    with open_pool(len(source)) as pool:
        for subject in missing:
            measured[subject.name] = _compute(subject, source, pool)
            _write(paths[subject.name], measured[subject.name])
    for subject in chosen:
        measured[subject.name] = {**measured.get(subject.shares, {}), **measured[subject.name]}
    return measured


def _digest(key: Any, data_key: str) -> str:
    """Changes with the key of what is measured, the data, and the program that measures."""
    return hashlib.sha256(json.dumps([key, data_key, digest_program()]).encode()).hexdigest()[:16]


def recall(folder: Path, key: Any, data_key: str, compute: Callable[[], CountsByOutput]) -> CountsByOutput:
    """Returns what `compute` makes, from `folder` where it has been made before of the same.

    Args:
      folder: of what is kept; made where it is missing.
      key: JSON that decides what is computed, beside the data and the program that measures.
      data_key: of the data.
      compute: makes it.

    Raises:
      OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_digest(key, data_key)}.npz"
    found = _read(path)
    if found is None:
        found = compute()
        _write(path, found)
    return found


def digest_program(package: Path = _PACKAGE) -> dict[str, str]:
    """Returns the SHA-256 of every source file that decides the numbers, by its path in the package."""
    roots = [package / name for name in _DECISIVE]
    paths = [path for root in roots for path in ([root] if root.suffix else root.rglob("*.py"))]
    return {str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def _write(path: Path, measured: CountsByOutput) -> None:
    arrays = {f"{output}/{name}": values for output, counts in measured.items() for name, values in counts.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType]
    files.write_atomically(path, content.getvalue())


def _read(path: Path) -> CountsByOutput | None:
    """None where nothing was stored, or it is damaged."""
    measured: CountsByOutput = {}
    try:
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            for key in stored.files:
                output, _, name = key.partition("/")
                measured.setdefault(output, {})[name] = stored[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return measured


def read_batches(source: Layouts) -> Iterator[tuple[Images, int]]:
    """Yields the layouts in order, and how many of a batch are real: the last one is filled up with its last layout."""
    for start in range(0, len(source), _BATCH_SIZE):
        indices = range(start, min(start + _BATCH_SIZE, len(source)))
        images = source.images(indices)
        yield np.concatenate([images, images[-1:].repeat(_BATCH_SIZE - len(images), 0)]), len(images)


def _compute(subject: Subject, source: Layouts, pool: Executor) -> CountsByOutput:
    logger.info("Measuring %s ...", subject.name)
    predict = subject.open()
    found: CountsByOutput = {}
    with Progress(f"Measuring {subject.name}", len(source), "layouts") as progress:
        for index, rows in enumerate(progress.count(_count_layouts(predict, source, pool))):
            for output, counts in rows.items():
                arrays = found.setdefault(output, {})
                for name, value in counts.items():
                    if name not in arrays:
                        arrays[name] = np.zeros((len(source), *np.shape(value)))
                    arrays[name][index] = value
    return found


def _count_layouts(predict: Callable[[Images], Predictions], source: Layouts, pool: Executor) -> Iterator[_Rows]:
    """In order; the device predicts while the pool counts what the predictions before were worth."""
    pending: deque[_Pending] = deque()
    for images, count in read_batches(source):
        pending.extend(_submit(pool, predict(images), images, count))
        while len(pending) > _AHEAD:
            yield _collect(pending.popleft())
    while pending:
        yield _collect(pending.popleft())


@contextlib.contextmanager
def open_pool(num_layouts: int) -> Iterator[Executor]:
    """Yields processes, for SciPy and scikit-image hold on to the interpreter; a thread for a few layouts.

    Raises:
      UserError: a process was ended from outside.
    """
    try:
        with ThreadPoolExecutor(1) if num_layouts <= _FEW_LAYOUTS else workers.open_pool() as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError("a process that counted was ended from outside; is there enough memory?") from None


def _submit(pool: Executor, outputs: Predictions, images: Images, count: int) -> Iterator[_Pending]:
    """A task a layout: its class maps to be counted, and what the device has counted of its pictures."""
    pictures = {name: made for name, made in outputs.items() if _is_picture(made)}
    maps = {**outputs, **{name: np.asarray(_SNAP(made)) for name, made in pictures.items()}}
    of_pictures = {name: jax.device_get(_COUNT_PICTURES(images, made)) for name, made in pictures.items()}
    for index in range(count):
        of_layout = {name: each[index] for name, each in maps.items()}
        rows = {name: {key: value[index] for key, value in each.items()} for name, each in of_pictures.items()}
        yield pool.submit(structure.count_layout, images[index], of_layout), rows


def _is_picture(made: np.ndarray) -> bool:
    """And no class map."""
    return made.ndim == 4


def _collect(pending: _Pending) -> _Rows:
    counting, of_pictures = pending
    return {output: {**of_pictures.get(output, {}), **counts} for output, counts in counting.result().items()}
