"""The runs that a report is about: found in folders, read as far as they have come, checked to be comparable."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imginav_jax.runs import incomplete, metrics_csv, trained_run
from imginav_jax.runs.experiment import Config
from imginav_jax.runs.incomplete import Expected, Incomplete
from imginav_jax.runs.metrics_csv import CsvRow
from imginav_jax.runs.outputs import Outputs, complete_fingerprint
from imginav_jax.runs.trained_run import TrainedRun
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import read_json

_SUFFIX = "_experiment.json"
_SAME_DATA = "data."  # fields of the fingerprint that decide what a run is measured on
_OF_A_RUN = ("name", "seed")  # fields that tell the runs of one group apart
_MAY_DIFFER = (*_OF_A_RUN, "precision")  # within a group: cards have their own precision
_VARIED = (  # by the experiment
    *("model.downsampling_steps", "model.latent_channels", "model.shortcuts"),
    *("model.variational", "loss.kl"),
)


@dataclasses.dataclass(frozen=True)
class ComparedRun:
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
    rows: list[CsvRow]
    is_finished: bool

    @property
    def seed(self) -> int:
        return self.fingerprint["seed"]

    @property
    def num_epochs(self) -> int:
        """Epochs that it was to train."""
        return self.config.num_epochs

    @property
    def best_mse(self) -> str:
        """Validation MSE of its best epoch, unweighted, as it was logged; empty where there is no row of it."""
        rows = [row for row in self.rows if float(row["step"]) == self.trained.weights.step]
        weight = self.config.loss.mse
        return f"{float(rows[0]['val_MSE_rgb']) / weight:.6f}" if rows and weight else ""

    @property
    def config(self) -> Config:
        assert self.trained.experiment is not None  # `_read` takes no other
        return self.trained.experiment.config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.trained.weights.config.latent_shape(self.trained.image_size)


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one experiment, which differ in the seed alone."""

    label: str
    runs: tuple[ComparedRun, ...]  # by seed

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
class PhaseRuns:
    """What the folders hold; every problem is one line that a person can act on."""

    groups: list[Group] = dataclasses.field(default_factory=list)  # finest latent first
    problems: list[str] = dataclasses.field(default_factory=list)
    unusable: list[str] = dataclasses.field(default_factory=list)  # of the paths that were asked for
    phase_dir: Path = Path()  # the first phase folder that was asked for, or that of the first workdir
    incomplete: list[Incomplete] = dataclasses.field(default_factory=list)  # expected, or something of them is there
    expected: list[Expected] = dataclasses.field(default_factory=list)
    asked: list[Path] = dataclasses.field(default_factory=list)  # the folders, as they were named

    @property
    def runs(self) -> list[ComparedRun]:
        return [run for group in self.groups for run in group.runs]


def find(paths: Sequence[Path], expected: Sequence[Expected] = (), work: Path | None = None) -> PhaseRuns:
    """Returns the runs in phase folders or workdirs; one that cannot be read is a problem and hides no other.

    Args:
      paths: the folders.
      expected: runs that are to be there.
      work: the folder in which they were started, for their logs; None for the current one.
    """
    found, runs, failures = PhaseRuns(expected=list(expected), asked=list(paths)), {}, {}
    for folder in paths:
        files = sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []
        if not files:
            reason = f"has no *{_SUFFIX} of a run" if folder.is_dir() else "is no directory"
            found.unusable.append(f"{folder} {reason}, expected a phase folder or a workdir")
        for path in files:
            description: Mapping[str, Any] = {}
            try:
                description = read_json(path)
                directory = _find_workdir(path.parent, description)
                if directory not in runs:
                    runs[directory] = _read(path, description, directory, found.problems)
            except UserError as error:
                failures[path.name.removesuffix(_SUFFIX)] = description, str(error)
    names = {run.name for run in runs.values()}
    failures = {name: failure for name, failure in failures.items() if name not in names}
    found.groups = _group(list(runs.values()), found.problems)
    _add_unfinished(found, work)
    _add_failures(found, failures, work)
    _add_absent(found, work)
    found.phase_dir = _find_phase_dir(paths, found.runs)
    return found


def _call(found: PhaseRuns, name: str, experiment: str) -> str:
    """A run as it was typed, or by its experiment."""
    return next((each.text for each in found.expected if each.pattern.fullmatch(name)), experiment or name)


def _add_unfinished(found: PhaseRuns, work: Path | None) -> None:
    for group in found.groups:
        for run in group.runs:
            if not run.is_finished:
                log = incomplete.find_log(run.name, run.trained.directory, work)
                label = group.label if len(group.runs) == 1 else f"{group.label} seed {run.seed}"
                text = _call(found, run.name, label)
                each = Incomplete(run.experiment, text, run.name, "has not finished", log)
                found.incomplete.append(each)
                counts = f"{len(run.rows)} of {run.num_epochs} epochs"
                found.problems.append(f"{run.name}: not finished, {counts}; measured as it is{each.where}")


def _add_failures(found: PhaseRuns, failures: Mapping[str, tuple[Mapping[str, Any], str]], work: Path | None) -> None:
    """Of runs that left a description, which may be empty, and nothing that can be measured."""
    for name, (description, problem) in failures.items():
        experiment, workdir = _describe(description)
        log = incomplete.find_log(name, workdir, work)
        each = Incomplete(
            experiment, _call(found, name, experiment), name, "has left nothing that can be measured", log
        )
        found.incomplete.append(each)
        found.problems.append(f"{name}: {problem}{each.where}")


