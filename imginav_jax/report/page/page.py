"""The report's page: one HTML file that opens from disk, its figures inside."""

import base64
import datetime
import inspect
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from imginav_jax.report.decision import vae
from imginav_jax.report.decision.control import MeasuredControl, say
from imginav_jax.report.decision.metrics import DEMAND_METRICS, METRICS, Metric, definition
from imginav_jax.report.decision.results import Report, Result
from imginav_jax.report.measurement import fidelity, realism
from imginav_jax.report.measurement.subjects import RGB, SEGMENTATION
from imginav_jax.report.page import control, gallery, names, published, tables
from imginav_jax.report.page.picture import Picture
from imginav_jax.report.page.tables import Cell
from imginav_jax.runs import phase_folder
from imginav_jax.system import versions

_WIDEST_STRIP, _WIDEST_LAYOUT = 1200, 1800  # pixels
_MIDPOINTS = {vae.PALETTE: fidelity.palette_fidelity, vae.MMD: realism.compare_mmd}
_QUALITY = 80  # of WebP: what is lost of a strip, how much time is taken for the others


class _Row(NamedTuple):
    """A row of the table of metrics.

    Attributes:
      output: whose classes are judged, for people.
      original: what the original has published of the same model; None where it has nothing.
    """

    result: Result
    output: str
    cells: list[Cell]
    original: published.Published | None


class _Control(NamedTuple):
    """What the page says of one measurement of control."""

    measured: MeasuredControl
    sentence: str
    table: dict[str, list[control.Cell]]
    details: list[control.Detail]

    @classmethod
    def of(cls, measured: MeasuredControl, confidence: float) -> "_Control":
        scores = measured.scores
        return cls(measured, say(scores), control.table(scores, confidence), control.details(scores, confidence))


def render(report: Report, pictures: Sequence[Picture]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imginav_jax.report.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "anchor": _anchor, "verdict_class": _verdict_class}
    environment.filters["arm_name"] = names.call_arm
    environment.filters["score_name"] = lambda score: DEMAND_METRICS[score.metric].label
    found, headlines = report.found, _headlines(report)
    return environment.get_template("page.html.j2").render(
        report=report,
        headers=[names.with_unit(metric, output) for output, metric in tables.HEADLINES],
        headlines=headlines,
        has_originals=any(row.original for row in headlines),
        sections=_by_section(pictures),
        realism_definitions={
            "statistics of a drawing": inspect.getdoc(realism.features),
            "MMD²": inspect.getdoc(realism.mmd),
            "copied": inspect.getdoc(realism.is_copied),
        },
        has_one_seed=any(len(group.runs) == 1 for group in found.groups),
        midpoint_section=gallery.MIDPOINTS,
        control_section=control.SECTION,
        control_headers=control.HEADERS,
        controls=[_Control.of(each, report.confidence) for each in report.control],
        posteriors=tables.posteriors(found.runs),
        midpoint_definitions={name: inspect.getdoc(function) or "" for name, function in _MIDPOINTS.items()},
        training_costs=tables.training_costs(found.runs),
        differing=phase_folder.differing_settings(found.runs),
        definitions=_definitions(),
        date=_date(found.runs),
        command=shlex.join(["python", "-m", "imginav_jax.report", *map(str, found.asked)]),
        program=versions.stamp(),
    )


def _headlines(report: Report) -> list[_Row]:
    """Each result by its RGB output, then the runs by their segmentation heads."""
    originals = {group.label: _published(group.runs[0]) for group in report.found.groups}
    rows = [(each, RGB, originals.get(each.label)) for each in report.results]
    runs = [each for each in report.results if each.kind == "run"]
    rows += [(each, SEGMENTATION, None) for each in runs if SEGMENTATION in each.estimates]
    return [
        _Row(each, names.OUTPUTS[output], list(tables.headline_cells(each, report.confidence, output)), original)
        for each, output, original in rows
    ]


def _date(runs: Sequence[phase_folder.ComparedRun]) -> str:
    """When the newest metrics of the runs were written; not when the page was, which is the same page each time."""
    times = [path.stat().st_mtime for run in runs for path in run.trained.directory.glob("*_metrics.csv")]
    return f"{datetime.datetime.fromtimestamp(max(times), datetime.UTC):%Y-%m-%d %H:%M} UTC" if times else "not known"


def _anchor(section: str) -> str:
    return section.lower().replace(" ", "-").replace(",", "")


def _verdict_class(verdict: str) -> str:
    return "undecided-text" if verdict == "undecided" else verdict


def _data_uri(picture: Picture) -> Markup:
    """As WebP, which is a third of the PNG; a page of several large layouts stays small: the file beside it is whole.

    Charts keep every pixel, and so do layouts that are not wider than the page.
    """
    content = io.BytesIO()
    with Image.open(io.BytesIO(picture.png)) as image:
        shown, widest = image.convert("RGB"), _WIDEST_STRIP if picture.is_strip else _WIDEST_LAYOUT
        is_whole = picture.is_chart or (image.width <= widest and not picture.is_strip)
        if image.width > widest and not picture.is_chart:
            size = widest, round(image.height * widest / image.width)
            shown = shown.resize(size, Image.Resampling.LANCZOS)
        shown.save(content, format="WEBP", lossless=is_whole, quality=_QUALITY, method=4)
    return Markup(f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}")


def _by_section(pictures: Sequence[Picture]) -> Mapping[str, list[Picture]]:
    sections: dict[str, list[Picture]] = {}
    for picture in pictures:
        sections.setdefault(picture.section, []).append(picture)
    return sections


def _published(run: phase_folder.ComparedRun) -> published.Published | None:
    """Of the same architecture, where the images are of the size that it was published for."""
    config = run.trained.weights.config
    if run.trained.image_size != published.IMAGE_SIZE or config.shortcuts:
        return None
    return published.find(config.downsampling_steps, config.latent_channels)


def _definitions() -> dict[str, list[Metric]]:
    """Metrics by definition: those that differ in a tolerance, a class or a band share one."""
    metrics: dict[str, list[Metric]] = {}
    for metric in (*METRICS.values(), *DEMAND_METRICS.values()):
        metrics.setdefault(definition(metric), []).append(metric)
    return metrics
