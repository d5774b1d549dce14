"""Makes a report: finds the runs, measures, decides, and writes one folder."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from imginav_jax import atomic
from imginav_jax.benchmark import results as benchmark_results
from imginav_jax.benchmark.results import Benchmark
from imginav_jax.datasets.preparation import TRAIN, VALIDATION
from imginav_jax.errors import UserError
from imginav_jax.experiment import Config
from imginav_jax.input_pipeline import LayoutSource
from imginav_jax.new_directory import make_writable
from imginav_jax.progress import logger
from imginav_jax.report import cost, gallery, page, runs, tables
from imginav_jax.report.bootstrap import Estimate
from imginav_jax.report.decision import Candidate, Decision, Rule, decide
from imginav_jax.report.measure import measure
from imginav_jax.report.metric_table import METRICS
from imginav_jax.report.probe import Settings
from imginav_jax.report.results import Report, Result, make_results
from imginav_jax.report.runs import Found
from imginav_jax.report.subjects import PROBE, RGB, SEGMENTATION, Model, ProbeData, make_subjects

PROBE_PREFIX = "probe_"  # of a detail metric by which the probe's classes are judged
OUTPUTS = RGB, SEGMENTATION  # that a decision may be made by
_COMPUTED = "computed"  # folder of what later reports need not measure again


def build(paths: Sequence[Path], out: Path | None, config: Config) -> tuple[Report, Path]:
    """Makes the report and returns it with its folder.

    Args:
      paths: phase folders or workdirs.
      out: the folder; default: `report` in the phase folder.
      config: as configs/report.py makes it.

    Raises:
      UserError: there is no run, the runs are not comparable, a value of the config is out of range, or the folder
        cannot be written.
    """
    check_config(config)
    found = runs.find(paths)
    for problem in (*found.unusable, *found.problems):
        logger.warning("%s", problem)
    if not found.runs:
        raise UserError(f"no run in {', '.join(map(str, paths))} can be reported on")
    runs.require_comparable(found.runs)
    out = out or found.runs[0].phase_dir / "report"
    make_writable(out, "--out")
    data = found.runs[0].trained.find_data()
    validation = LayoutSource(data, VALIDATION)
    probe_data = ProbeData(
        LayoutSource(data, TRAIN),
        config.probe.layouts,
        Settings(**{name: config.probe[name] for name in Settings._fields}),
    )
    models = {run.name: Model(run, probe_data) for run in found.runs}
    chosen = make_subjects(found.groups, models, probe_data)
    try:
        measured = measure(chosen, validation, found.runs[0].trained.data["key"], out / _COMPUTED)
        scenes = validation.scene_ids()
        results = make_results(chosen, measured, scenes, config.bootstrap)
        benchmarks = _find_benchmarks(found)
        decisions = _decide(found, results, benchmarks, config, len(set(scenes)))
        report = Report(found, config, results, decisions, benchmarks, len(scenes), len(set(scenes)))
        _write(report, models, validation, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}") from None
    return report, out


def check_config(config: Config) -> None:
    """UserError that names the key of a value that cannot be."""
    for name in config.decision.weights:
        metric = METRICS.get(name.removeprefix(PROBE_PREFIX))
        if metric is None or metric.unit or metric.is_better != "higher":
            raise UserError(f"decision.weights.{name} is no metric that is a share, higher is better")
    for key, value, is_valid, expected in (
        ("decision.margin", config.decision.margin, 0 <= config.decision.margin < 1, "a share from 0, below 1"),
        ("decision.output", config.decision.output, config.decision.output in OUTPUTS, " or ".join(OUTPUTS)),
        ("bootstrap.confidence", config.bootstrap.confidence, 0 < config.bootstrap.confidence < 1, "between 0 and 1"),
        ("bootstrap.samples", config.bootstrap.samples, config.bootstrap.samples >= 1, "1 or more"),
        ("probe.layouts", config.probe.layouts, config.probe.layouts >= 1, "1 or more"),
        ("probe.steps", config.probe.steps, config.probe.steps >= 1, "1 or more"),
        ("probe.penalty", config.probe.penalty, config.probe.penalty >= 0, "0 or more"),
        ("probe.batch_pixels", config.probe.batch_pixels, config.probe.batch_pixels >= 1, "1 or more"),
    ):
        if not is_valid:
            raise UserError(f"{key} is {value}, expected {expected}")


def _find_benchmarks(found: Found) -> list[Benchmark]:
    """Of every phase folder; a damaged file is a problem of the report, not its end."""
    benchmarks = []
    for folder in dict.fromkeys(run.phase_dir for run in found.runs):
        for path in sorted(folder.glob("benchmark_*.json")):
            try:
                benchmarks.append(benchmark_results.load(path))
            except UserError as error:
                logger.warning("%s", error)
                found.problems.append(str(error))
    return benchmarks


def _decide(
    found: Found, results: Sequence[Result], benchmarks: Sequence[Benchmark], config: Config, num_scenes: int
) -> dict[str, Decision]:
    """One decision an arm; an arm of which there is no run of its own has none."""
    weights = {_describe_detail(name): weight for name, weight in config.decision.weights.items()}
    rule = Rule(config.decision.margin, weights, config.bootstrap.confidence)
    costs = _diffusion_costs(benchmarks, found.runs[0].trained.image_size)
    by_label = {result.label: result for result in results}
    unfinished = {group.label: f"{group.label} has not finished" for group in found.groups if not group.is_finished}
    decisions = {}
    for number, labels in enumerate(config.decision.arms):
        there = [each if each in by_label else config.decision.stand_ins.get(each, each) for each in labels]
        if number and not any(each in by_label for each in labels):
            continue
        candidates = []
        for label in there:
            if (result := by_label.get(label)) is not None:
                shape, detail = result.latent_shape, _detail(result, config)
                candidates.append(Candidate(label, shape, detail, costs.get(shape), unfinished.get(label)))
        too_few = f"the validation split has {num_scenes} scenes, and an interval needs {config.bootstrap.min_scenes}"
        obstacle = too_few if num_scenes < config.bootstrap.min_scenes else None
        decisions[", ".join(there)] = decide(candidates, rule, there, obstacle)
    return decisions


def _detail(result: Result, config: Config) -> dict[str, Estimate]:
    """The estimates that the rule weighs, by what a person calls them."""

    def estimate(name: str) -> Estimate:
        metric = name.removeprefix(PROBE_PREFIX)
        return result.estimates[PROBE if metric != name else config.decision.output][metric]

    return {_describe_detail(name): estimate(name) for name in config.decision.weights}


def _describe_detail(name: str) -> str:
    label = METRICS[name.removeprefix(PROBE_PREFIX)].label
    return f"probe's {label}" if name.startswith(PROBE_PREFIX) else label


def _diffusion_costs(benchmarks: Sequence[Benchmark], image_size: int) -> Mapping[tuple[int, ...], float]:
    """Seconds of a ControlNet's training step by latent shape, on the first card measured at the runs' image size."""
    for benchmark in benchmarks:
        if benchmark.image_size == image_size:
            return {each.latent_shape: each.controlnet.timing.seconds_per_batch.median for each in benchmark.diffusion}
    return {}


def _write(report: Report, models: Mapping[str, Model], validation: LayoutSource, out: Path) -> None:
    rows = tables.make_rows(report.results, report.confidence)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    atomic.write(out / "metrics.csv", text.getvalue().encode())
    content = {
        "layouts": report.num_layouts,
        "scenes": report.num_scenes,
        "config": report.config.to_dict(),
        "problems": [*report.found.unusable, *report.found.problems],
        "decisions": report.decisions,
        "training_cost": cost.training_costs(report.found.runs),
        "metrics": rows,
    }
    atomic.write(out / "metrics.json", (json.dumps(tables.to_json(content), indent=1) + "\n").encode())
    logger.info("Drawing ...")
    figures = gallery.draw(report, models, validation)
    for stale in {path.name for path in out.glob("*.png")} - {figure.file_name for figure in figures}:
        (out / stale).unlink()
    for figure in figures:
        atomic.write(out / figure.file_name, figure.png)
    atomic.write(out / "index.html", page.render(report, figures).encode())
