"""The report's charts, by matplotlib: each function draws one figure from results and returns it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imginav_jax.datasets import palette
from imginav_jax.report.decision.bootstrap import Estimate
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Result
from imginav_jax.report.measurement import fidelity
from imginav_jax.report.measurement.subjects import PROBE, RGB, SEGMENTATION
from imginav_jax.report.page import names, published
from imginav_jax.runs.phase_folder import Group
from imginav_jax.runs.results.benchmark_file import Benchmark

mpl.rcdefaults()  # a matplotlibrc of the current folder has no say
mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "savefig.dpi": 110})

# Okabe & Ito 2008, "Color Universal Design": told apart with each kind of colour blindness; without its yellow.
_RUN_COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"
_RUN_MARKERS = "osD^pXhP"  # as many as have no common factor with the colours: 56 runs look different
_BASELINE_COLOR = "0.5"
_METHOD_MARKERS = "v<>d*1+x2"
_DASHES = (1, 1.5), (4, 1.5), (4, 1.5, 1, 1.5), (8, 2)


class _Style(NamedTuple):
    method: str  # of a yardstick, empty for a run
    color: str
    marker: str


def run_style(number: int) -> _Style:
    """Returns the look of the run of a number: the first seven differ in colour and in marker, 56 in one of them."""
    return _Style("", _RUN_COLORS[number % len(_RUN_COLORS)], _RUN_MARKERS[number % len(_RUN_MARKERS)])


def _styles(results: Sequence[Result]) -> dict[str, _Style]:
    """By label, the same in every figure: runs in colour, yardsticks in gray; a marker a run or a method."""
    methods = list(dict.fromkeys(_method(result) for result in results if result.kind == "baseline"))
    styles = {}
    for result in results:
        if result.kind == "run":
            styles[result.label] = run_style(len([each for each in styles.values() if not each.method]))
        else:
            method = _method(result)
            marker = _METHOD_MARKERS[methods.index(method) % len(_METHOD_MARKERS)]
            styles[result.label] = _Style(method, _BASELINE_COLOR, marker)
    return styles


def _method(result: Result) -> str:
    """Of a yardstick, without its resolution."""
    return result.label.partition(",")[0]


def draw_curves(groups: Sequence[Group]) -> Figure:
    """Draws loss and metrics by epoch, a line a run; the training loss dashed."""
    panels = [
        ("val_loss", "validation loss (training dashed)", "log"),
        ("val_PSNR", "validation PSNR, dB", "linear"),
        ("val_mIoU", f"validation {names.call('mean_iou', SEGMENTATION)}", "linear"),
        ("val_CE_segmentation", "weighted segmentation CE", "log"),
    ]
    figure, axes = subplots(1, len(panels), width=3.4, height=3.2)
    for axis, (column, title, scale) in zip(axes, panels, strict=True):
        for index, group in enumerate(groups):
            style = run_style(index)
            for number, run in enumerate(group.runs):
                label = group.label if number == 0 else None
                look = {"color": style.color, "marker": style.marker, "markersize": 4}
                _draw_column(axis, run.rows, column, label=label, **look)
                if column == "val_loss":
                    dashed = f"{label}, training" if label else None
                    _draw_column(axis, run.rows, "train_loss", label=dashed, linestyle="--", alpha=0.6, **look)
        axis.set(title=title, xlabel="epoch", yscale=scale)
        axis.title.set_fontsize(9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, axes[0])
    return figure


def _draw_column(axis: Axes, rows: Sequence[Mapping[str, str]], column: str, **style: object) -> None:
    points = [(float(row["epoch"]), float(row[column])) for row in rows if row.get(column)]
    if points:
        axis.plot(*zip(*points, strict=True), **style)  # pyright: ignore[reportArgumentType]


def draw_detail(results: Sequence[Result], metrics: Sequence[str], confidence: float) -> Figure:
    """Draws every metric with its interval: runs and their outputs in colour, yardsticks in gray."""
    rows = [(result, output) for result in results for output in (RGB, SEGMENTATION) if output in result.estimates]
    rows = [(result, output) for result, output in rows if result.kind == "run" or output == RGB]
    columns = 4
    lines = -(-len(metrics) // columns)
    figure, axes = subplots(lines, columns, width=3.2, height=0.5 + 0.19 * len(rows), sharey=True)
    styles = _styles(results)
    for axis, name in zip(axes, metrics, strict=False):
        for position, (result, output) in enumerate(rows):
            estimate = result.estimate(output, name)
            if estimate is None:
                continue
            low, high = estimate.interval(confidence)
            style = styles[result.label]
            axis.plot([low, high], [position, position], color=style.color, linewidth=2, solid_capstyle="butt")
            fill = style.color if output == RGB else "white"
            axis.plot([estimate.value], [position], style.marker, color=style.color, mfc=fill, markersize=4.5)
        axis.set(title=names.with_unit(name))
        axis.title.set_fontsize(9)
    labels = [f"{result.label}{', segmentation head' if output == SEGMENTATION else ''}" for result, output in rows]
    for axis in axes[::columns]:
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.5, -0.5)
    _hide(axes[len(metrics) :])
    return figure


def draw_classes(results: Sequence[Result], kind: str) -> Figure:
    """Draws a metric of each class, as a heat map; `kind` is iou (of every output), psnr or ssim (of pictures)."""
    metrics = [f"{kind}_{name}" for name in palette.CLASS_NAMES]
    rows = [
        (result, output)
        for result in results
        for output in (RGB, SEGMENTATION, PROBE)
        if result.estimate(output, metrics[0]) is not None and (result.kind == "run" or output == RGB)
    ]
    values = np.array([[result.estimates[output][name].value for name in metrics] for result, output in rows])
    shown = np.where(np.isfinite(values), values, np.nan)
    figure, (axis,) = subplots(1, 1, width=9, height=1.2 + 0.24 * len(rows))
    picture = axis.imshow(np.ma.masked_invalid(shown), cmap="viridis", aspect="auto")
    digits, bright = METRICS[metrics[0]].digits, np.asarray(picture.norm(shown)) > 0.6
    for (row, column), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else f"{value:.{digits}f}"
        color = "black" if bright[row, column] else "white"
        axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    axis.set_xticks(range(len(metrics)), palette.CLASS_NAMES, rotation=30, ha="right")
    axis.set_yticks(range(len(rows)), [f"{result.label}, {names.OUTPUTS[output]}" for result, output in rows])
    unit = f", {METRICS[metrics[0]].unit}" if METRICS[metrics[0]].unit else ""
    axis.set_title(METRICS[metrics[0]].label.partition(",")[0] + unit + ", higher is better")
    axis.grid(visible=False)
    return figure


def draw_bands(results: Sequence[Result]) -> Figure:
    """Draws error energy by spatial frequency, and as a share of what the layouts have there."""
    bands = [name for name in fidelity.BAND_NAMES if _has_band(results, name)]
    figure, axes = subplots(1, 2, width=6.4, height=4.6)
    styles = _styles(results)
    yardsticks = [result.label for result in results if result.kind == "baseline"]
    for axis, kind, title in (
        (axes[0], "band_error", "error energy (sums to the MSE)"),
        (axes[1], "band_error_share", "error energy / the layouts' own energy"),
    ):
        for result in results:
            values = [result.estimates[RGB][f"{kind}_{name}"].value for name in bands if RGB in result.estimates]
            if not values:
                continue
            style = styles[result.label]
            look, width, order = "-", 1.5, 3  # a run lies over the yardsticks
            if result.kind == "baseline":
                look, width, order = (0, _DASHES[yardsticks.index(result.label) % len(_DASHES)]), 0.9, 2
            (line,) = axis.plot(values, marker=style.marker, color=style.color, label=result.label, markersize=4)
            line.set(linestyle=look, linewidth=width, zorder=order)
        axis.set_xticks(range(len(bands)), [name.replace("_", " to ").replace("to up", "up") for name in bands])
        axis.set(title=title, xlabel="cycles an image", yscale="log")
    add_legend(figure, axes[0])
    return figure


def _has_band(results: Sequence[Result], band: str) -> bool:
    """Small pictures have no high frequencies."""
    values = [result.estimates[RGB][f"band_error_{band}"].value for result in results if RGB in result.estimates]
    return any(value > 0 for value in values)


def draw_quality_against_latent(results: Sequence[Result], image_size: int, confidence: float) -> Figure:
    """Draws quality by the number of values in the latent, which V1, V2 and V3 have in common."""
    panels = [("psnr", RGB), ("boundary_f_1", RGB), ("wall_cldice", RGB), ("mean_iou", PROBE)]
    figure, axes = subplots(1, len(panels), width=3.4, height=3.8)
    styles = _styles(results)
    for axis, (name, output) in zip(axes, panels, strict=True):
        for result in results:
            estimate = result.estimate(output, name)
            if estimate is None or np.isinf(estimate.value):
                continue
            _draw_point(axis, result.latent_values, result, estimate, confidence, styles[result.label])
        if name == "psnr" and image_size == published.IMAGE_SIZE:
            for each in published.ORIGINAL:
                side = image_size // 2**each.downsampling_steps
                axis.plot(side**2 * each.latent_channels, each.psnr, "x", color="black")
            axis.plot([], [], "x", color="black", label="published by the original")
        axis.set(title=names.with_unit(name, output), xlabel="values in the latent")
        axis.title.set_fontsize(9)
        axis.set_xscale("log", base=2)
        axis.margins(0.1)
    _explain(figure, axes[0], results)
    return figure


def draw_quality_against_cost(
    results: Sequence[Result], benchmark: Benchmark, metric: str, confidence: float
) -> Figure:
    """Draws quality by the time of a diffusion model's training step on that latent, on one card."""
    panels = [("unet", "U-Net"), ("controlnet", "U-Net with ControlNet")]
    figure, axes = subplots(1, len(panels), width=6, height=4)
    styles = _styles(results)
    seconds = {tuple(each.latent_shape): each for each in benchmark.diffusion}
    for axis, (part, title) in zip(axes, panels, strict=True):
        for result in results:
            estimate = result.estimate(RGB, metric)
            if result.latent_shape in seconds and estimate is not None:
                cost = 1000 * getattr(seconds[result.latent_shape], part).timing.seconds_per_batch.median
                _draw_point(axis, cost, result, estimate, confidence, styles[result.label])
        axis.set(title=f"{title}\n{benchmark.device_kind}, {benchmark.precision}", ylabel=names.with_unit(metric))
        axis.set(xlabel=f"ms a training step of {benchmark.batch_size} latents")
        axis.margins(0.1)
        axis.set_xlim(left=0)
    _explain(figure, axes[0], [result for result in results if result.latent_shape in seconds])
    return figure


def _draw_point(axis: Axes, x: float, result: Result, estimate: Estimate, confidence: float, style: _Style) -> None:
    low, high = estimate.interval(confidence)
    order = 3 if result.kind == "run" else 2
    axis.plot([x, x], [low, high], color=style.color, linewidth=1.5, zorder=order)
    axis.plot([x], [estimate.value], style.marker, color=style.color, markersize=5, zorder=order)


def _explain(figure: Figure, axis: Axes, results: Sequence[Result]) -> None:
    """A legend of the runs and of the yardsticks' methods."""
    styles = _styles(results)
    for label in {style.method or label: None for label, style in styles.items()}:
        style = next(each for name, each in styles.items() if label in (name, each.method))
        axis.plot([], [], style.marker, color=style.color, label=label, markersize=5)
    add_legend(figure, axis)


def add_legend(figure: Figure, axis: Axes) -> None:
    """Draws the legend below all panels, where it covers nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        columns = min(len(labels), max(2, int(figure.get_figwidth() // 2.6)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def subplots(
    rows: int, columns: int, *, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Axes in reading order; sizes are of one panel, in inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)


def _hide(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_visible(False)
