"""Runs that have not come to their end: which ones were expected, and where their logs say why."""

import dataclasses
import re
import runpy
from collections.abc import Sequence
from pathlib import Path

from imginav_jax.runs import experiment
from imginav_jax.runs.outputs import DEFAULT_WORKDIRS
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import own_config

_JOBS = "logs"  # folder of the jobs' output


@dataclasses.dataclass(frozen=True)
class Expected:
    """An experiment that was to be run.

    Attributes:
      text: as typed behind the colon of configs/phase1_2.py.
      experiment: R1, say.
      name: of its run.
      pattern: of the names that it may have where fields of its model were overridden.
    """

    text: str
    experiment: str
    name: str
    pattern: re.Pattern[str]


@dataclasses.dataclass(frozen=True)
class Incomplete:
    """A run that has not come to its end.

    Attributes:
      experiment: R1, say; empty where it is not known.
      text: what it is called in the decision.
      name: of its files.
      what: how far it has come.
      log: the file or folder that says why; None where there is none.
    """

    experiment: str
    text: str
    name: str
    what: str
    log: Path | None

    @property
    def where(self) -> str:
        """The end of a sentence about the run: where its log is, or nothing."""
        return f": see {self.log}" if self.log else ""

    def describe(self) -> str:
        """Returns what the decision says of the run."""
        return f"{self.text} {self.what}{self.where}"


def resolve(texts: Sequence[str]) -> list[Expected]:
    """Makes the experiments that were to be run of what was typed; what stands twice is one.

    Raises:
      UserError: configs/phase1_2.py does not know one.
    """
    get_config = runpy.run_path(str(own_config("phase1_2.py")))["get_config"]
    found = []
    for text in dict.fromkeys(texts):
        try:
            config = get_config(text)
        except ValueError as error:
            raise UserError(f"--expected {text}: {error}") from None
        pattern = "".join(
            "[^_]*" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{.*?\})", config.name)
        )
        name = experiment.from_config(config).name
        found.append(Expected(text, config.experiment, name, re.compile(pattern)))
    return found


def find_log(name: str, workdir: Path | None, work: Path | None) -> Path | None:
    """Finds the log of a run and returns its absolute path: its own, or else the folder of the jobs' logs, or None.

    Args:
      name: of the run.
      workdir: where it was trained, as far as that is known.
      work: the folder in which the runs were started; None for the current one.
    """
    start = work or Path()
    places = [workdir] if workdir else []
    for place in (*places, start / DEFAULT_WORKDIRS / name):
        if (path := place / f"{name}.log").is_file():
            return path.absolute()
    jobs = start / _JOBS
    return jobs.absolute() if work and jobs.is_dir() else None
