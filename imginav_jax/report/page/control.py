"""What a measurement of control looks like: table, curves, and pictures of what was demanded and what was drawn."""

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from imginav_jax.datasets.pictures import color_classes, picture_grid
from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.control import NEARLY, ControlScore, CurvePoint, NoiseScore
from imginav_jax.report.decision.metrics import DEMAND_METRICS, METRICS
from imginav_jax.report.page import figures, names
from imginav_jax.report.page.picture import Picture, chart, photo
from imginav_jax.runs.results.control_file import Control

SECTION = "Control, measured"
_KINDS = ("ceiling", "drawn", "drawn_equal_flops", "blind", "shuffled")


class Cell(NamedTuple):
    """What stands in one place of the table: a value, and what is smaller below it."""

    text: str
    below: str = ""


HEADERS = (
    "latent", "autoencoder allows", "told nothing", "told another's", "equal steps", "gap", "equal FLOPs",
    f"s to {NEARLY:.0%}", f"TFLOP to {NEARLY:.0%}", "MMD²", "MMD² of the autoencoder", "copied",
)  # fmt: skip


def table(scores: Sequence[ControlScore], confidence: float) -> dict[str, list[Cell]]:
    """Returns the cells of each label, in the order of HEADERS."""
    return {each.label: list(_cells(each, confidence)) for each in scores}


def _cells(score: ControlScore, confidence: float) -> Iterator[Cell]:
    metric = score.metric
    yield Cell("x".join(map(str, score.latent_shape)))
    for estimate in (
        score.ceiling[metric], score.blind[metric], score.shuffled[metric], score.score, score.gap,
        score.drawn_equal_flops[metric],
    ):  # fmt: skip
        yield _cell(estimate, confidence, 3)
    there = score.nearly_there
    yield Cell(f"{there.seconds:,.0f}" if there else "-")
    yield Cell(f"{there.flops / 1e12:,.2f}" if there else "-")
    for mmd in (score.realism, score.best_realism):
        yield Cell(f"{mmd.value:.3g}", f"{mmd.low:.3g} to {mmd.high:.3g}")
    yield Cell(f"{score.copied:.0%}")


def _cell(estimate: Estimate, confidence: float, digits: int) -> Cell:
    if math.isnan(estimate.value):
        return Cell("-")
    low, high = estimate.interval(confidence)
    return Cell(f"{estimate.value:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}")


def draw_terminal(scores: Sequence[ControlScore], confidence: float, width: int) -> str:
    """Returns the table with the score's intervals, as text of at most `width` columns."""
    shown = [0, 1, 3, 4, 6, 7, 9, 11]
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("")
    for position in shown:
        made.add_column(HEADERS[position], justify="right")
    for label, cells in table(scores, confidence).items():
        texts = [f"{cell.text}\n{cell.below}" if cell.below else cell.text for cell in (cells[at] for at in shown)]
        made.add_row(label, *texts)
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(made)
    score = f"Scores: {DEMAND_METRICS[scores[0].metric].label} of held-out layouts."
    return "\n".join([*(line.rstrip() for line in text.getvalue().splitlines()), score])


