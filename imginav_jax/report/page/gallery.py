"""Every figure of the report, with what it shows: charts by matplotlib and pictures of layouts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from imginav_jax.datasets.pictures import picture_grid, spread_indices
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.decision.results import Report
from imginav_jax.report.measurement import smoothness
from imginav_jax.report.measurement.subjects import RGB, Model
from imginav_jax.report.page import control, figures, names, samples
from imginav_jax.report.page.picture import Picture, chart, photo
from imginav_jax.report.page.samples import Samples

MIDPOINTS = "Between two latents"  # section of the page
_LAYOUTS_SHOWN = 4
_PAIRS_SHOWN = 4
_CHARTED = (
    *("psnr", "ssim", "mean_iou", "palette_fidelity", "boundary_f_1", "boundary_f_2", "boundary_f_4"),
    *("boundary_iou_2", "boundary_iou_4", "wall_recall", "wall_precision", "wall_cldice"),
    *("small_object_recall", "wall_components_error", "wall_holes_error", "wall_boundary_f_1"),
)
_EXTREMES = (
    *("psnr", "ssim", "mean_iou", "boundary_f_1", "boundary_f_2", "boundary_iou_2"),
    *("wall_recall", "wall_cldice", "small_object_recall", "wall_holes_error"),
)


def draw(report: Report, models: Mapping[Path, Model], validation: LayoutSource) -> list[Picture]:
    """Returns all figures in the order in which the page shows them; `models` by workdir."""
    return [
        *_charts(report),
        *_control(report),
        *_midpoints(report, models, validation),
        *_layouts(report, models, validation),
    ]


def _charts(report: Report) -> Iterator[Picture]:
    results, groups, confidence = report.results, report.found.groups, report.confidence
    size = groups[0].runs[0].trained.image_size
    runs = ", ".join(group.label for group in groups)
    yield chart(
        "detail", "Spatial detail", figures.draw_detail(results, _CHARTED, confidence),
        f"Every metric with its {confidence:.0%} interval. A colour and a marker a run: filled for the snapped RGB "
        "output, hollow for the segmentation head; gray: without training for that resolution.",
        f"{len(_CHARTED)} panels, one a metric, with an interval in each for {runs} and the yardsticks. "
        f"{_say(report, 'mean_iou')}; {_say(report, 'wall_recall')}.",
    )  # fmt: skip
    for kind, name in (("iou", "Intersection over union"), ("psnr", "PSNR, dB,"), ("ssim", "SSIM")):
        yield chart(
            f"classes_{kind}", "Class by class", figures.draw_classes(results, kind),
            f"{name} on the pixels of every class.",
            f"Heat map with a number in each cell: {name} by class, a row for each output of {runs} and each "
            f"yardstick. On walls: {_say(report, f'{kind}_wall')}.",
            is_folded=kind != "iou",
        )  # fmt: skip
    yield chart(
        "bands", "Spatial detail", figures.draw_bands(results),
        "Where the error of the RGB output lies in spatial frequency: runs in colour, yardsticks gray and dashed.",
        f"Two line charts, error energy by band of spatial frequency and its share of the layouts' own, for {runs} and "
        f"the yardsticks. They sum to this {_say(report, 'mse')}.",
    )  # fmt: skip
    if len({group.latent_shape for group in groups}) > 1:
        yield chart(
        "quality_latent", "Resolution or volume", figures.draw_quality_against_latent(results, size, confidence),
        "Quality against the number of values in the latent: what R1, R2 and R3 vary together with the resolution.",
        f"Four scatter charts against the latent's size for {runs} and the yardsticks. {_say(report, 'psnr')}; "
        f"{_say(report, 'boundary_f_1')}.",
    )  # fmt: skip
    for number, benchmark in enumerate(report.benchmarks):
        if benchmark.image_size == size:
            yield chart(
                f"quality_cost_{number + 1}", "Quality against cost",
                figures.draw_quality_against_cost(results, benchmark, "boundary_f_1", confidence),
                f"Quality against the time of a diffusion model's training step, on {benchmark.device_kind}.",
                f"Two scatter charts on {benchmark.device_kind}, without and with ControlNet. "
                f"{_say(report, 'boundary_f_1')}.",
            )  # fmt: skip
    yield chart(
        "curves", "Training", figures.draw_curves(groups), "Loss and metrics by epoch, a line a run.",
        f"Four line charts by epoch for {runs}: loss, PSNR, mIoU of the segmentation head, its cross-entropy.",
    )  # fmt: skip


def _control(report: Report) -> Iterator[Picture]:
    for number, measured in enumerate(report.control, 1):
        yield from control.draw(measured.control, measured.scores, report.confidence, f"control_{number}_")
    for number, scores in enumerate(report.noise, 1):
        yield from control.draw_noise(scores, report.confidence, f"noise_{number}_")


def _midpoints(report: Report, models: Mapping[Path, Model], validation: LayoutSource) -> Iterator[Picture]:
    """Of each VAE test: two layouts, and what each model decodes from the middle between their latents."""
    if not report.smoothness:
        return  # without reading the whole split for its scenes
    settings, runs = report.config.smoothness, {group.label: group.runs[0] for group in report.found.groups}
    pairs = smoothness.choose_pairs(validation.scene_ids(), settings.pairs, settings.seed)
    few = pairs.begin(_PAIRS_SHOWN)
    for test in report.smoothness:
        labels = report.config.decision.vae_tests[test]
        made = [smoothness.decode_midpoints(models[runs[label].trained.directory], few, validation) for label in labels]
        first, second = (validation.images(each) for each in (few.first, few.second))
        captions = ["first layout", *(f"{label}: middle" for label in labels), "second layout"]
        picture = picture_grid([first, *made, second], captions)
        caption = "Two layouts, and what each model decodes from the mean of their latents."
        alt = f"Pictures in a grid, a row a pair; columns: {', '.join(captions)}."
        yield photo(f"midpoints_{test}", MIDPOINTS, caption, picture, alt)


def _say(report: Report, metric: str) -> str:
    """A metric's name and its value for each run."""
    estimates = [(each.label, each.estimate(RGB, metric)) for each in report.results if each.kind == "run"]
    values = [f"{label} {each.value:.{METRICS[metric].digits}f}" for label, each in estimates if each is not None]
    return f"{names.call(metric)}: {', '.join(values)}"


