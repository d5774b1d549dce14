"""Makes a report: finds the runs, measures, decides, and writes one folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from imginav_jax.datasets import prepared_files
from imginav_jax.datasets.preparation import TRAIN, VALIDATION
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report import next_config, settings
from imginav_jax.report.candidates import Candidates
from imginav_jax.report.decision import arms as arm_comparison
from imginav_jax.report.decision import vae
from imginav_jax.report.decision.results import Report, make_results
from imginav_jax.report.decision.rule import Decision, decide
from imginav_jax.report.decision.vae import Smoothness
from imginav_jax.report.measurement.measure import measure
from imginav_jax.report.measurement.probe import Settings
from imginav_jax.report.measurement.subjects import Model, ProbeData, make_subjects
from imginav_jax.report.other_results import OtherResults, diffusion_costs
from imginav_jax.report.page import control, gallery, page, tables
from imginav_jax.report.vae_tests import VaeTests
from imginav_jax.runs import phase_folder
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.incomplete import Expected
from imginav_jax.runs.phase_folder import PhaseRuns
from imginav_jax.runs.trained_run import TrainedRun
from imginav_jax.system import versions
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import make_writable, write_atomically
from imginav_jax.system.ownership import own_output
from imginav_jax.system.progress import logger

_COMPUTED = "computed"  # folder of what later reports need not measure again


def build(
    paths: Sequence[Path],
    out: Path | None,
    config: RawConfig,
    expected: Sequence[Expected] = (),
    work: Path | None = None,
    chosen: str | None = None,
) -> tuple[Report, Path]:
    """Makes the report and returns it with its folder.

    Args:
      paths: phase folders or workdirs.
      out: the folder; default: `report` in the phase folder.
      config: as configs/report.py makes it.
      expected: runs that are to be there; one that is not stands in the decision.
      work: the folder in which they were started, for their logs; default: the current one.
      chosen: the label of the run that a person takes to the next phase, whatever the decision is.

    Raises:
      InUseError: another process makes the report of this folder.
      UserError: there is no run, or none that is called `chosen` and can go on, the runs are not comparable, a value of
        the config is out of range, or the folder cannot be written.
    """
    settings.check(config)
    found = phase_folder.find(paths, expected, work)
    for problem in (*found.unusable, *found.problems):
        logger.warning("%s", problem)
    if not found.runs:
        raise UserError(f"no run in {', '.join(map(str, paths))} can be reported on")
    phase_folder.require_comparable(found.runs)
    runs = {group.label: group.runs[0] for group in found.groups}
    if chosen is not None and chosen not in runs:
        raise UserError(f"--winner {chosen} is no run of this report; there are {', '.join(runs)}")
    if chosen is not None:
        next_config.require_start(runs[chosen])
    out = out or found.phase_dir / "report"
    with own_output(out, f"--out {out}"):
        return _build(found, out, config, chosen or ""), out


def _build(found: PhaseRuns, out: Path, config: RawConfig, chosen: str) -> Report:
    training, validation, scenes = _open_data(found.runs[0].trained)
    make_writable(out, "--out")
    of_probe = Settings(**{name: config.probe[name] for name in Settings._fields})
    probe_data = ProbeData(training, config.probe.layouts, of_probe)
    models = {run.trained.directory: Model(run, probe_data) for run in found.runs}
    arms = _arms(found, config)
    subjects = make_subjects(found.groups, models, probe_data, list(arms.values()), config.decision.output)
    measured = measure(subjects, validation, found.runs[0].trained.data["key"], out / _COMPUTED)
    results = make_results(subjects, measured, scenes, config.bootstrap)
    others = OtherResults(found, scenes, config.bootstrap)
    benchmarks, of_control = others.benchmarks(), others.control()
    step_costs = diffusion_costs(benchmarks, found.runs[0].trained.image_size)
    make = Candidates(found, results, step_costs, of_control, config)
    tests = VaeTests(found, probe_data, validation, scenes, config)
    smoothness = {arm: each for arm in arms if (each := tests.measure(arm, make.rule, out / _COMPUTED)) is not None}
    decisions, costs, across = _decide(found, make, arms, config, len(set(scenes)), smoothness)
    shown = [each for each in results if each.kind != "earlier"]
    earlier = [each for each in results if each.kind == "earlier"]
    counts = len(scenes), len(set(scenes))
    report = Report(
        found,
        config,
        shown,
        earlier,
        decisions,
        across,
        benchmarks,
        of_control,
        others.noise(),
        costs,
        smoothness,
        chosen,
        *counts,
    )
    _write(report, models, validation, out)
    return report


def _open_data(trained: TrainedRun) -> tuple[LayoutSource, LayoutSource, list[str]]:
    """The training and the validation layouts, and the scene of each of the latter; reads all of these once."""
    directory = trained.find_data()
    try:
        validation = LayoutSource(directory, VALIDATION)
        return LayoutSource(directory, TRAIN), validation, validation.scene_ids()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise prepared_files.explain(directory, error) from None


def _arms(found: PhaseRuns, config: RawConfig) -> dict[str, list[str]]:
    """Returns the labels of each arm, stand-ins in their places, that of `decision.arm` first.

    An arm of which nothing of its own is there is left out, but not that one, unless there are VAE tests alone.
    """
    there = {*(group.label for group in found.groups), *(each.experiment for each in found.incomplete)}
    arms = {**config.decision.arms, **config.decision.vae_tests}
    names = sorted(arms, key=lambda name: (name != config.decision.arm, name in config.decision.vae_tests))
    order = [name for name in names if {*arms[name]} & there]
    if config.decision.arm not in order and not {*order} & {*config.decision.vae_tests}:
        order = [config.decision.arm, *order]
    return {
        name: [label if label in there else config.decision.stand_ins.get(label, label) for label in arms[name]]
        for name in order
    }


def _decide(
    found: PhaseRuns,
    make: Candidates,
    arms: Mapping[str, Sequence[str]],
    config: RawConfig,
    num_scenes: int,
    smoothness: Mapping[str, Smoothness],
) -> tuple[dict[str, Decision], dict[str, str], str]:
    """Returns one decision an arm, what breaks a tie in each, and what they say together."""
    decisions, candidates, costs = {}, {}, {}
    for name, labels in arms.items():
        of_arm, rule = make.of(labels)
        obstacle = _find_obstacle(found, labels, num_scenes, config.bootstrap.min_scenes)
        incomplete = {label: text for label, text in make.incomplete.items() if label in labels}
        if name in config.decision.vae_tests:
            decisions[name] = vae.decide(of_arm, rule, labels, smoothness.get(name), obstacle, incomplete)
            continue
        candidates[name] = of_arm
        costs[name] = next((each.cost.of for each in of_arm if each.cost), "")
        decisions[name] = decide(of_arm, rule, labels, obstacle, incomplete)
    return decisions, costs, arm_comparison.compare(candidates, make.rule)


def _find_obstacle(found: PhaseRuns, labels: Sequence[str], num_scenes: int, min_scenes: int) -> str | None:
    """Why these runs cannot be decided between, whatever they have reached."""
    if num_scenes < min_scenes:
        return f"the validation split has {num_scenes} scenes, and an interval needs {min_scenes}"
    for label in labels:
        others = [group.label for group in found.groups if group.runs[0].experiment == label != group.label]
        if others:
            return f"{label} is there with different settings ({', '.join(others)})"
    return None


def _write(report: Report, models: Mapping[Path, Model], validation: LayoutSource, out: Path) -> None:
    """All is made before the first file is written."""
    rows = tables.make_rows([*report.results, *report.earlier], report.confidence, report.evidence["data"])
    of_control = [row for each in report.control for row in control.make_rows(each.scores, report.confidence)]
    content = {
        "program": versions.stamp(),
        "layouts": report.num_layouts,
        "scenes": report.num_scenes,
        "evidence": report.evidence,
        "config": report.config.to_dict(),
        "problems": [*report.found.unusable, *report.found.problems],
        "decisions": report.decisions,
        "chosen": report.choice,
        "smoothness": report.smoothness,
        "posteriors": tables.posteriors(report.found.runs),
        "across_arms": report.across,
        "training_cost": tables.training_costs(report.found.runs),
        "metrics": rows,
        "control": of_control,
    }
    logger.info("Drawing ...")
    pictures = gallery.draw(report, models, validation)
    files = {picture.file_name: picture.png for picture in pictures}
    files["metrics.csv"] = tables.to_csv(rows)
    if of_control:
        files["control.csv"] = tables.to_csv(of_control)
    files["metrics.json"] = (json.dumps(tables.to_json(content), indent=1) + "\n").encode()
    files["index.html"] = page.render(report, pictures).encode()
    for stale in {path.name for path in out.glob("*.png")} - set(files):
        (out / stale).unlink()
    if not of_control:
        (out / "control.csv").unlink(missing_ok=True)
    for name, each in files.items():
        write_atomically(out / name, each)
