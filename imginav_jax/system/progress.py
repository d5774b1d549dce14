"""What a command says while it works: lines with the time, a progress bar on a terminal."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from absl import logging as absl_logging
from tqdm import tqdm

from imginav_jax.system.process import streams

SECONDS_BETWEEN_LINES = 30.0

_T = TypeVar("_T")
logger = logging.getLogger("imginav_jax")


def log_to_stdout() -> None:
    """Writes this program's lines to stdout, with the time; of libraries only warnings, to stderr as absl does."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = _BesideBars(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    streams.say_when_lost("The output can be written no longer; the work goes on without.")


class _BesideBars(logging.StreamHandler):
    """Takes a bar of a terminal away, writes the line, and draws the bar below it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class Progress:
    """Counts `unit`s towards `total`; use it as a context manager.

    Elements done before it starts are `initial`: they count as progress, not as speed.
    """

    def __init__(self, description: str, total: int, unit: str, initial: int = 0):
        self._description, self._total, self._unit = description, total, unit
        self._done = self._initial = initial
        self._note = ""
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=description, total=total, unit=f" {unit}", initial=initial, leave=False, dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def count(self, elements: Iterable[_T]) -> Iterator[_T]:
        """Yields the same elements and counts each when it is taken."""
        for element in elements:
            self.advance()
            yield element

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more; `note` (the loss, say) stands behind the numbers."""
        self._done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info("%s", self._line())

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        rate = (self._done - self._initial) / elapsed
        left = (self._total - self._done) / rate if rate else float("inf")
        note = f", {self._note}" if self._note else ""
        return (
            f"{self._description}: {self._done}/{self._total} {self._unit}, {rate:.1f} {self._unit}/s, "
            f"{left:.0f} s left{note}"
        )
