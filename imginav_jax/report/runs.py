"""The runs that a report is about: found in folders, read as far as they have come, checked to be comparable."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imginav_jax import trained_run
from imginav_jax.errors import UserError
from imginav_jax.outputs import Outputs, read_json
from imginav_jax.trained_run import TrainedRun

_SUFFIX = "_experiment.json"
_SAME_DATA = "data."  # fields of the fingerprint that decide what a run is measured on
_OF_A_RUN = ("name", "seed")  # fields in which the runs of one group differ
_RESOLUTION = ("model.downsampling_steps", "model.latent_channels")  # what the experiment varies

Row = dict[str, str]  # of the metrics CSV, by column


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, finished or not.

    Attributes:
      name: of its files.
      experiment: R1, say; runs of one experiment differ in the seed alone.
      trained: its best weights, and where they are.
      phase_dir: the folder in which runs are compared.
      rows: of its CSV, one a finished epoch.
      is_finished: whether it has ended by itself.
    """

    name: str
    experiment: str
    trained: TrainedRun
    phase_dir: Path
    fingerprint: dict[str, Any]
    rows: list[Row]
    is_finished: bool

    @property
    def seed(self) -> int:
        return self.fingerprint["seed"]

    @property
    def num_epochs(self) -> int:
        """Epochs that it was to train."""
        return self.config["num_epochs"]

    @property
    def best_mse(self) -> str:
        """Validation MSE of its best epoch, unweighted, as it was logged; empty where there is no row of it."""
        rows = [row for row in self.rows if float(row["step"]) == self.trained.weights.step]
        weight = self.config.loss.mse
        return f"{float(rows[0]['val_MSE_rgb']) / weight:.6f}" if rows and weight else ""

    @property
    def config(self) -> Any:
        assert self.trained.experiment is not None  # `_read` takes no other
        return self.trained.experiment.config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.trained.weights.config.latent_shape(self.trained.image_size)


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one experiment, which differ in the seed alone."""

    label: str
    runs: tuple[Run, ...]  # by seed

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.runs[0].latent_shape

    @property
    def compression(self) -> int:
        return self.runs[0].trained.weights.config.compression

    @property
    def is_finished(self) -> bool:
        return all(run.is_finished for run in self.runs)


@dataclasses.dataclass
class Found:
    """What the folders hold; every problem is one line that a person can act on."""

    groups: list[Group] = dataclasses.field(default_factory=list)  # finest latent first
    problems: list[str] = dataclasses.field(default_factory=list)
    unusable: list[str] = dataclasses.field(default_factory=list)  # of the paths that were asked for

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]


def find(paths: Sequence[Path]) -> Found:
    """The runs in phase folders or workdirs; what cannot be read is a problem, and the others are still found."""
    found, runs = Found(), {}
    for path in paths:
        descriptions = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else []
        if not descriptions:
            reason = f"has no *{_SUFFIX} of a run" if path.is_dir() else "is no directory"
            found.unusable.append(f"{path} {reason}, expected a phase folder or a workdir")
        for description in descriptions:
            try:
                run = _read(description, found.problems)
                runs.setdefault(run.trained.directory.resolve(), run)
            except UserError as error:
                found.problems.append(f"{description.name.removesuffix(_SUFFIX)}: {error}")
    found.groups = _group(list(runs.values()))
    return found


def _read(path: Path, problems: list[str]) -> Run:
    """UserError where there is no checkpoint, or the description is not one."""
    description, name = read_json(path), path.name.removesuffix(_SUFFIX)
    folder = path.parent
    directory = folder if (folder / "checkpoints").exists() else Path(description.get("workdir", folder))
    if not (directory / "checkpoints").exists():
        raise UserError(f"no checkpoint in {directory / 'checkpoints'}; where its workdir has moved, name that")
    trained = trained_run.load(directory)
    try:
        fingerprint, experiment = description["fingerprint"], description["config"]["experiment"]
        is_complete = {"name", "seed"} <= set(fingerprint)
    except (KeyError, TypeError):
        is_complete = False
    if not is_complete or trained.experiment is None:
        raise UserError(f"{path} does not describe a run of this program")
    outputs = Outputs(name, directory, folder)
    rows = _read_rows(next(filter(Path.exists, map(outputs.metrics_csv, outputs.folders)), None), name, problems)
    planned = trained.experiment.config.num_epochs
    is_finished = _has_ended(outputs.summary_json(directory), planned)
    if not is_finished:
        problems.append(f"{name}: not finished, {len(rows)} of {planned} epochs; measured as it is")
    phase_dir = Path(description.get("phase_dir", folder)) if folder == directory else folder
    return Run(name, experiment, trained, phase_dir, fingerprint, rows, is_finished)


def _has_ended(summary: Path, num_epochs: int) -> bool:
    """By itself, and not as the shorter run that it once was."""
    if not summary.exists():
        return False
    stored = read_json(summary)
    return bool(stored.get("stopped_early")) or stored.get("epochs", 0) >= num_epochs


def _read_rows(path: Path | None, name: str, problems: list[str]) -> list[Row]:
    """The whole rows of a CSV; one that lacks its end, or a value that is no number, is left out and named."""
    if path is None:
        problems.append(f"{name}: no metrics CSV, so no curves and no speed")
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = list(csv.reader(text.splitlines()))
    columns, rows = (lines or [[]])[0], []
    for number, line in enumerate(lines[1:], 2):
        is_torn = number == len(lines) and not text.endswith(("\n", "\r"))
        if is_torn or len(line) != len(columns) or not _is_number(line[0]):
            problems.append(f"{name}: line {number} of {path} is torn and left out")
        else:
            rows.append(dict(zip(columns, line, strict=True)))
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _group(runs: list[Run]) -> list[Group]:
    """By everything but the seed; an experiment that occurs with other settings too goes by its runs' name."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.fingerprint.items() if key not in _OF_A_RUN}
        by_settings.setdefault(f"{run.experiment} {sorted(settings.items())}", []).append(run)
    experiments = [members[0].experiment for members in by_settings.values()]
    groups = []
    for members in by_settings.values():
        first = min(members, key=lambda run: (run.seed, run.name))
        label = first.experiment if experiments.count(first.experiment) == 1 else first.name
        groups.append(Group(label, tuple(sorted(members, key=lambda run: (run.seed, run.name)))))
    return sorted(groups, key=lambda group: (group.compression, group.label))


def require_comparable(runs: Sequence[Run]) -> None:
    """UserError that names every difference, unless all runs have the same layouts, split, palette and image size."""
    first = runs[0]
    fields = sorted({key for run in runs for key in run.fingerprint if key.startswith(_SAME_DATA)})
    differences = [
        f"{key} is {first.fingerprint.get(key)} in {first.name}, {run.fingerprint.get(key)} in {run.name}"
        for run in runs[1:]
        for key in fields
        if run.fingerprint.get(key) != first.fingerprint.get(key)
    ]
    if differences:
        raise UserError(f"the runs are not comparable: {'; '.join(differences)}")


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """What differs besides the resolution and the seed, a line a setting: it may explain a difference in quality."""
    lines = []
    for key in sorted({key for run in runs for key in run.fingerprint} - {*_OF_A_RUN, *_RESOLUTION}):
        values = {run.name: run.fingerprint.get(key) for run in runs}
        if len(set(map(str, values.values()))) > 1:
            lines.append(f"{key}: {', '.join(f'{value} in {name}' for name, value in values.items())}")
    return lines
