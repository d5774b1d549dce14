"""A process that takes samples of its own works when it is asked to, so that it takes turns with this one."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from imginav_jax.benchmark.sampling import Sampler
from imginav_jax.system.errors import RunError

_ROOT = Path(__file__).resolve().parents[3]  # where `python -m imginav_jax...` works


class TurnProcess:
    """Answers with a line of JSON when it is ready, and for every name of a work that it is sent.

    Attributes:
      ready: what the first line holds.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[bytes]):
        self._name, self._process, self._errors = name, process, errors
        self.ready = self._answer()

    def sampler(self, work: str) -> Sampler:
        """Takes one sample of what the process knows by that name: seconds a call.

        Raises, when it is called:
          RunError: the process has ended.
        """
        return lambda: self._ask(work)

    def _ask(self, work: str) -> float:
        try:
            print(work, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> RunError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "it said nothing"
        how = f"was killed by signal {-code}" if code < 0 else f"has ended with exit code {code}"
        return RunError(f"{self._name} {how}: {reason}")


@contextlib.contextmanager
def start(name: str, command: Sequence[str]) -> Iterator[TurnProcess]:
    """Waits until it is ready; in the end closes its stdin, which ends it.

    Raises:
      RunError: the process has ended by itself.
    """
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, cwd=_ROOT, text=True, stdin=pipe, stdout=pipe, stderr=errors) as process,
    ):
        try:
            yield TurnProcess(name, process, errors)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, and a line to it is still here
                process.stdin.close()
