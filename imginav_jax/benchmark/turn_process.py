"""Another process that works when it is asked to, so that it takes turns with this one: both of its ends.

It is a program, or a function of this package in an interpreter of its own, and answers in JSON, a line each time.
"""

import contextlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from imginav_jax.benchmark.sampling import Sampler
from imginav_jax.system.errors import RunError

_ROOT = Path(__file__).resolve().parents[2]  # on the path of what is started
_END_SECONDS = 60  # a process that is asked to end may take

Served = tuple[Any, Mapping[str, Callable[[], Any]]]  # the first answer, and what finds each later one when it is asked


class TurnProcess:
    """A process that has been started.

    All its methods raise RunError where the process has ended, with the last line that it said on stderr.
    """

    def __init__(self, name: str, process: Any, errors: IO[bytes]):  # a Popen; its types leave open if it has pipes
        self._name, self._process, self._errors = name, process, errors

    def answer(self) -> Any:
        """Waits for the next answer and returns it; there is one before the first question."""
        return json.loads(self._read_line())

    def ask(self, question: str) -> Any:
        """Returns the answer to one of the names that the process knows."""
        try:
            print(question, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self.answer()

    def sampler(self, work: str) -> Sampler:
        """Returns what takes one sample of the work that the process knows by that name, in seconds a call."""
        return lambda: float(self.ask(work))

    def wait_for(self, text: str) -> None:
        """Reads a program's output up to the line that holds `text`."""
        while text not in self._read_line():
            pass

    def wait_for_end(self) -> None:
        """Reads the rest of a program's output."""
        self._process.stdout.read()
        self._process.wait()

    def _read_line(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> RunError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "it said nothing"
        how = f"was killed by signal {-code}" if code < 0 else f"has ended with exit code {code}"
        return RunError(f"{self._name} {how}: {reason}")


@contextlib.contextmanager
def start(name: str, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Iterator[TurnProcess]:
    """Starts a command that finds this package, under a name for messages; ends it by SIGTERM, or else by SIGKILL."""
    path = os.pathsep.join(filter(None, (str(_ROOT), environment.get("PYTHONPATH"))))
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, env={**environment, "PYTHONPATH": path}, text=True, stdin=pipe, stdout=pipe, stderr=errors
        ) as process,
    ):
        try:
            yield TurnProcess(name, process, errors)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, and a line to it is still here
                process.stdin.close()
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            process.kill()


def command(function: str, *arguments: Any) -> list[str]:
    """Returns the command by which an interpreter of its own serves "module:function", which returns a `Served`.

    The interpreter is no command of the package, so its allocator is the C library's as it is; `arguments` are JSON's.
    """
    return [sys.executable, "-c", f"from {__name__} import serve; serve()", function, json.dumps(arguments)]


def serve() -> None:
    """Answers what is asked on stdin until that ends, as `command` says; what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    function, arguments = sys.argv[1:]
    first, works = pkgutil.resolve_name(function)(*json.loads(arguments))
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(works[line.strip()]()), file=answers, flush=True)
