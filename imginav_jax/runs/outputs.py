"""Where a run writes, and whose run a workdir holds."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imginav_jax.runs import event_files
from imginav_jax.system import versions
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user, read_json, require_literal, try_to_write, write_json
from imginav_jax.system.ownership import Ownership, own_output

# What older fingerprints do not say.
_OLDER = {
    "model.shortcuts": False,
    "model.variational": False,
    "loss.kl": 0.0,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
    "optimizer.clip_norm": 0.0,
    "ema_decay": 0.0,
    "init_log_variance": None,
}
DEFAULT_WORKDIRS = Path("experiments/phase1")  # in which a run's workdir has its name, unless another one is given


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The paths of one run: everything in `workdir`, and copies for comparing runs in `phase_dir`."""

    name: str
    workdir: Path
    phase_dir: Path

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"

    @property
    def folders(self) -> tuple[Path, Path]:
        return self.workdir, self.phase_dir

    @property
    def log(self) -> Path:
        return self.workdir / f"{self.name}.log"

    @contextlib.contextmanager
    def own(self) -> Iterator[tuple[Ownership, ...]]:
        """Keeps other processes out of the workdir, and from this run's files in the phase folder, while inside.

        Raises:
          InUseError: another process is there.
          UserError: a folder cannot be written.
        """
        copies = f"{self.name} in --config.phase_dir {self.phase_dir}"
        with (
            own_output(self.workdir, f"--workdir {self.workdir}") as of_workdir,
            own_output(self.phase_dir.with_name(f"{self.phase_dir.name}.{self.name}"), copies) as of_copies,
        ):
            yield of_workdir, of_copies

    def metrics_csv(self, folder: Path) -> Path:
        return folder / f"{self.name}_metrics.csv"

    def sample(self, folder: Path, moment: str, kind: str) -> Path:
        """Returns the path of a picture; `moment` is epoch_005, say, or best, `kind` comparison or segmentation."""
        return folder / "samples" / f"{self.name}_{moment}_{kind}.png"

    def experiment_json(self, folder: Path) -> Path:
        return folder / f"{self.name}_experiment.json"

    def summary_json(self, folder: Path) -> Path:
        return folder / f"{self.name}_summary.json"

    def not_finite_json(self, step: int) -> Path:
        return self.workdir / f"{self.name}_not_finite_step_{step}.json"

    def has_events(self) -> bool:
        """Returns whether an earlier start has left events for TensorBoard."""
        return any(self.workdir.glob(event_files.PATTERN))

    def check_writable(self) -> None:
        """Raises UserError if a file cannot be made in one of the folders, or where they are to be; leaves nothing."""
        places_by_option = {
            "--workdir": (self.workdir, self.workdir / "samples", self.checkpoints),
            "--config.phase_dir": (self.phase_dir, self.phase_dir / "samples"),
        }
        for option, places in places_by_option.items():
            for place in places:
                try:
                    try_to_write(place)
                except OSError as error:
                    raise UserError(f"{option} {places[0]} cannot be written: {place}: {error.strerror}") from None

    def check_same_experiment(self, fingerprint: dict[str, Any]) -> None:
        """Raises UserError if the workdir holds any other experiment, or the phase folder another one of this name."""
        for path in sorted(self.workdir.glob("*_experiment.json")):
            compare_fingerprints(f"--workdir {self.workdir}", read_json(path).get("fingerprint", {}), fingerprint)
        path = self.experiment_json(self.phase_dir)
        if path.exists():
            place = f"--config.phase_dir {self.phase_dir}, {path.name},"
            compare_fingerprints(place, read_json(path).get("fingerprint", {}), fingerprint)

    def open(self, description: dict[str, Any]) -> None:
        """Makes the folders and leaves the description of the experiment in each, and where the others are."""
        places = {"workdir": str(self.workdir.absolute()), "phase_dir": str(self.phase_dir.absolute())}
        description = {**places, "program": versions.stamp(), **description}
        for folder in self.folders:
            try:
                (folder / "samples").mkdir(parents=True, exist_ok=True)
                write_json(self.experiment_json(folder), description)
            except OSError as error:
                raise UserError(f"{folder} cannot be written: {error}") from None


def locate(config: Any, workdir: str | None, start: Path = Path()) -> Outputs:
    """Returns where the run of a config writes.

    Args:
      config: an ml_collections.ConfigDict.
      workdir: of the run; experiments/phase1/{name} where it is None.
      start: the folder in which the run starts, to which relative paths are relative.

    Raises:
      UserError: the name or the workdir cannot be used.
    """
    name = run_name(config)
    folder = (start / expand_user(workdir or DEFAULT_WORKDIRS / name)).absolute()
    require_literal(folder, "--workdir")
    return Outputs(name, folder, (start / expand_user(config.phase_dir)).absolute())


def run_name(config: Any) -> str:
    """Returns the config's name with the fields of its model filled in. UserError where it is no file name."""
    try:
        name = config.name.format(**config.model)
    except (KeyError, IndexError, ValueError):
        raise UserError(
            f"config.name is {config.name!r}, expected no braces but those around a field of model"
        ) from None
    if not name.strip(".") or "/" in name:
        raise UserError(f"config.name is {config.name!r}, expected a file name")
    return name


def complete_fingerprint(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's fingerprint with the fields that runs of earlier versions do not have."""
    return {**_OLDER, **found}


def compare_fingerprints(place: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UserError that names every field in which the fingerprints differ, with both values."""
    found, expected = complete_fingerprint(found), complete_fingerprint(expected)
    differing = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    if differing:
        fields = "; ".join(f"{key} {found.get(key)} there, {expected.get(key)} here" for key in differing)
        raise UserError(f"{place} holds another experiment ({fields}); choose another folder")
