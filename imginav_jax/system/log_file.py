"""The log that a run keeps itself: a scheduler drops what an earlier start of a job has printed."""

import contextlib
import logging
import logging.handlers
import os
import platform
import shlex
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType

from imginav_jax.system.errors import RunError
from imginav_jax.system.ownership import this_job
from imginav_jax.system.progress import logger
from imginav_jax.system.signals import Interrupted

_LOGGERS = (logger, logging.getLogger("absl"))


class LogFile:
    """Appends this program's lines, and libraries' warnings, to a file; use it as a context manager.

    What is said before the file is opened is kept until then.  Where it never is, nothing is left, unless there is such
    a file already or the program was told to stop: a scheduler that starts it again drops what it has printed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = logging.handlers.MemoryHandler(sys.maxsize, flushLevel=logging.CRITICAL + 1, flushOnClose=False)

    def __enter__(self) -> "LogFile":
        for each in _LOGGERS:
            each.addHandler(self._kept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for each in _LOGGERS:
            each.removeHandler(self._kept)
        if error is not None and (self._path.exists() or isinstance(error, Interrupted)):
            with contextlib.suppress(OSError):  # the error itself is what counts
                self.open()
        if self._kept.target is None:
            return
        if error is not None:
            self._write(_describe(error))
        self._write(f"==== ended {_now()} ====")
        with contextlib.suppress(OSError):  # of lines that the disk has no space for
            self._kept.target.close()

    def open(self) -> None:
        """Marks a start with host, process, job and time, and writes what was said since. OSError where it cannot."""
        if self._kept.target is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handler = _FileHandler(self._path, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._kept.setTarget(handler)
        self._write(f"==== started {_now()} {_where()} ====")
        self._write(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]))
        self._kept.flush()
        self._kept.capacity = 1  # from now on every line at once

    def _write(self, line: str) -> None:
        handler = self._kept.target
        if handler is not None:
            with contextlib.suppress(OSError):
                handler.stream.write(f"{line}\n")  # pyright: ignore[reportAttributeAccessIssue]
                handler.flush()


class _FileHandler(logging.FileHandler):
    """A line that cannot be written is lost, and nothing else: it stands on the screen too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _where() -> str:
    job = f", LSF job {this_job()}" if this_job() else ""
    return f"on {platform.node()}, process {os.getpid()}{job}"


def _describe(error: BaseException) -> str:
    """A line for what was foreseen, a traceback for what was not."""
    if isinstance(error, RunError):
        return f"error: {error}"
    if isinstance(error, Interrupted):
        return f"stopped by {error}, exit code {error.exit_code}"
    return "".join(traceback.format_exception(error)).rstrip()
