"""What a run would refuse, or wait for in vain, found before it is queued; nothing is made or changed."""

import difflib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imginav_jax.devices import cards
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user, nearest, require_literal, try_to_write

if TYPE_CHECKING:
    from imginav_jax.runs.experiment import Experiment

_JOBS = ("V100", "L40S", "CONTROL", "REPORT")  # for which launch/phase1_2.sh takes a queue, a wall time and options
_OF_A_PROCESS = ("IMGINAV_COORDINATOR", "IMGINAV_PROCESSES", "IMGINAV_PROCESS")  # set within a job of several nodes
NAMES = (
    "IMGINAV_MANIFEST",
    "IMGINAV_SYNTHETIC",
    "IMGINAV_VENV",
    "IMGINAV_WORK",
    "IMGINAV_CONFIG",
    "IMGINAV_OUTPUTS",
    "IMGINAV_CACHE",
    "IMGINAV_PRESET",
    "IMGINAV_ARGUMENTS",
    "IMGINAV_PRECISION",
    "IMGINAV_TF32",
    "IMGINAV_WORKERS",
    "IMGINAV_MAX_REQUEUES",
    "IMGINAV_CARD",
    "IMGINAV_V100_EXPERIMENTS",
    "IMGINAV_L40S_EXPERIMENTS",
    "IMGINAV_MULTINODE_EXPERIMENT",
    "IMGINAV_REPORT_ARGUMENTS",
    "IMGINAV_CONTROL",
    "IMGINAV_CONTROL_ARGUMENTS",
    *_OF_A_PROCESS,
    *(f"IMGINAV_{job}_{what}" for job in _JOBS for what in ("QUEUE", "WALL_TIME", "OPTIONS")),
)
# Options of bsub, as patterns, and why launch/phase1_2.sh cannot have them from a person.
_REFUSED = {
    "-J(?!d)": "a job's name says which experiment it trains",
    "-[IK]": "bsub would wait for each job to end before it submits the next",
}
_REFUSED_AFTER_RUNS = {"-w(?![at])": "the job waits for the runs"}
_WARNING_MINUTES = 10  # -wt of the scripts that train
_LAYOUTS_READ = 3  # of a manifest; the run itself reads all
_MIB = 2**20
_BJOBS_SECONDS = 60
_OUR_JOBS, _BENCHMARK = "phase1_2_*", "phase1_2_benchmark"  # names of jobs in launch/; the latter writes to no run
# Number, state and what follows of a line of bjobs; the states in which a job may still write.
_UNFINISHED = ("PEND", "PSUSP", "RUN", "USUSP", "SSUSP", "WAIT", "PROV", "UNKWN")
_WAITING = ("PEND", "PSUSP", "WAIT")
_ROW = re.compile(rf"(\d+)\b.*?\b(DONE|EXIT|ZOMBI|{'|'.join(_UNFINISHED)})\b[\s|]*(.*)")


