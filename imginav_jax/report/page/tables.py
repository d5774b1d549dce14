"""The report's numbers: metrics.csv, metrics.json and what the terminal shows."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Result
from imginav_jax.report.measurement.subjects import PROBE, RGB
from imginav_jax.report.page import names
from imginav_jax.runs.phase_folder import ComparedRun

# What stands in the small tables: output and metric.
HEADLINES = (
    (RGB, "mse"),
    (RGB, "psnr"),
    (RGB, "ssim"),
    (RGB, "mean_iou"),
    (RGB, "boundary_f_1"),
    (RGB, "boundary_f_2"),
    (RGB, "wall_recall"),
    (RGB, "wall_cldice"),
    (RGB, "small_object_recall"),
    (RGB, "palette_fidelity"),
    (PROBE, "mean_iou"),
)
_TOO_MUCH_FOR_A_TERMINAL = "mse", "boundary_f_2", "palette_fidelity"  # PSNR says the same, F at 1 px more
_NUMBER_WIDTH = 5  # characters: 22.33, 0.792


class Cell(NamedTuple):
    """A number as it stands in a table, with its interval; NaN and a dash where there is none."""

    value: float
    text: str
    interval: str


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


def to_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns rows of the same columns as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_json(value: Any) -> Any:
    """Numbers that JSON does not have become null."""
    if isinstance(value, Mapping):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def headline_cells(result: Result, confidence: float, judged: str = RGB) -> Iterator[Cell]:
    """Yields a result's values and intervals, in the order of HEADLINES; by another output than RGB on request."""
    for output, name in HEADLINES:
        estimate, digits = result.estimate(judged if output == RGB else output, name), METRICS[name].digits
        if estimate is None or math.isnan(estimate.value):
            yield Cell(math.nan, "-", "")
        else:
            low, high = estimate.interval(confidence)
            yield Cell(estimate.value, f"{estimate.value:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}")


def draw_terminal(results: Sequence[Result], confidence: float, width: int) -> str:
    """Returns the headline metrics that fit, without intervals, as text of at most `width` columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("")
    table.add_column("latent", no_wrap=True)
    shown = [position for position, (_, name) in enumerate(HEADLINES) if name not in _TOO_MUCH_FOR_A_TERMINAL]
    for output, name in (HEADLINES[position] for position in shown):
        header = names.with_unit(name, output)
        table.add_column(header, justify="right", width=max(_NUMBER_WIDTH, *map(len, header.split())))
    for result in results:
        cells = list(headline_cells(result, confidence))
        latent = "x".join(map(str, result.latent_shape))
        table.add_row(result.label, latent, *(cells[position].text for position in shown))
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, "Where no output is named, classes are those of the RGB output snapped to the palette."])


@dataclasses.dataclass(frozen=True)
class PosteriorRow:
    """What the encoder of a variational run says of the validation split, at the epoch that is compared."""

    run: str
    weight: float  # of the KL divergence in the loss
    kl: float  # nats a latent value
    active_channels: int
    channels: int


def posteriors(runs: Sequence[ComparedRun]) -> list[PosteriorRow]:
    """Returns one a variational run whose CSV has the epoch of its best weights."""
    found = []
    for run in runs:
        config = run.trained.weights.config
        rows = [row for row in run.rows if float(row["step"]) == run.trained.weights.step and "val_KLD" in row]
        if config.variational and rows:
            kl = float(rows[0]["val_KLD"]) / run.config.loss.kl
            active = int(float(rows[0]["val_active_channels"]))
            found.append(PosteriorRow(run.name, run.config.loss.kl, kl, active, config.latent_channels))
    return found


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
    """Returns one a run and card, since a run may go on elsewhere; epochs that trained nothing do not count."""
    costs = []
    for run in runs:
        rows = [row for row in run.rows if row.get("device") and row.get("images_per_second") not in (None, "", "nan")]
        for device in dict.fromkeys(row["device"] for row in rows):
            there = [row for row in rows if row["device"] == device]
            columns = "images_per_second", "epoch_seconds", "peak_memory_mib"
            medians = [median(float(row[column]) for row in there) for column in columns]
            costs.append(TrainingCost(run.name, device, run.config.precision, len(there), *medians))
    return costs
