"""What the measurement would cost, counted and not run: steps, FLOPs and hours of the real experiment."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from imginav_jax.benchmark import sampling, table, timing
from imginav_jax.benchmark.phase import phase
from imginav_jax.benchmark.speed import roofline
from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.control import demands
from imginav_jax.control.equal_compute import equal_flops_steps
from imginav_jax.control.settings import Settings
from imginav_jax.control.training import Programs
from imginav_jax.devices import chips
from imginav_jax.models.diffusion import flow_matching
from imginav_jax.models.diffusion.steps import Recipe
from imginav_jax.models.diffusion.unet import Shape
from imginav_jax.report.measurement import demand
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.progress import logger
from imginav_jax.traffic.count import LAYOUTS

_ROUNDS = 5
_HOUR = 3600.0
_CARDS = ("V100", "L40S")


class Planned(NamedTuple):
    """What one latent takes.

    Attributes:
      steps: of the U-Net and of the ControlNet, at equal steps.
      more: further steps of the U-Net, and those of another ControlNet, for equal FLOPs; 0 of the costliest latent.
      flops: of all, with what is drawn left out.
      traffic: bytes that all of it reads and writes, as XLA counts for this device.
    """

    label: str
    shape: Shape
    steps: tuple[int, int]
    more: tuple[int, int]
    flops: float
    traffic: float


def draw(config: RawConfig, settings: Settings) -> str:
    """Returns the plan as a table; `config` as `phase.latent_shapes` needs it: its image size and latent channels."""
    size = config.data.image_size
    shapes = phase.latent_shapes(size, config.model.latent_channels)
    chosen = {label: shapes[label] for label in (*phase.DOWNSAMPLING_STEPS, "R1_unshuffle_2")}
    rates = {**_measure_here(settings.precision), **_published()}
    rows: list[list[table.Cell]] = [
        ["on", "latent", "U-Net", "ControlNet", "more U-Net", "more ControlNet", "PFLOP", *(f"h, {at}" for at in rates)]
    ]
    total = np.zeros(len(rates))
    for each in plan(chosen, size, settings):
        hours = np.array([seconds(each, rate) * settings.seeds / _HOUR for rate in rates.values()])
        total += hours
        shape = "x".join(map(str, each.shape))
        counts = [f"{count:,}" for count in (*each.steps, *each.more)]
        rows.append(
            [each.label, shape, *counts, each.flops * settings.seeds / 1e15, *(f"{hour:.2f}" for hour in hours)]
        )
    rows.append(["all", "", "", "", "", "", "", *(f"{hour:.2f}" for hour in total)])
    return "\n".join([
        f"Training on {LAYOUTS:,} layouts of {size}x{size}, batch {settings.batch_size}, {settings.precision}, "
        f"{settings.seeds} seed{'' if settings.seeds == 1 else 's'} a latent",
        "",
        table.align(rows, text_columns=2),
        "",
        "Hours are the least that FLOPs and memory traffic allow: here at measured rates, elsewhere at published ones, "
        "which no",
        "program reaches.  Traffic is that of this device's program; a card's own, in 16 bits, has less.  What is",
        "drawn and judged, and the latents' encoding, come on top.",
    ])  # fmt: skip


def plan(shapes: Mapping[str, Shape], image_size: int, settings: Settings) -> list[Planned]:
    """Returns what each latent takes, by counted FLOPs and bytes."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    contents = 2 * len(demand.FURNITURE)
    flops, traffic = {}, {}
    for label, shape in shapes.items():
        logger.info("Counting %s ...", label)
        shift = flow_matching.shift_of(shape) if settings.shift is None else settings.shift
        of = demands.shape_of(settings.condition, shape[:2], image_size, contents)
        recipe = Recipe(shift=shift, dtype=settings.precision)
        programs = Programs(mesh, shape, of, recipe, settings.batch_size, settings.sampling_steps)
        flops[label], traffic[label] = programs.flops(LAYOUTS), programs.traffic(LAYOUTS)
    given = settings.unet_steps, settings.controlnet_steps
    planned = []
    for label, shape in shapes.items():
        longer = equal_flops_steps(flops, label, given)
        more = (0, 0) if longer == given else (longer[0] - given[0], longer[1])
        steps = np.add(given, more)
        planned.append(
            Planned(label, shape, given, more, float(steps @ flops[label]), float(steps @ np.array(traffic[label])))
        )
    return planned


def seconds(planned: Planned, rates: Rates) -> float:
    """Returns the least time at a device's rates."""
    return max(planned.flops / rates.flops_per_second, planned.traffic / rates.bytes_per_second)


def _measure_here(precision: str) -> dict[str, Rates]:
    probes = roofline.prepare(precision)
    works = {"product": probes.product, "copy": probes.copy}
    samplers = {name: sampling.make_sampler(work, jax.block_until_ready) for name, work in works.items()}
    found = sampling.take_turns(samplers, _ROUNDS)
    product, copy = (timing.spread(found[name]).median for name in works)
    return {jax.devices()[0].device_kind: probes.rates(product, copy)}


def _published() -> dict[str, Rates]:
    return {name: Rates(chips.CHIPS[name].half_flops, chips.CHIPS[name].bandwidth) for name in _CARDS}