def check_names(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserError where a variable begins with IMGINAV_ and nothing reads it; names the nearest one."""
    for name in sorted(environment):
        if name.startswith("IMGINAV_") and name not in NAMES:
            nearest = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"the nearest name is {nearest[0]}" if nearest else f"valid names are {', '.join(NAMES)}"
            raise UserError(f"{name} is set, but nothing reads it; {hint}")


def check_settings(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserError where a setting means nothing, or a run limit leaves no time before its warning."""
    for name in _OF_A_PROCESS:
        if environment.get(name):
            raise UserError(f"{name} is set, but it belongs to one process of a job; unset it")
    for name in ("IMGINAV_SYNTHETIC", "IMGINAV_CONTROL"):
        if environment.get(name, "") not in ("", "0", "1"):
            raise UserError(f"{name} is {environment[name]!r}, expected 0 or 1")
    cards.settings(cards.Card("any", 0, "", 1, cards.UNKNOWN), environment)
    for job in _JOBS:
        options = _options(job, environment)
        _check_options(job, options)
        _check_wall_time(job, environment, options)


def check_runs(experiments: Sequence[str], config_file: str, options: Sequence[str], work: Path) -> None:
    """Checks what each experiment's run would: flags, values, data, folders and free space.

    Args:
      experiments: as behind the colon of `--config`, "R1" or "R1,quick".
      config_file: path of configs/phase1_2.py.
      options: of imginav_jax.main, `--config.batch_size=8`.
      work: folder in which the runs start; what is relative is relative to it.

    Raises:
      UserError: a run could not start, or two would write to one folder.
    """
    require_literal(work, "IMGINAV_WORK")
    os.environ["JAX_PLATFORMS"] = "cpu"  # shapes are all that is computed, and here there is no card
    runs: dict[Path, Experiment] = {}
    for argument in experiments:
        experiment, workdir = _parse(argument, config_file, options, work)
        if workdir in runs:
            raise UserError(f"{argument} would write to {workdir}, where another of {' '.join(experiments)} does")
        runs[workdir] = experiment
    for spec in {each.data: None for each in runs.values()}:
        _check_manifest(spec, work)
    for workdir, experiment in runs.items():
        check_writable("IMGINAV_WORK", workdir)
        check_writable("IMGINAV_OUTPUTS", work / expand_user(experiment.config.phase_dir))
        check_writable("IMGINAV_CACHE", work / experiment.cache_dir)
    _check_space(runs)


def check_no_job_is_unfinished(records: Path) -> None:
    """Raises UserError that names the unfinished jobs of a work folder.

    Args:
      records: a folder with a file `{job number}.{index}` for each job that was submitted or has started there.
    """
    numbers = sorted({path.name.partition(".")[0] for path in records.glob("[0-9]*.*")}, key=int)
    if not numbers or shutil.which("bjobs") is None:
        return
    answer = _ask_bjobs("jobid stat job_name", *numbers)
    rows = [found.groups() for line in answer.stdout.splitlines() if (found := _ROW.match(line.strip()))]
    unknown = set(numbers) - {number for number, *_ in rows} - set(re.findall(r"<(\d+)", answer.stderr))
    if unknown:
        said = " ".join(f"{answer.stdout} {answer.stderr}".split())
        raise UserError(f"bjobs does not say whether jobs {' '.join(sorted(unknown))} have ended: {said}")
    unfinished = [row for row in rows if row[1] in _UNFINISHED]
    _refuse_beside(unfinished, f"{records.parent.parent} has unfinished jobs")


def check_no_job_waits(project: Path, work: Path) -> None:
    """Raises UserError that names the jobs which were submitted in a project by hand and have not started yet.

    Which work folder such a job is for stands in its environment, which LSF does not show: it is taken to be this one,
    unless the job's output goes to the logs of another.  Those that have started here are known by their records
    (`check_no_job_is_unfinished`), and the others that have started work elsewhere.
    """
    if shutil.which("bjobs") is None:
        return
    rows = []
    for line in _ask_bjobs("jobid stat job_name output_file sub_cwd", "-J", _OUR_JOBS).stdout.splitlines():
        number, state, name, output, folder = (*line.strip().split("|", 4), *[""] * 4)[:5]
        place = Path(output)
        is_elsewhere = place.is_absolute() and place.match(_OUR_JOBS) and place.parent != work / "logs"
        if state in _WAITING and not name.startswith(_BENCHMARK) and not is_elsewhere and _is_within(folder, project):
            rows.append((number.partition("[")[0], state, name))
    _refuse_beside(rows, f"jobs wait that were submitted in {project} and may train the same runs")


def _ask_bjobs(fields: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bjobs", "-noheader", "-o", f"{fields} delimiter='|'", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_BJOBS_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"bjobs does not say which jobs have ended: {error}") from None


def _is_within(folder: str, project: Path) -> bool:
    """`folder` is as LSF writes it, which may put $HOME in the place of the home folder."""
    given = re.sub(r"^\$HOME(?=/|$)", lambda _: str(expand_user("~")), folder)
    return Path(given).is_absolute() and Path(given).resolve().is_relative_to(project.resolve())


def _refuse_beside(rows: Sequence[Sequence[str]], message: str) -> None:
    """`rows` have a job's number, state and name."""
    if rows:
        names = ", ".join(f"{number} {name.strip()} ({state})" for number, state, name in rows)
        ending = " ".join(dict.fromkeys(number for number, *_ in rows))
        raise UserError(f"{message}: {names}; wait for them, or: bkill {ending}")


def _options(job: str, environment: Mapping[str, str]) -> list[str]:
    try:
        return shlex.split(environment.get(f"IMGINAV_{job}_OPTIONS", ""))
    except ValueError:
        raise UserError(f"IMGINAV_{job}_OPTIONS has a quote that is not closed") from None


def _check_options(job: str, options: Sequence[str]) -> None:
    """Refuses what would submit another phase: another name, another condition, a command instead of the script."""
    name = f"IMGINAV_{job}_OPTIONS"
    refused = _REFUSED | (_REFUSED_AFTER_RUNS if job in ("CONTROL", "REPORT") else {})
    before = ""
    for word in options:
        if not word.startswith("-") and not before.startswith("-"):
            raise UserError(f"{name} has {word!r} where bsub expects an option; quote what belongs together")
        for pattern, reason in refused.items():
            if re.match(pattern, word):
                raise UserError(f"{name} has {word}, but {reason}; leave it out")
        before = word


def _check_wall_time(job: str, environment: Mapping[str, str], options: Sequence[str]) -> None:
    """-W [HOURS:]MINUTES[/HOST], and -wt where the options replace it; an option wins over the variable."""
    name = f"IMGINAV_{job}_WALL_TIME"
    limit, warning = environment.get(name, ""), "" if job == "REPORT" else str(_WARNING_MINUTES)
    for option, value in itertools.pairwise(options):
        if option == "-W":
            name, limit = f"-W in IMGINAV_{job}_OPTIONS", value
        elif option == "-wt":
            warning = value
    if not limit:
        return
    expected = "MINUTES or HOURS:MINUTES"
    if not (minutes := _minutes(limit)):
        raise UserError(f"{name} is {limit!r}, expected {expected}")
    if warning and minutes <= (_minutes(warning) or 0):
        raise UserError(
            f"{name} is {limit}, expected more than the {_minutes(warning)} minutes that the warning comes before it: "
            "the job would be told to stop as soon as it starts"
        )


def _minutes(text: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/.*)?", text.strip())
    return int(found[1] or 0) * 60 + int(found[2]) if found else None


def _parse(argument: str, config_file: str, options: Sequence[str], work: Path) -> tuple["Experiment", Path]:
    """The checked experiment and its workdir; every mistake in the flags ends the program as it would end the run."""
    from absl import flags

    from imginav_jax import main
    from imginav_jax.runs import experiment, outputs

    sys.argv = [sys.argv[0], f"--config={config_file}:{argument}", *options]  # where ml_collections looks for overrides
    try:
        rest = main.parse_flags(sys.argv)
        config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    finally:
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:  # each override has become a flag
            delattr(flags.FLAGS, name)
    if len(rest) > 1:
        raise UserError(f"IMGINAV_ARGUMENTS has an unknown argument {rest[1]}, expected --config.KEY=VALUE")
    config.data.num_workers = 0  # it is the job's cores that bound it
    checked = experiment.from_config(config)
    given = None if config.init_from is None else work / expand_user(config.init_from)
    if given is not None and not given.exists():
        raise UserError(f"config.init_from {given} does not exist")
    return checked, outputs.locate(config, workdir, work).workdir


def _check_manifest(spec: Any, work: Path) -> None:
    """`spec` is a DataSpec; every row of its manifest, and the header of the first layouts."""
    from imginav_jax.datasets import layout_file, manifest

    if spec.manifest is None:
        return
    root = None if spec.root is None else work / expand_user(spec.root)
    found = manifest.read_manifest(work / expand_user(spec.manifest), root)
    found.raise_problems()
    if not found.rows:
        raise UserError(f"{found.path} leaves no layout")
    for row in found.rows[:_LAYOUTS_READ]:
        layout_file.read_layout(row.path, spec.image_size)


def check_writable(what: str, folder: Path) -> None:
    try:
        try_to_write(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({what}): {error.strerror}") from None


def _check_space(runs: Mapping[Path, "Experiment"]) -> None:
    """For the checkpoints of all runs together, wherever they share a file system."""
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for workdir, experiment in runs.items():
        place = nearest(workdir)
        device = place.stat().st_dev
        places[device] = place
        needed[device] = needed.get(device, 0) + _bytes_needed(workdir, experiment)
    for device, place in places.items():
        free = shutil.disk_usage(place).free
        if free < needed[device]:
            raise UserError(
                f"{place} has {free / _MIB:,.0f} MiB free, expected {needed[device] / _MIB:,.0f} MiB for the "
                "checkpoints; free some space, or set IMGINAV_WORK to another folder"
            )


def _bytes_needed(workdir: Path, experiment: "Experiment") -> int:
    """Of the checkpoints that are still missing, as the run itself counts them."""
    import jax

    from imginav_jax.runs import checkpoints
    from imginav_jax.training import state

    config = experiment.config
    _, create = state.of_experiment(experiment)
    kept = checkpoints.count_kept(config.num_epochs, config.checkpoint.every_epochs)
    copies = checkpoints.copies_missing(workdir / "checkpoints", kept)
    return copies * checkpoints.state_bytes(jax.eval_shape(create, jax.random.key(0)))