def _layouts(report: Report, models: Mapping[Path, Model], validation: LayoutSource) -> Iterator[Picture]:
    results = [result for result in report.results if result.kind == "run"]
    shown = spread_indices(len(validation), _LAYOUTS_SHOWN)
    extremes = {metric: found for metric in _EXTREMES if (found := samples.find_extremes(results, metric))}
    reconstruct = {group.label: models[group.runs[0].trained.directory].reconstruct for group in report.found.groups}
    chosen = Samples.make([*shown, *(index for each in extremes.values() for index in each)], validation, reconstruct)
    runs = ", ".join(reconstruct)
    for index in shown:
        picture, rows = samples.draw_layout(index, chosen)
        alt = f"Pictures in a grid; columns: original, {runs}; rows from above: {'; '.join(rows)}."
        name = f"layout_{index:06d}"
        caption = f"Layout {validation.layout_id(index)}; in full size: {name}.png."
        yield photo(name, "The same layouts", caption, picture, alt)
    for metric, found in extremes.items():
        caption = f"The best, the median and the worst layout by {METRICS[metric].label}, mean of the runs."
        lines = samples.describe_extremes(results, metric, found, chosen)
        alt = f"Pictures in a grid; columns: original, {runs}; rows by {METRICS[metric].label}, {'; '.join(lines)}."
        picture = samples.draw_extremes(results, metric, found, chosen)
        yield photo(f"extremes_{metric}", "Best, median and worst", caption, picture, alt, is_strip=True)
