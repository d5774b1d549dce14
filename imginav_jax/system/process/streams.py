"""Standard streams that outlive whoever reads them: a command goes on without, and says so once."""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

_STDOUT, _STDERR = 1, 2
_farewell = ""


def outlive_readers() -> None:
    """Replaces stdout and stderr, for commands, by streams that drop what nobody takes and refuse no letter.

    `command | head -1` closes its pipe, a terminal goes away, a disk is full.  Without, every line would be an error,
    and so would be Python's end.
    """
    _open_missing()
    sys.stdout = _wrap(sys.stdout, _STDOUT, "surrogateescape")  # the bytes of a file's name as they are
    sys.stderr = _wrap(sys.stderr, _STDERR, "backslashreplace")


def say_when_lost(farewell: str) -> None:
    """Makes `farewell` a line on stderr, once, when stdout can no longer be written."""
    global _farewell
    _farewell = farewell


class _Outliving(io.FileIO):
    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError:
            self._let_go()
            return len(content)

    def _let_go(self) -> None:
        """The number stays taken, by a file that takes everything: no other file may get it."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)
        if self.fileno() == _STDOUT and _farewell:
            with contextlib.suppress(OSError):
                os.write(_STDERR, f"{_farewell}\n".encode())


def _wrap(stream: Any, number: int, errors: str) -> TextIO:
    raw = _Outliving(number, "w", closefd=False)
    is_direct = stream is not None and stream.write_through
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8",
        errors=errors,
        line_buffering=raw.isatty() or number == _STDERR,
        write_through=is_direct,
    )


def _open_missing() -> None:
    """So that no file of the program gets the number of a stream that was closed before its start."""
    for number in range(_STDERR + 1):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
