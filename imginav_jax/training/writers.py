"""What people watch a run by, written beside training and never waited for: TensorBoard, and writers of one's own."""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from imginav_jax.runs import event_files
from imginav_jax.runs.experiment import TENSORBOARD
from imginav_jax.system.errors import UserError, first_line
from imginav_jax.system.progress import logger

Folders = Mapping[str, Any]  # clu's writers, by the folder of the run that their values are for
Opener = Callable[[Path, int, dict[str, Any]], Folders]  # from the workdir, the step to go on after, and the config
_HEADLINES = "PSNR", "mIoU"  # of validation, by which runs are compared


class OptionalWriter:
    """clu's writers, whose failure is worth a warning, not a run: the CSV has everything.

    They work in a thread of their own, in which they are opened too, with the first values of a step: TensorFlow takes
    seconds to import, and no step waits for it.
    """

    def __init__(self, open_writer: Callable[[], Mapping[str, Any] | None]):
        """`open_writer` gives a writer a folder of the run, "" for its own; None where this process writes none."""
        self._open_writer, self._writers, self._failed = open_writer, None, False
        self._start: Mapping[str, Any] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def write_start(self, values: Mapping[str, Any]) -> None:
        """Keeps hyper-parameters until there is something else to write."""
        self._start = values

    def write_scalars(self, step: int, values: Mapping[str, float], folder: str = "") -> None:
        self._submit(lambda writers: writers[folder].write_scalars(step, values))

    def write_images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        self._submit(lambda writers: writers[""].write_images(step, values))

    def flush(self) -> None:
        self._submit(lambda writers: [each.flush() for each in writers.values()])

    def close(self) -> None:
        """Waits until everything is written."""
        if self._thread is not None:
            self._submit(lambda writers: [each.close() for each in writers.values()])
            self._thread.shutdown()

    def _submit(self, action: Callable[[Any], Any]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "writers")
            self._thread.submit(self._try, self._open)
        self._thread.submit(self._try, lambda: action(self._writers))

    def _open(self) -> None:
        self._writers = self._open_writer()
        self._failed |= self._writers is None
        if self._writers is not None and self._start is not None:
            _write_start(self._writers[""], self._start)

    def _try(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # whatever TensorFlow or the file system came up with
            self._failed = True
            logger.warning("TensorBoard's events cannot be written: %s. The run goes on without.", error)


def _write_start(writer: Any, values: Mapping[str, Any]) -> None:
    """Hyper-parameters with the metrics that they are to be compared by, and the same as a table to read."""
    from tensorboard.plugins.hparams import api, summary_v2
    from tensorboard.util.tensor_util import make_ndarray

    metrics = [api.Metric(f"epoch/{name}", display_name=f"validation {name}") for name in _HEADLINES]
    described = summary_v2.hparams_config_pb([api.HParam(name) for name in values], metrics)
    (value,) = described.value
    writer.write_summaries(0, {value.tag: make_ndarray(value.tensor)}, {value.tag: value.metadata})
    writer.write_hparams(values)
    table = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    writer.write_texts(0, {"config": f"| field | value |\n|---|---|\n{table}"})


def find(names: Sequence[str]) -> dict[str, Opener]:
    """Returns what opens the writers of each logger of the config, by name.

    Raises:
      UserError: a function cannot be imported; names it.
    """
    return {
        name: _open_tensorboard if name == TENSORBOARD else functools.partial(_open_own, _import_function(name))
        for name in names
    }


def _import_function(name: str) -> Callable[[str, dict[str, Any]], Any]:
    module, _, attribute = name.partition(":")
    expected = f"config.loggers has {name}, expected a function that can be imported"
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a person's module does
        raise UserError(f"{expected}: {first_line(error)}") from None
    if not callable(function):
        raise UserError(f"{expected}: it is {function!r}")
    return function


def open_together(openers: Mapping[str, Opener], workdir: Path, step: int, config: dict[str, Any]) -> Folders:
    """Returns a writer a folder that writes to all loggers, of which those that fail are left out."""
    from clu import metric_writers

    together: dict[str, list[Any]] = {"": [], event_files.TRAIN: []}
    for name, opener in openers.items():
        attempt = _Attempt(name)
        for folder, writer in (attempt(opener, workdir, step, config) or {}).items():
            together[folder].append(_Guarded(writer, attempt))
    return {folder: metric_writers.MultiWriter(each) for folder, each in together.items()}


def _open_tensorboard(workdir: Path, step: int, config: dict[str, Any]) -> Folders:
    """For what comes after the step."""
    from clu import metric_writers

    del config
    folders = {}
    for folder in ("", event_files.TRAIN):
        event_files.forget_after(workdir / folder, step)
        folders[folder] = metric_writers.SummaryWriter(str(workdir / folder))
    return folders


def _open_own(
    function: Callable[[str, dict[str, Any]], Any], workdir: Path, step: int, config: dict[str, Any]
) -> Folders:
    del step
    writer = function(str(workdir), config)
    return {"": _Own(writer), event_files.TRAIN: _OwnOfTraining(writer)}


class _Attempt:
    """Calls what belongs to one logger, until it fails."""

    def __init__(self, name: str):
        self._what, self._failed = "TensorBoard's events" if name == TENSORBOARD else f"The values for {name}", False

    def __call__(self, action: Callable[..., Any], *values: Any) -> Any:
        if self._failed:
            return None
        try:
            return action(*values)
        except Exception as error:  # whatever the logger came up with
            self._failed = True
            logger.warning("%s cannot be written: %s. The run goes on without.", self._what, first_line(error))


class _Guarded:
    """A writer whose failures stay with its logger."""

    def __init__(self, writer: Any, attempt: _Attempt):
        self._writer, self._attempt = writer, attempt

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *values: self._attempt(lambda: getattr(self._writer, name)(*values))


class _Own:
    """A person's writer, without what TensorBoard's plugins alone can read."""

    def __init__(self, writer: Any):
        self._writer = writer

    def write_summaries(self, *values: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class _OwnOfTraining:
    """The same writer for training's values, whose tags are those of validation: they get a prefix."""

    def __init__(self, writer: Any):
        self._writer = writer

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, {f"{event_files.TRAIN}/{tag}": value for tag, value in scalars.items()})

    def flush(self) -> None:
        pass  # the other one does it

    def close(self) -> None:
        pass