def make_rows(scores: Sequence[ControlScore], confidence: float) -> list[dict[str, Any]]:
    """Returns one row a latent and kind of picture: each metric of DEMAND_METRICS, and the ends of its interval."""
    rows = []
    for score in scores:
        for kind in _KINDS:
            row: dict[str, Any] = {"label": score.label, "pictures": kind, "trainings": score.num_trials}
            for name, estimate in getattr(score, kind).items():
                low, high = estimate.interval(confidence)
                row |= {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return rows


class Detail(NamedTuple):
    """One metric of every latent, for the folded table."""

    name: str
    cells: list[list[Cell]]  # by latent: what the autoencoder allows, drawn, told another's


def details(scores: Sequence[ControlScore], confidence: float) -> list[Detail]:
    """Returns every metric of DEMAND_METRICS."""
    return [
        Detail(
            f"{metric.label}{f', {metric.unit}' if metric.unit else ''} {names.ARROWS[metric.is_better]}",
            [
                [_cell(each[name], confidence, metric.digits) for each in (score.ceiling, score.drawn, score.shuffled)]
                for score in scores
            ],
        )
        for name, metric in DEMAND_METRICS.items()
    ]


def draw(control: Control, scores: Sequence[ControlScore], confidence: float, prefix: str) -> Iterator[Picture]:
    """Yields the curves and the pictures of one measurement; `prefix` of their files' names."""
    label = DEMAND_METRICS[scores[0].metric].label
    said = "; ".join(f"{each.label} {each.score.value:.2f}" for each in scores)
    yield chart(
        f"{prefix}curves", SECTION, draw_curves(scores, confidence),
        f"{label} of drawings and demands, by training: at equal steps, against FLOPs and against time. Dashed: what "
        "the autoencoder allows; dotted: against what another layout demands, which is chance.",
        f"Three line charts. Last scores at equal steps: {said}.",
    )  # fmt: skip
    first = {each.label: each for each in reversed(control.latents)}
    shown = [first[score.label] for score in scores]
    columns = [color_classes(shown[0].pictures[:, 0])]
    titles = ["demanded"]
    for each in shown:
        columns += [color_classes(each.pictures[:, number]) for number in (1, 2)]
        titles += [each.label.partition(",")[0], ""]
    yield photo(
        f"{prefix}pictures", SECTION,
        "Demanded layouts, and two drawings of each from unlike noise, snapped to the palette.",
        picture_grid(columns, titles),
        f"Pictures in a grid; columns: demanded, then two drawings each on {', '.join(filter(None, titles[1:]))}.",
    )  # fmt: skip


def draw_curves(scores: Sequence[ControlScore], confidence: float) -> Figure:
    """Draws the score by ControlNet steps, by FLOPs and by seconds of all training."""
    label = DEMAND_METRICS[scores[0].metric].label
    figure, axes = figures.subplots(1, 3, width=4.0, height=3.6)
    for index, score in enumerate(scores):
        style = figures.run_style(index)
        steps, flops = score.equal_steps, score.equal_flops
        of_steps, of_flops, of_seconds = (
            (lambda point: point.step), (lambda point: point.flops / 1e12), (lambda point: point.seconds),
        )  # fmt: skip
        for axis, curve, place in zip(axes, (steps, flops, flops), (of_steps, of_flops, of_seconds), strict=True):
            _draw_curve(axis, curve, place, style, score.label, confidence)
            for value, look in ((score.ceiling[score.metric].value, "--"), (score.shuffled[score.metric].value, ":")):
                axis.axhline(value, color=style.color, linestyle=look, linewidth=0.9, alpha=0.7)
    for axis, title, below in (
        (axes[0], "at equal steps", "steps of the ControlNet"),
        (axes[1], "at equal FLOPs", "TFLOP of all training"),
        (axes[2], "at equal FLOPs", "seconds of all training"),
    ):
        axis.set(title=f"{label}, {title}", xlabel=below)
        axis.title.set_fontsize(9)
        axis.set_ylim(0, 1)
    figures.add_legend(figure, axes[0])
    return figure


def _draw_curve(axis: Axes, curve: Sequence[CurvePoint], place: Any, style: Any, label: str, confidence: float) -> None:
    at = [place(point) for point in curve]
    ends = [point.score.interval(confidence) for point in curve]
    look = {"color": style.color, "marker": style.marker, "markersize": 4}
    axis.plot(at, [point.score.value for point in curve], label=label, linewidth=1.4, **look)
    axis.fill_between(at, [low for low, _ in ends], [high for _, high in ends], color=style.color, alpha=0.12)


def draw_noise(scores: Sequence[NoiseScore], confidence: float, prefix: str) -> Iterator[Picture]:
    """Yields the chart of noise tolerance; its metrics are those that were estimated."""
    said = []
    for label in dict.fromkeys(each.label for each in scores):
        values = [each for each in scores if each.label == label]
        name = next(iter(values[0].estimates))
        said.append(f"{label} {', '.join(f'{each.estimates[name].value:.2f}' for each in values)}")
    yield chart(
        f"{prefix}noise", SECTION, draw_noise_curves(scores, confidence),
        "Noise tolerance: what is left of a layout that is decoded from its latent with noise in it; above by the "
        "noise's deviation, below by the bits that the latent carries through it at most.",
        f"Line charts. {METRICS[next(iter(scores[0].estimates))].label}, without noise first: {'; '.join(said)}.",
    )  # fmt: skip


def draw_noise_curves(scores: Sequence[NoiseScore], confidence: float) -> Figure:
    """Draws each metric by the noise's deviation, and by the bits that the latent carries at most."""
    metrics = list(scores[0].estimates)
    figure, axes = figures.subplots(2, len(metrics), width=3.2, height=2.8)
    for index, label in enumerate(dict.fromkeys(each.label for each in scores)):
        points, style = [each for each in scores if each.label == label], figures.run_style(index)
        noisy = [each for each in points if each.sigma > 0]
        for number, name in enumerate(metrics):
            _draw_line(axes[number], points, name, "sigma", style, label, confidence)
            _draw_line(axes[number + len(metrics)], noisy, name, "bits", style, label, confidence)
    for number, name in enumerate(metrics):
        axes[number].set(title=names.with_unit(name), xlabel="noise, deviations of the latent")
        axes[number + len(metrics)].set(xlabel="bits, at most", xscale="log")
        axes[number].title.set_fontsize(9)
    figures.add_legend(figure, axes[0])
    return figure


def _draw_line(
    axis: Axes, points: Sequence[NoiseScore], metric: str, place: str, style: Any, label: str, confidence: float
) -> None:
    at = [getattr(each, place) for each in points]
    ends = [each.estimates[metric].interval(confidence) for each in points]
    values = [each.estimates[metric].value for each in points]
    axis.plot(at, values, color=style.color, marker=style.marker, markersize=4, label=label, linewidth=1.4)
    axis.fill_between(at, [low for low, _ in ends], [high for _, high in ends], color=style.color, alpha=0.12)
