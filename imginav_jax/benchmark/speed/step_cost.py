"""What the steps of one experiment cost, and how near they come to the roofline."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.program import Program
from imginav_jax.benchmark.speed import roofline
from imginav_jax.benchmark.speed.roofline import Fractions
from imginav_jax.benchmark.timing import Measurement, spread_values, timing_values
from imginav_jax.runs.benchmark_file import Spread, Timing
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.progress import logger

_GIGA, _MIB = 1e9, 2**20


class StepCost(NamedTuple):
    compile_seconds: float
    memory_mib: float  # the compiler's estimate
    flops_per_image: float
    timing: Timing
    fractions: Fractions


class StepCosts(NamedTuple):
    steps: Mapping[str, StepCost]  # train, eval, encode, decode, or some of them
    peak_memory_mib: float  # of all of them; on the CPU the largest of the estimates
    product_flops_per_second: Spread
    copy_bytes_per_second: Spread


def measure(config: RawConfig, rounds: int, names: Collection[str]) -> Measurement:
    """Times the steps that are named on the first device.

    Raises:
      UserError: the config cannot be used.
    """
    costs = measure_steps(config, rounds, names)
    return Measurement(dump(costs), render(costs))


def measure_steps(config: RawConfig, rounds: int, names: Collection[str]) -> StepCosts:
    experiment, size = autoencoder_cost.fresh_experiment(config), config.batch_size
    batch = autoencoder_cost.synthetic_batch(size, config.data.image_size, config.data.seed)
    logger.info("Compiling %s ...", ", ".join(names))
    prepared = autoencoder_cost.prepare(experiment, batch, names)
    samplers = timing.warm_up(prepared.works)
    peak = _peak_memory_mib(prepared.programs)  # before the probes take their share
    probes = roofline.prepare(config.precision)
    probe_samplers = timing.warm_up({"the product": probes.product, "the copy": probes.copy})
    seconds = timing.time_in_turns("Benchmark", samplers | probe_samplers, rounds)
    rates = list(map(probes.rates, seconds["the product"], seconds["the copy"]))
    steps = {
        name: StepCost(
            program.compile_seconds,
            program.memory_mib,
            program.flops / size,
            timing.summarize(seconds[name], size),
            roofline.fractions(program, seconds[name], rates),
        )
        for name, program in prepared.programs.items()
    }
    flops, moved = zip(*rates, strict=True)
    return StepCosts(steps, peak, timing.spread(flops), timing.spread(moved))


def dump(costs: StepCosts) -> dict[str, Any]:
    """For JSON; a key without the name of a step is of the first one."""
    values = {}
    for name, step in costs.steps.items():
        values |= timing_values(name, step.timing)
        values |= {f"{name}_{key}": value for key, value in _other_values(step).items()}
    return {
        **values,
        **_other_values(next(iter(costs.steps.values()))),
        "peak_memory_mib": costs.peak_memory_mib,
        **spread_values("matrix_product_flops_per_second", costs.product_flops_per_second),
        **spread_values("copy_bytes_per_second", costs.copy_bytes_per_second),
    }


def render(costs: StepCosts) -> str:
    header = ["", "images/s", "ms a batch", "of roofline", "compute", "memory", "GFLOP/image", "MiB", "compile s"]
    flops, moved = (
        table.show_number(rate.median / _GIGA) for rate in (costs.product_flops_per_second, costs.copy_bytes_per_second)
    )
    return "\n".join(
        [
            table.align([header, *(_row(name, step) for name, step in costs.steps.items())], text_columns=1),
            "",
            f"The machine  {flops} GFLOP/s in a large matrix product, {moved} GB/s in a large copy",
            f"Peak memory  {costs.peak_memory_mib:,.0f} MiB",
        ]
    )


def _peak_memory_mib(programs: Mapping[str, Program]) -> float:
    """The most that the device has held, where it counts that; else the compiler's largest estimate."""
    counted = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return counted / _MIB or max(program.memory_mib for program in programs.values())


def _other_values(step: StepCost) -> dict[str, float]:
    return {
        "compile_seconds": step.compile_seconds,
        "memory_mib": step.memory_mib,
        "flops_per_image": step.flops_per_image,
        **spread_values("roofline_fraction", step.fractions.roofline),
        **spread_values("compute_fraction", step.fractions.compute),
        **spread_values("memory_fraction", step.fractions.memory),
    }


def _row(name: str, step: StepCost) -> list[str]:
    fractions = step.fractions
    return [
        name,
        table.show_spread(step.timing.images_per_second),
        table.show_number(1000 * step.timing.seconds_per_batch.median),
        table.show_spread(fractions.roofline),
        table.show_number(fractions.compute.median),
        table.show_number(fractions.memory.median),
        table.show_number(step.flops_per_image / _GIGA),
        f"{step.memory_mib:,.0f}",
        f"{step.compile_seconds:.1f}",
    ]
