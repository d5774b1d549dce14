"""One owner at a time of what a program writes: a lock file that says who the owner is and that it still lives.

A lock that the kernel keeps (flock) would do alone, if every file system had one that all nodes of a cluster see.
Some have none, some have one of a single node.  So the lock file names its owner, and the owner touches it every
second: another node takes a lock over when it has stayed untouched.  An owner that was only held up, and lost its lock
by that, finds out before it writes: see `Ownership.check`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.progress import logger
from imginav_jax.system.signals import withheld

_SECONDS_A_BEAT = 1.0
_SECONDS_OF_SILENCE = 15.0  # after which an owner on another node counts as dead
_SECONDS_TO_SETTLE = 1.0  # in which two that take over together find out who was last
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class InUseError(UserError):
    """Another process is the owner."""


class _BusyError(Exception):
    def __init__(self, owner: "Owner | None"):
        super().__init__()
        self.owner = owner


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock, as the lock file says."""

    token: str  # of this lock alone
    host: str
    kernel: str  # a boot of a machine
    processes: str  # the name space of the process number
    pid: int
    born: str  # when the process was started, for its number is given out again
    job: str  # of LSF, "101[2]"; empty outside
    since: str

    def __str__(self) -> str:
        job = f", LSF job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class Ownership:
    """The lock that this process holds; it beats until it is released."""

    def __init__(self, path: Path, what: str, me: Owner, handle: int):
        self._path, self._what, self._me, self._handle = path, what, me, handle
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)
        with withheld():
            self._heart.start()

    def check(self) -> None:
        """Raises RunError where another process has taken over, so that nothing is written beside it."""
        found = _read(self._path)
        if found is not None and found.token != self._me.token:
            raise RunError(f"{self._what} has been taken over by {found}: this process writes nothing there any more")

    def release(self) -> None:
        """Removes the lock file, if it is still this process's."""
        self._over.set()
        self._heart.join()
        found = _read(self._path)
        with contextlib.suppress(OSError):
            if found is not None and found.token == self._me.token:
                self._path.unlink()
        os.close(self._handle)

    def _beat(self) -> None:
        while not self._over.wait(_SECONDS_A_BEAT):
            with contextlib.suppress(OSError):
                found = _read(self._path)
                if found is None and not self._path.exists():
                    _put_back(self._path, self._me)  # somebody has cleared up
                elif found is not None and found.token == self._me.token:
                    os.utime(self._path)


def own_output(path: Path, what: str, *, wait: bool = False) -> contextlib.AbstractContextManager[Ownership]:
    """Makes the caller the one owner of a folder or file, which need not exist, while inside; see `own`.

    The lock file is beside it, so that a look at a folder changes nothing in it; inside where only that can be written.
    """
    real = path.resolve()  # whatever links lead there
    is_alone = not real.name or (real.is_dir() and not os.access(real.parent, os.W_OK))
    lock = real / ".lock" if is_alone else real.with_name(f".{real.name}.lock")
    return own(lock, what, wait=wait)


@contextlib.contextmanager
def own(path: Path, what: str, *, wait: bool = False) -> Iterator[Ownership]:
    """Makes the caller the one owner while inside.

    Args:
      path: the lock file; its folders are made, and removed again where they are empty in the end.
      what: is owned, for the messages: "--workdir runs/a".
      wait: for the owner's end, instead of an error.

    Raises:
      InUseError: there is an owner; names it and the lock file.
      UserError: the lock file cannot be written.
    """
    path = path.absolute()
    made: list[Path] = []
    try:
        made = _make_folders(path.parent)
        ownership = _acquire(path, what, wait)
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"{what} cannot be written: {error.strerror or error}") from None
    except BaseException:
        _remove_empty(made)
        raise
    try:
        yield ownership
    finally:
        ownership.release()
        _remove_empty(made)


def this_job() -> str:
    """Returns LSF's number of the job that this process belongs to, "101" or "101[2]"; empty outside of one."""
    number, index = os.environ.get("LSB_JOBID", ""), os.environ.get("LSB_JOBINDEX", "0")
    return f"{number}[{index}]" if number and index not in ("", "0") else number


