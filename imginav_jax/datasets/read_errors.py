"""Why a prepared data set cannot be read: its own files are at fault, or the machine that reads them is."""

import errno
import os
import re
from pathlib import Path

from imginav_jax.system.errors import UserError, first_line

PREPARED_ANEW = "delete it, and it is prepared anew"
_OF_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # what a purge or a bad copy leaves
_OF_ARRAY_RECORD = re.compile(r"\w+\(\) failed: ([^;]+)")  # of a system call, in a RuntimeError


def explain(directory: Path, error: BaseException, remedy: str = PREPARED_ANEW) -> UserError:
    """Makes an error that names a data set's folder, why it cannot be read, and what helps.

    Args:
      directory: of the data set.
      error: by which reading it has ended; TFDS, protobuf and ArrayRecord have their own.
      remedy: what helps where its files are damaged or missing; it is not said where a limit of the process, a missing
        right or a failing file system is in the way, for then they may be whole.
    """
    cause: BaseException | None = error
    while cause is not None:  # TFDS puts words of its own before the system's
        if _is_obstacle(cause):
            return UserError(f"{directory} cannot be read: {first_line(cause)}")
        cause = cause.__cause__
    return UserError(f"{directory} cannot be read: {first_line(error)}; {remedy}")


def _is_obstacle(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_FILES
    failure = _OF_ARRAY_RECORD.match(str(error))
    if failure is not None:
        return failure[1] not in {os.strerror(number) for number in _OF_FILES}
    return isinstance(error, MemoryError)
