"""The report's numbers: metrics.csv, metrics.json and what the terminal shows."""

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Result
from imginav_jax.report.measurement.subjects import PROBE, RGB
from imginav_jax.runs.phase_folder import ComparedRun

# What stands in the small tables: header, output and metric.
HEADLINES = (
    ("MSE", RGB, "mse"),
    ("PSNR, dB", RGB, "psnr"),
    ("SSIM", RGB, "ssim"),
    ("mIoU", RGB, "mean_iou"),
    ("F@1 px", RGB, "boundary_f_1"),
    ("F@2 px", RGB, "boundary_f_2"),
    ("wall recall", RGB, "wall_recall"),
    ("wall clDice", RGB, "wall_cldice"),
    ("small objects", RGB, "small_object_recall"),
    ("palette", RGB, "palette_fidelity"),
    ("probe mIoU", PROBE, "mean_iou"),
)


def make_rows(results: Sequence[Result], confidence: float, data: str) -> list[dict[str, Any]]:
    """Returns one row a label and output: each metric, and the ends of its interval; `data`: synthetic or manifest."""
    rows = []
    for result in results:
        for output, estimates in result.estimates.items():
            height, width, channels = result.latent_shape
            row = {"label": result.label, "kind": result.kind, "output": output, "runs": result.num_runs, "data": data}
            row |= {"latent_height": height, "latent_width": width, "latent_channels": channels}
            for name in METRICS:
                estimate = estimates.get(name)
                low, high = estimate.interval(confidence) if estimate else (math.nan, math.nan)
                value = estimate.value if estimate else math.nan
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return rows


def to_json(value: Any) -> Any:
    """Numbers that JSON does not have become null."""
    if isinstance(value, Mapping):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def headline_cells(result: Result, confidence: float, judged: str = RGB) -> Iterator[tuple[str, str]]:
    """A result's values and intervals, as text, in the order of HEADLINES; by another output than RGB on request."""
    for _, output, name in HEADLINES:
        estimate, digits = result.estimate(judged if output == RGB else output, name), METRICS[name].digits
        if estimate is None or math.isnan(estimate.value):
            yield "-", ""
        else:
            low, high = estimate.interval(confidence)
            yield f"{estimate.value:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def draw_terminal(results: Sequence[Result], confidence: float, width: int) -> str:
    """The headline metrics, without intervals, as text of at most `width` columns."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("latent", no_wrap=True)
    for header, _, _ in HEADLINES:
        table.add_column(header, justify="right")
    for result in results:
        latent = "x".join(map(str, result.latent_shape))
        table.add_row(result.label, latent, *(value for value, _ in headline_cells(result, confidence)))
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return text.getvalue().rstrip()


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """Medians over the epochs that a run trained on one card."""

    run: str
    device: str  # number and kind
    precision: str
    epochs: int
    images_per_second: float
    epoch_seconds: float  # validation included
    peak_memory_mib: float  # of one device; on the CPU the compiler's estimate


def training_costs(runs: Sequence[ComparedRun]) -> list[TrainingCost]:
    """One a run and card, since a run may go on elsewhere; epochs that trained nothing do not count."""
    costs = []
    for run in runs:
        rows = [row for row in run.rows if row.get("device") and row.get("images_per_second") not in (None, "", "nan")]
        for device in dict.fromkeys(row["device"] for row in rows):
            there = [row for row in rows if row["device"] == device]
            columns = "images_per_second", "epoch_seconds", "peak_memory_mib"
            medians = [median(float(row[column]) for row in there) for column in columns]
            costs.append(TrainingCost(run.name, device, run.config.precision, len(there), *medians))
    return costs
