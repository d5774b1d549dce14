"""TensorBoard's event files, written beside training and never waited for."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from imginav_jax.system.progress import logger

_HEADLINES = "PSNR", "mIoU"  # of validation, by which runs are compared


class OptionalWriter:
    """clu's TensorBoard writers, whose failure is worth a warning, not a run: the CSV has everything.

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
            self._thread = ThreadPoolExecutor(1, "tensorboard")
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
