"""Where a run writes, and whose run a workdir holds."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from imginav_jax.errors import UserError


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

    def metrics_csv(self, folder: Path) -> Path:
        return folder / f"{self.name}_metrics.csv"

    def sample(self, folder: Path, moment: str, kind: str) -> Path:
        """`moment` is epoch_005 or best, `kind` comparison or segmentation."""
        return folder / "samples" / f"{self.name}_{moment}_{kind}.png"

    def experiment_json(self, folder: Path) -> Path:
        return folder / f"{self.name}_experiment.json"

    def summary_json(self, folder: Path) -> Path:
        return folder / f"{self.name}_summary.json"

    def check_writable(self) -> None:
        """UserError if one of the folders cannot be made or written; makes nothing."""
        for folder, option in zip(self.folders, ("--workdir", "--config.phase_dir"), strict=True):
            existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise UserError(f"{option} {folder} cannot be written: {existing} is not a writable folder")

    def check_same_experiment(self, fingerprint: dict[str, Any]) -> None:
        """UserError if a folder holds this name's run of another experiment; names the fields that differ."""
        for folder, option in zip(self.folders, ("--workdir", "--config.phase_dir"), strict=True):
            for path in (
                sorted(folder.glob("*_experiment.json")) if folder == self.workdir else [self.experiment_json(folder)]
            ):
                if path.exists():
                    _compare(folder, option, read_json(path).get("fingerprint", {}), fingerprint)

    def open(self, description: dict[str, Any]) -> None:
        """Makes the folders and leaves the description of the experiment in each."""
        for folder in self.folders:
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            write_json(self.experiment_json(folder), description)


def _compare(folder: Path, option: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    differing = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    if differing:
        fields = "; ".join(f"{key} {found.get(key)} there, {expected.get(key)} here" for key in differing)
        raise UserError(f"{folder} holds another experiment ({fields}); choose another {option}, or remove it")


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces the file in one step."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
