"""The report's page: one HTML file that opens from disk, its figures inside."""

import base64
import io
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup
from PIL import Image

from imginav_jax.report.decision.metrics import METRICS, definition
from imginav_jax.report.decision.results import Report, Result
from imginav_jax.report.measurement.subjects import SEGMENTATION
from imginav_jax.report.page import published, tables
from imginav_jax.report.page.gallery import Picture
from imginav_jax.runs import phase_folder
from imginav_jax.system import versions

_WIDEST_STRIP = 1200  # pixels


def render(report: Report, pictures: Sequence[Picture]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imginav_jax.report.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    found = report.found
    return environment.get_template("page.html.j2").render(
        report=report,
        headers=[header for header, _, _ in tables.HEADLINES],
        headlines=_headlines(report),
        sections=_by_section(pictures),
        published={group.label: _published(group.runs[0]) for group in found.groups},
        has_one_seed=any(len(group.runs) == 1 for group in found.groups),
        costs_on=report.costs_on,
        training_costs=tables.training_costs(found.runs),
        differing=phase_folder.differing_settings(found.runs),
        definitions=_definitions(),
        program=", ".join(f"{name} {value}" for name, value in versions.stamp().items() if value),
        data_kind=found.runs[0].trained.data["kind"],
    )


def _headlines(report: Report) -> list[tuple[str, Result, list[tuple[str, str]]]]:
    """Name, result and cells of a row: each result by its RGB output, then the runs by their segmentation heads."""
    rows = [(each.label, each, list(tables.headline_cells(each, report.confidence))) for each in report.results]
    for each in report.results:
        if each.kind == "run" and SEGMENTATION in each.estimates:
            cells = list(tables.headline_cells(each, report.confidence, SEGMENTATION))
            rows.append((f"{each.label}, segmentation head", each, cells))
    return rows


def _data_uri(picture: Picture) -> Markup:
    """A strip of many layouts at half its size: the page would be slow; the file beside it is whole."""
    png = picture.png
    if picture.is_strip:
        with Image.open(io.BytesIO(png)) as image:
            if image.width > _WIDEST_STRIP:
                size = _WIDEST_STRIP, round(image.height * _WIDEST_STRIP / image.width)
                content = io.BytesIO()
                image.resize(size, Image.Resampling.LANCZOS).save(content, format="PNG")
                png = content.getvalue()
    return Markup(f"data:image/png;base64,{base64.b64encode(png).decode()}")


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


def _definitions() -> dict[str, list[str]]:
    """Labels by definition: metrics that differ in a tolerance, a class or a band share one."""
    labels: dict[str, list[str]] = {}
    for metric in METRICS.values():
        labels.setdefault(definition(metric), []).append(metric.label)
    return labels