def _acquire(path: Path, what: str, wait: bool) -> Ownership:
    waiting_for: str | None = None
    while True:
        try:
            return _take(path, what)
        except _BusyError as busy:
            owner = str(busy.owner or "a process that does not say who it is")
            if not wait:
                raise InUseError(
                    f"{what} is in use by {owner}: wait for it or end it; "
                    f"if it is known to be gone, delete its lock file {path}"
                ) from None
            if owner != waiting_for:
                logger.info("%s is in use by %s; waiting for it (lock file %s)", what, owner, path)
                waiting_for = owner
            time.sleep(_SECONDS_A_BEAT / 4)


def _take(path: Path, what: str) -> Ownership:
    """Raises _BusyError where another process is the owner."""
    me = _myself()
    mine = path.with_name(f"{path.name}.{me.token}")
    handle = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.write(handle, json.dumps(dataclasses.asdict(me)).encode())
        _try_flock(handle)
        while not (_publish(mine, path) or _take_over(mine, path, me)):
            pass
    except BaseException:
        os.close(handle)
        raise
    finally:
        mine.unlink(missing_ok=True)
    return Ownership(path, what, me, handle)


def _publish(mine: Path, path: Path) -> bool:
    """Makes the finished file the lock in one step; False where there is one already."""
    try:
        os.link(mine, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        mine.replace(path)
    return True


def _take_over(mine: Path, path: Path, me: Owner) -> bool:
    """Replaces the lock of a dead owner; False where it is gone meanwhile. Raises _BusyError where it lives."""
    try:
        handle = _open(path)
    except FileNotFoundError:
        return False
    try:
        is_granted, owner = _try_flock(handle), _read(path)
        if not is_granted:
            raise _BusyError(owner)
        if not _is_same_file(handle, path):
            return False
        if _is_alive(owner, me, path, mine):
            raise _BusyError(owner)
        mine.replace(path)
        time.sleep(_SECONDS_TO_SETTLE)
        found = _read(path)
        if found is not None and found.token != me.token:
            raise _BusyError(found)
        return True
    except FileNotFoundError:
        return False
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:  # another user's
        return os.open(path, os.O_RDONLY)


def _try_flock(handle: int) -> bool:
    """False where the kernel knows of another that holds the file; it may know of none, or not of those elsewhere."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    return True


def _is_alive(owner: Owner | None, me: Owner, path: Path, mine: Path) -> bool:
    """Whether the owner of a lock that the kernel does not withhold still lives. FileNotFoundError where it is gone."""
    if owner is not None and (owner.kernel, owner.processes) == (me.kernel, me.processes):
        try:
            os.kill(owner.pid, 0)
            return _born(owner.pid) == owner.born
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, of which a system may show nothing
            pass
    return _is_beating(owner, path, mine)


def _is_beating(owner: Owner | None, path: Path, mine: Path) -> bool:
    """Whether the lock file is touched before its silence is long enough; times are those of the file system."""
    os.utime(mine)
    last = _modified(path)
    silence = _modified(mine) - last
    if silence >= _SECONDS_OF_SILENCE:
        return False
    left = _SECONDS_OF_SILENCE - max(silence, 0.0)
    logger.debug("%s: looking for up to %.0f s whether %s still lives", path, left, owner or "its owner")
    deadline = time.monotonic() + left
    while time.monotonic() < deadline:
        time.sleep(_SECONDS_A_BEAT / 4)
        if _modified(path) != last:
            return True
    return False


def _modified(path: Path) -> float:
    """Opens the file, for a network file system may answer from its memory otherwise."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path) -> Owner | None:
    """None where there is no file, or one that names no owner."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _put_back(path: Path, me: Owner) -> None:
    with path.open("x") as file:
        json.dump(dataclasses.asdict(me), file)


def _myself() -> Owner:
    return Owner(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        kernel=_contents("/proc/sys/kernel/random/boot_id") or socket.gethostname(),
        processes=_link("/proc/self/ns/pid"),
        pid=os.getpid(),
        born=_born(os.getpid()),
        job=this_job(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _born(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty where there is no such process, or none that is seen."""
    fields = _contents(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _contents(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _make_folders(folder: Path) -> list[Path]:
    """Those that were missing, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    if not missing and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
