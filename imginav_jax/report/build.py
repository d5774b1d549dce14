"""Makes a report: finds the runs, measures, decides, and writes one folder."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from imginav_jax.datasets import prepared_files
from imginav_jax.datasets.preparation import TRAIN, VALIDATION
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report import settings
from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Report, Result, make_results
from imginav_jax.report.decision.rule import Candidate, Decision, Rule, decide
from imginav_jax.report.measurement.measure import measure
from imginav_jax.report.measurement.probe import Settings
from imginav_jax.report.measurement.subjects import PROBE, Model, ProbeData, make_subjects
from imginav_jax.report.page import gallery, page, tables
from imginav_jax.report.settings import PROBE_PREFIX
from imginav_jax.runs import benchmark_file as benchmark_results
from imginav_jax.runs import phase_folder
from imginav_jax.runs.benchmark_file import Benchmark
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
) -> tuple[Report, Path]:
    """Makes the report and returns it with its folder.

    Args:
      paths: phase folders or workdirs.
      out: the folder; default: `report` in the phase folder.
      config: as configs/report.py makes it.
      expected: runs that are to be there; one that is not stands in the decision.
      work: the folder in which they were started, for their logs; default: the current one.

    Raises:
      InUseError: another process makes the report of this folder.
      UserError: there is no run, the runs are not comparable, a value of the config is out of range, or the folder
        cannot be written.
    """
    settings.check(config)
    found = phase_folder.find(paths, expected, work)
    for problem in (*found.unusable, *found.problems):
        logger.warning("%s", problem)
    if not found.runs:
        raise UserError(f"no run in {', '.join(map(str, paths))} can be reported on")
    phase_folder.require_comparable(found.runs)
    out = out or found.phase_dir / "report"
    with own_output(out, f"--out {out}"):
        return _build(found, out, config), out


def _build(found: PhaseRuns, out: Path, config: RawConfig) -> Report:
    training, validation, scenes = _open_data(found.runs[0].trained)
    make_writable(out, "--out")
    of_probe = Settings(**{name: config.probe[name] for name in Settings._fields})
    probe_data = ProbeData(training, config.probe.layouts, of_probe)
    models = {run.trained.directory: Model(run, probe_data) for run in found.runs}
    chosen = make_subjects(found.groups, models, probe_data)
    measured = measure(chosen, validation, found.runs[0].trained.data["key"], out / _COMPUTED)
    results = make_results(chosen, measured, scenes, config.bootstrap)
    benchmarks = _find_benchmarks(found)
    costs, costs_on = _diffusion_costs(benchmarks, found.runs[0].trained.image_size)
    decisions = _decide(found, results, costs, config, len(set(scenes)))
    report = Report(found, config, results, decisions, benchmarks, costs_on, len(scenes), len(set(scenes)))
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


def _find_benchmarks(found: PhaseRuns) -> list[Benchmark]:
    """Of every phase folder; a damaged file is a problem of the report, not its end."""
    benchmarks = []
    for folder in dict.fromkeys([found.phase_dir, *(run.phase_dir for run in found.runs)]):
        for path in sorted(folder.glob("benchmark_*.json")):
            try:
                benchmarks.append(benchmark_results.load(path))
            except UserError as error:
                logger.warning("%s", error)
                found.problems.append(str(error))
    return benchmarks


def _decide(
    found: PhaseRuns,
    results: Sequence[Result],
    costs: Mapping[tuple[int, ...], float],
    config: RawConfig,
    num_scenes: int,
) -> dict[str, Decision]:
    """One decision an arm; an arm of which there is no run of its own has none."""
    weights = {_describe_detail(name): weight for name, weight in config.decision.weights.items()}
    rule = Rule(config.decision.margin, weights, config.bootstrap.confidence)
    by_label = {result.label: result for result in results}
    incomplete: dict[str, str] = {}
    for each in found.incomplete:
        texts = [incomplete[each.experiment]] if each.experiment in incomplete else []
        incomplete[each.experiment] = "; ".join([*texts, each.describe()])
    decisions = {}
    for number, labels in enumerate(config.decision.arms):
        own = {each for each in labels if each in by_label or each in incomplete}
        there = [each if each in own else config.decision.stand_ins.get(each, each) for each in labels]
        if number and not own:
            continue
        candidates = []
        for label in there:
            if (result := by_label.get(label)) is not None:
                shape, detail = result.latent_shape, _detail(result, config)
                candidates.append(Candidate(label, shape, detail, costs.get(shape), incomplete.get(label)))
        obstacle = _find_obstacle(found, there, num_scenes, config.bootstrap.min_scenes)
        of_arm = {label: text for label, text in incomplete.items() if label in there}
        decisions[", ".join(there)] = decide(candidates, rule, there, obstacle, of_arm)
    return decisions


def _find_obstacle(found: PhaseRuns, labels: Sequence[str], num_scenes: int, min_scenes: int) -> str | None:
    """Why these runs cannot be decided between, whatever they have reached."""
    if num_scenes < min_scenes:
        return f"the validation split has {num_scenes} scenes, and an interval needs {min_scenes}"
    for label in labels:
        others = [group.label for group in found.groups if group.runs[0].experiment == label != group.label]
        if others:
            return f"{label} is there with different settings ({', '.join(others)})"
    return None


def _detail(result: Result, config: RawConfig) -> dict[str, Estimate]:
    """The estimates that the rule weighs, by what a person calls them."""

    def estimate(name: str) -> Estimate:
        metric = name.removeprefix(PROBE_PREFIX)
        return result.estimates[PROBE if metric != name else config.decision.output][metric]

    return {_describe_detail(name): estimate(name) for name in config.decision.weights}


def _describe_detail(name: str) -> str:
    label = METRICS[name.removeprefix(PROBE_PREFIX)].label
    return f"probe's {label}" if name.startswith(PROBE_PREFIX) else label


def _diffusion_costs(benchmarks: Sequence[Benchmark], image_size: int) -> tuple[Mapping[tuple[int, ...], float], str]:
    """Seconds of a ControlNet's training step by latent shape, on the first card measured at the runs' image size."""
    for benchmark in benchmarks:
        if benchmark.image_size == image_size:
            seconds = {
                each.latent_shape: each.controlnet.timing.seconds_per_batch.median for each in benchmark.diffusion
            }
            return seconds, f"{benchmark.device_kind}, {benchmark.precision}"
    return {}, ""


def _write(report: Report, models: Mapping[Path, Model], validation: LayoutSource, out: Path) -> None:
    """All is made before the first file is written."""
    rows = tables.make_rows(report.results, report.confidence)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = {
        "program": versions.stamp(),
        "layouts": report.num_layouts,
        "scenes": report.num_scenes,
        "config": report.config.to_dict(),
        "problems": [*report.found.unusable, *report.found.problems],
        "decisions": report.decisions,
        "training_cost": tables.training_costs(report.found.runs),
        "metrics": rows,
    }
    logger.info("Drawing ...")
    pictures = gallery.draw(report, models, validation)
    files = {picture.file_name: picture.png for picture in pictures}
    files["metrics.csv"] = text.getvalue().encode()
    files["metrics.json"] = (json.dumps(tables.to_json(content), indent=1) + "\n").encode()
    files["index.html"] = page.render(report, pictures).encode()
    for stale in {path.name for path in out.glob("*.png")} - set(files):
        (out / stale).unlink()
    for name, each in files.items():
        write_atomically(out / name, each)
