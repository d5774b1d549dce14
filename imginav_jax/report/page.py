"""The report's page: one HTML file that opens from disk, its figures inside."""

import base64
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from imginav_jax.report import cost, published, runs, tables
from imginav_jax.report.gallery import Picture
from imginav_jax.report.metric_table import METRICS, definition
from imginav_jax.report.results import Report


def render(report: Report, pictures: Sequence[Picture]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imginav_jax.report", "."),
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
        headlines=list(zip(report.results, tables.headline_cells(report.results, report.confidence), strict=True)),
        sections=_by_section(pictures),
        published={run.name: _published(run) for run in found.runs},
        training_costs=cost.training_costs(found.runs),
        differing=runs.differing_settings(found.runs),
        definitions=_definitions(),
        data_kind=found.runs[0].trained.data["kind"],
    )


def _data_uri(png: bytes) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(png).decode()}")


def _by_section(pictures: Sequence[Picture]) -> Mapping[str, list[Picture]]:
    sections: dict[str, list[Picture]] = {}
    for picture in pictures:
        sections.setdefault(picture.section, []).append(picture)
    return sections


def _published(run: runs.Run) -> published.Published | None:
    """Of the same architecture, where the images are of the size that it was published for."""
    config = run.trained.weights.config
    if run.trained.image_size != published.IMAGE_SIZE:
        return None
    return published.find(config.downsampling_steps, config.latent_channels)


def _definitions() -> dict[str, list[str]]:
    """Labels by definition: metrics that differ in a tolerance, a class or a band share one."""
    labels: dict[str, list[str]] = {}
    for metric in METRICS.values():
        labels.setdefault(definition(metric), []).append(metric.label)
    return labels