def _describe(description: Mapping[str, Any]) -> tuple[str, Path | None]:
    """Returns experiment and workdir, as far as a description says them."""
    config, workdir = description.get("config"), description.get("workdir")
    experiment = config.get("experiment") if isinstance(config, dict) else None
    return str(experiment or ""), Path(workdir) if isinstance(workdir, str) else None


def _add_absent(found: PhaseRuns, work: Path | None) -> None:
    """Of runs that left nothing at all."""
    names = [*(run.name for run in found.runs), *(each.name for each in found.incomplete)]
    for expected in found.expected:
        if not any(expected.pattern.fullmatch(name) for name in names):
            log = incomplete.find_log(expected.name, None, work)
            each = Incomplete(expected.experiment, expected.text, expected.name, "has left nothing", log)
            found.incomplete.append(each)
            found.problems.append(f"{expected.name}: nothing of it is there{each.where}")


def _find_phase_dir(paths: Sequence[Path], runs: Sequence[ComparedRun]) -> Path:
    for path in paths:
        if any(path.glob(f"*{_SUFFIX}")) and not _is_workdir(path):
            return path
    recorded = [run.phase_dir for run in runs if run.phase_dir.is_dir()]
    return recorded[0] if recorded else Path()


def _is_workdir(folder: Path) -> bool:
    return (folder / "checkpoints").exists()


def _find_workdir(folder: Path, description: Mapping[str, Any]) -> Path:
    """Returns the workdir of a run whose description lies in a folder: this one, or where the run was trained."""
    recorded = description.get("workdir")
    directory = folder if _is_workdir(folder) or not isinstance(recorded, str) else Path(recorded)
    if not _is_workdir(directory):
        raise UserError(f"no checkpoint in {directory / 'checkpoints'}; where its workdir has moved, name that")
    return directory.resolve()


def _read(path: Path, description: Mapping[str, Any], directory: Path, problems: list[str]) -> ComparedRun:
    """Returns the run that a file describes; UserError where there is no checkpoint, or it describes none."""
    name = path.name.removesuffix(_SUFFIX)
    trained = trained_run.load(directory, description=description if path.parent.resolve() == directory else None)
    try:
        fingerprint = complete_fingerprint(description["fingerprint"])
        experiment = str(description["config"]["experiment"])
        is_complete = isinstance(fingerprint["seed"], int) and "key" in trained.data
    except (KeyError, TypeError, ValueError):
        is_complete = False
    if not is_complete or trained.experiment is None:
        raise UserError(f"{path} does not describe a run of this program")
    if trained.weights.config.head("rgb") is None:
        raise UserError(f"{directory} has no RGB head, and so no pictures to compare")
    outputs = Outputs(name, directory, path.parent)
    rows = _read_rows(next(filter(Path.exists, map(outputs.metrics_csv, outputs.folders)), None), name, problems)
    planned = trained.experiment.config.num_epochs
    is_finished = _has_ended(outputs.summary_json(directory), planned)
    phase_dir = Path(str(description.get("phase_dir", ""))) if _is_workdir(path.parent) else path.parent
    return ComparedRun(name, experiment, trained, phase_dir, fingerprint, rows, is_finished)


def _has_ended(summary: Path, num_epochs: int) -> bool:
    """By itself, and not as the shorter run that it once was."""
    if not summary.exists():
        return False
    stored = read_json(summary)
    epochs = stored.get("epochs")
    return bool(stored.get("stopped_early")) or (isinstance(epochs, int) and epochs >= num_epochs)


def _read_rows(path: Path | None, name: str, problems: list[str]) -> list[CsvRow]:
    if path is None:
        problems.append(f"{name}: no metrics CSV, so no curves and no speed")
        return []
    try:
        rows, torn = metrics_csv.read(path)
    except UserError as error:
        problems.append(f"{name}: {error}")
        return []
    problems += [f"{name}: line {number} of {path} is torn and left out" for number in torn]
    return rows


def _group(runs: Sequence[ComparedRun], problems: list[str]) -> list[Group]:
    """By everything but the seed; an experiment that occurs with other settings too goes by its runs' names."""
    by_settings: dict[str, list[ComparedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.name)):
        settings = {key: value for key, value in run.fingerprint.items() if key not in _MAY_DIFFER}
        members = by_settings.setdefault(f"{run.experiment} {sorted(settings.items())}", [])
        same = [each for each in members if each.seed == run.seed]
        if same:
            directories = f"{run.trained.directory} and {same[0].trained.directory}"
            problems.append(f"{run.name}: {directories} are of one experiment and seed; the second is measured")
        else:
            members.append(run)
    wanted = [members[0].experiment for members in by_settings.values()]
    names = [members[0].name for members in by_settings.values()]
    groups = []
    for members in by_settings.values():
        first = members[0]
        label = first.experiment if wanted.count(first.experiment) == 1 else first.name
        if label == first.name and names.count(label) > 1:
            label = f"{label} in {first.trained.directory}"
        groups.append(Group(label, tuple(members)))
    return sorted(groups, key=lambda group: (group.compression, group.label))


def require_comparable(runs: Sequence[ComparedRun]) -> None:
    """Raises UserError that names every difference in layouts, split, palette or image size between the runs."""
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


def differing_settings(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns a line a setting that differs, besides resolution and seed: it may explain a difference in quality."""
    lines = []
    for key in sorted({key for run in runs for key in run.fingerprint} - {*_OF_A_RUN, *_VARIED}):
        values = {run.name: run.fingerprint.get(key) for run in runs}
        if len(set(map(str, values.values()))) > 1:
            lines.append(f"{key}: {', '.join(f'{value} in {name}' for name, value in values.items())}")
    return lines
