"""Stopping when the scheduler or a person says so, with nothing lost."""

import contextlib
import signal
import types
from collections.abc import Iterator
from multiprocessing import resource_tracker

REQUEUE_EXIT_CODE = 75  # the scheduler's -Q "75" starts such a job again

# LSF sends USR2 at the run limit, and INT and TERM on bkill, ten seconds apart and before KILL.  Other schedulers warn
# by USR1, a lost terminal by HUP, a limit of CPU time by XCPU.
STOPPING = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)


class Interrupted(BaseException):
    """A signal asked the program to stop; not an Exception, so that nothing takes it for an error and goes on."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = REQUEUE_EXIT_CODE if number == signal.SIGUSR2 else 128 + number


class Stop:
    """The first signal that has asked the program to stop; later ones change nothing."""

    def __init__(self) -> None:
        self._number = 0
        self._deferred = False

    def listen(self) -> None:
        """Notices signals from now on; until `defer` they raise `Interrupted` at once."""
        for number in STOPPING:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # as nohup wants it
            signal.signal(number, self._notice)
        # multiprocessing's own helper: whoever needs it first would start it open to these signals, and its start
        # lets INT and TERM through again, which would open the loader's workers to them.
        with withheld():
            resource_tracker.ensure_running()

    def ignore(self) -> None:
        """Ignores signals from now on, even while the interpreter shuts down."""
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)

    def defer(self) -> None:
        """Makes later signals only be remembered, because there is something to save now."""
        self._deferred = True

    @property
    def number(self) -> int:
        """The number of the first signal, 0 if none has come."""
        return self._number

    @property
    def requested(self) -> bool:
        return self._number != 0

    def adopt(self, number: int) -> None:
        """Takes a signal that came to another process of the run as if it had come here."""
        self._number = self._number or number

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come."""
        if self._number:
            raise Interrupted(self._number)

    def _notice(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        if not self._number:
            self._number = number
            if not self._deferred:
                raise Interrupted(number)


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """Hides the signals from threads and processes started inside; this process gets them at the latest at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
