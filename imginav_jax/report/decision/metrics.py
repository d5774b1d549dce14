"""Every scalar metric of the report by its column name, with what a reader needs to know of it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from imginav_jax.datasets import palette
from imginav_jax.report.measurement import demand, fidelity, structure
from imginav_jax.report.measurement.counts import Counts

Compute = Callable[[Counts], Float[np.ndarray, "*batch"]]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number, of summed counts.

    Attributes:
      name: of the CSV column.
      label: for people.
      unit: empty for a ratio.
      on: what is compared and whose counts `compute` takes: the decoded picture (`fidelity`), classes (`structure`),
        or what was drawn with what was demanded (`demand`).
      compute: from counts with any leading axes to values of their shape.
      digits: after the decimal point, in tables.
    """

    name: str
    label: str
    unit: str
    is_better: Literal["higher", "lower"]
    on: Literal["picture", "classes", "demand"]
    compute: Compute
    digits: int


def definition(metric: Metric) -> str:
    """Returns the docstring of the function that computes it: the only place where a metric is defined."""
    return inspect.getdoc(metric.compute) or ""


def _at(function: Callable[..., Float[np.ndarray, "*batch"]], pixels: int) -> Compute:
    """A function of a tolerance or distance, at one."""

    @functools.wraps(function)
    def compute(counts: Counts) -> Float[np.ndarray, "*batch"]:
        return function(counts, pixels)

    return compute


def _element(function: Callable[[Counts], Float[np.ndarray, "*batch values"]], index: int) -> Compute:
    """One of the values a class or band."""

    @functools.wraps(function)
    def compute(counts: Counts) -> Float[np.ndarray, "*batch"]:
        return function(counts)[..., index]

    return compute


_ratio = functools.partial(Metric, unit="", is_better="higher", digits=3)
_picture_ratio = functools.partial(_ratio, on="picture")
_class_ratio = functools.partial(_ratio, on="classes")
_error = functools.partial(Metric, unit="", is_better="lower", on="picture", digits=6)
_psnr = functools.partial(Metric, unit="dB", is_better="higher", on="picture", digits=2)
_topology = functools.partial(Metric, unit="a layout", is_better="lower", on="classes", digits=3)


def _whole() -> list[Metric]:
    return [
        _error("mse", "MSE", compute=fidelity.mse),
        _psnr("psnr", "PSNR", compute=fidelity.psnr),
        _picture_ratio("ssim", "SSIM", compute=fidelity.ssim),
        _picture_ratio("palette_fidelity", "pixels of palette colour", compute=fidelity.palette_fidelity),
        _class_ratio("mean_iou", "mIoU", compute=structure.mean_iou),
        _class_ratio("pixel_accuracy", "pixel accuracy", compute=structure.pixel_accuracy),
        _class_ratio("wall_recall", "wall skeleton recall", compute=structure.wall_skeleton_recall),
        _class_ratio("wall_precision", "wall skeleton precision", compute=structure.wall_skeleton_precision),
        _class_ratio("wall_cldice", "wall clDice", compute=structure.wall_cldice),
        _class_ratio("small_object_recall", "small object recall", compute=structure.small_object_recall),
        _topology("wall_components_error", "error in separate walls", compute=structure.wall_components_error),
        _topology("wall_holes_error", "error in closed spaces", compute=structure.wall_holes_error),
    ]


def _boundaries() -> list[Metric]:
    functions = {
        "boundary_f": ("boundary F", structure.boundary_f, structure.TOLERANCES),
        "boundary_precision": ("boundary precision", structure.boundary_precision, structure.TOLERANCES),
        "boundary_recall": ("boundary recall", structure.boundary_recall, structure.TOLERANCES),
        "wall_boundary_f": ("wall boundary F", structure.wall_boundary_f, structure.TOLERANCES),
        "boundary_iou": ("boundary IoU", structure.boundary_iou, structure.DISTANCES),
    }
    return [
        _class_ratio(f"{name}_{pixels}", f"{label}, {pixels} px", compute=_at(function, pixels))
        for name, (label, function, each) in functions.items()
        for pixels in each
    ]


def _by_class() -> list[Metric]:
    kinds: list[tuple[Callable[..., Metric], str, str, Any]] = [
        (_class_ratio, "iou", "IoU", structure.class_iou),
        (_error, "mse", "MSE", fidelity.class_mse),
        (_psnr, "psnr", "PSNR", fidelity.class_psnr),
        (_picture_ratio, "ssim", "SSIM", fidelity.class_ssim),
    ]
    return [
        make(f"{name}_{each}", f"{label}, {each.replace('_', ' ')}", compute=_element(function, index))
        for make, name, label, function in kinds
        for index, each in enumerate(palette.CLASS_NAMES)
    ]


def _by_band() -> list[Metric]:
    kinds = {
        "band_error": ("MSE", fidelity.band_error),
        "band_error_share": ("error over energy", fidelity.band_error_share),
    }
    return [
        _error(
            f"{name}_{band}",
            f"{label}, {band.replace('_', ' to ').replace('to up', 'and more')} cycles",
            compute=_element(function, index),
        )
        for name, (label, function) in kinds.items()
        for index, band in enumerate(fidelity.BAND_NAMES)
    ]


def _of_demands() -> list[Metric]:
    ratio = functools.partial(_ratio, on="demand")
    error = functools.partial(Metric, unit="a layout", is_better="lower", on="demand", digits=2)
    walls = {
        "wall_f": ("walls' F", demand.wall_f),
        "wall_recall": ("walls' recall", demand.wall_recall),
        "wall_precision": ("walls' precision", demand.wall_precision),
    }
    return [
        *(
            ratio(f"{name}_{pixels}", f"{label}, {pixels} px", compute=_at(function, pixels))
            for name, (label, function) in walls.items()
            for pixels in demand.TOLERANCES
        ),
        ratio("presence_f1", "F1 of what is there", compute=demand.presence_f1),
        error("object_count_error", "error in objects", compute=demand.object_count_error),
        error("closed_spaces_error", "error in closed spaces", compute=demand.closed_spaces_error),
        error("door_gaps_error", "error in door gaps", compute=demand.door_gaps_error),
        ratio("doors_kept", "door gaps kept", compute=demand.doors_kept),
        ratio("palette_fidelity", "pixels of palette colour", compute=fidelity.palette_fidelity),
    ]


# Of what a diffusion model draws, against what was demanded of it.
DEMAND_METRICS: dict[str, Metric] = {metric.name: metric for metric in _of_demands()}
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_whole(), *_boundaries(), *_by_class(), *_by_band())}
