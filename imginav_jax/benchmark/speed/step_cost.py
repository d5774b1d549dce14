"""What the steps of one experiment cost, and how near they come to the roofline."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.program import Program
from imginav_jax.benchmark.speed import roofline
from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.benchmark.table import GIGA
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.devices.mesh import MIB
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.results.benchmark_file import Spread, Timing
from imginav_jax.system.progress import logger


class StepCost(NamedTuple):
    """What a step costs; the names, except the timing, are keys of the JSON."""

    timing: Timing
    compile_seconds: float
    memory_mib: float  # the compiler's estimate
    flops_per_image: float
    roofline_fraction: Spread
    compute_fraction: Spread
    memory_fraction: Spread


def measure(config: RawConfig, rounds: int, names: Collection[str]) -> Measurement:
    """Times the steps that are named, train, eval, encode or decode, on the first device."""
    logger.info("Compiling %s ...", ", ".join(names))
    prepared = autoencoder_cost.prepare(autoencoder_cost.fresh_experiment(config), names)
    samplers = timing.warm_up(prepared.works)
    peak = _peak_memory_mib(prepared.programs)  # before the probes take their share
    probes = roofline.prepare(config.precision)
    probe_samplers = timing.warm_up({"the product": probes.product, "the copy": probes.copy})
    seconds = timing.time_in_turns("Benchmark", samplers | probe_samplers, rounds)
    rates = list(map(probes.rates, seconds["the product"], seconds["the copy"]))
    steps = {
        name: _cost(program, seconds[name], rates, config.batch_size) for name, program in prepared.programs.items()
    }
    return present(steps, peak, rates)


def present(steps: Mapping[str, StepCost], peak_memory_mib: float, rates: Sequence[Rates]) -> Measurement:
    """Returns values and table; a key without the name of a step is of the first one, the device's rates by round."""
    flops, moved = map(timing.spread, zip(*rates, strict=True))
    values, short = {}, {}
    for name, step in steps.items():
        others = step._asdict()
        values |= {name: others.pop("timing"), **{f"{name}_{key}": value for key, value in others.items()}}
        short = short or others
    values |= {**short, "peak_memory_mib": peak_memory_mib}
    values |= {"matrix_product_flops_per_second": flops, "copy_bytes_per_second": moved}
    header = ["", "images/s", "ms a batch", "of roofline", "compute", "memory", "GFLOP/image", "MiB", "compile s"]
    rows = [
        [
            name,
            step.timing.images_per_second,
            1000 * step.timing.seconds_per_batch.median,
            step.roofline_fraction,
            step.compute_fraction.median,
            step.memory_fraction.median,
            step.flops_per_image / GIGA,
            round(step.memory_mib),
            f"{step.compile_seconds:.1f}",
        ]
        for name, step in steps.items()
    ]
    product, copy = (table.show(rate.median / GIGA) for rate in (flops, moved))
    machine = f"The machine  {product} GFLOP/s in a large matrix product, {copy} GB/s in a large copy"
    lines = f"{table.align([header, *rows])}\n\n{machine}\nPeak memory  {peak_memory_mib:,.0f} MiB"
    return Measurement(timing.flatten(values), lines)


def _peak_memory_mib(programs: Mapping[str, Program]) -> float:
    """Returns the most that the device has held, where it counts that; else the compiler's largest estimate."""
    counted = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return counted / MIB or max(program.memory_mib for program in programs.values())


def _cost(program: Program, seconds: Sequence[float], rates: Sequence[Rates], batch_size: int) -> StepCost:
    fractions, per_image = roofline.fractions(program, seconds, rates), program.flops / batch_size
    costs = timing.summarize(seconds, batch_size), program.compile_seconds, program.memory_mib, per_image
    return StepCost(*costs, fractions.roofline, fractions.compute, fractions.memory)
