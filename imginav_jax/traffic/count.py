"""What a step moves on a card, against the least that it must, and the least time that follows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from imginav_jax.devices import target
from imginav_jax.devices.chips import Chip
from imginav_jax.runs.experiment import Experiment
from imginav_jax.system.errors import RunError, first_line
from imginav_jax.traffic import floor, kinds, program, steps
from imginav_jax.traffic.floor import Pass
from imginav_jax.traffic.program import Kernel

LAYOUTS = 22_318  # training layouts of the real experiment


class Excess(NamedTuple):
    """A kernel, and what it moves above its floor, in bytes."""

    kernel: Kernel
    moved: int


class Traffic(NamedTuple):
    """Of one step on one batch.

    Attributes:
      moved: bytes by kind, of kinds.KINDS.
      floor: the least of them, by kind.
      kernels: how many.
      flops: of convolutions and matrix products.
      excesses: the kernels furthest above their floor, the furthest first.
    """

    moved: Mapping[str, int]
    floor: Mapping[str, int]
    kernels: int
    flops: int
    excesses: Sequence[Excess]

    @property
    def bytes_moved(self) -> int:
        return sum(self.moved.values())

    @property
    def ratio(self) -> float:
        """Bytes ÷ floor."""
        return self.bytes_moved / sum(self.floor.values())

    def seconds(self, chip: Chip, precision: str) -> float:
        """Returns the least time: what memory takes at its bandwidth, or the matrix units at their rate."""
        return max(self.bytes_moved / chip.bandwidth, self.flops / chip.flops(precision))


def count(experiment: Experiment, name: str, device: Any) -> Traffic:
    """Compiles a step of steps.STEPS for the device and returns its traffic; RunError where the compiler fails."""
    step = steps.STEPS[name](experiment)
    with target.compile_for(device.platform):
        options = target.compiler_options(keep_barriers=step.keeps_barriers)
        donated = (0,) if step.trains else ()
        jitted = jax.jit(step.function, donate_argnums=donated, compiler_options=options)
        traced = jitted.trace(*steps.place(step.arguments, device))
        try:
            text = traced.lower().compile().as_text()
        except jax.errors.JaxRuntimeError as error:
            raise RunError(f"the compiler refuses {name} for {device.device_kind}: {first_line(error)}") from None
    passes = [*floor.passes(traced.jaxpr.jaxpr), *step.passes]
    return compare(program.read(text or ""), passes, floor.count_flops(traced.jaxpr.jaxpr))


def compare(kernels: Sequence[Kernel], passes: Sequence[Pass], flops: int, shown: int = 10) -> Traffic:
    """Returns the traffic of kernels against passes.

    Within a kind, the kernels, from the one that moves most, are set against the passes, from the largest.  A kernel
    for which no pass is left has a floor of nothing.
    """
    excesses, moved, least = [], {}, {}
    for kind in kinds.KINDS:
        of_kind = sorted((each for each in kernels if kinds.kind_of(each) == kind), key=lambda each: -each.moved)
        floors = sorted((each.moved for each in passes if each.kind == kind), reverse=True)
        moved[kind], least[kind] = sum(each.moved for each in of_kind), sum(floors)
        floors += [0] * (len(of_kind) - len(floors))
        excesses += [Excess(each, each.moved - floors[number]) for number, each in enumerate(of_kind)]
    excesses.sort(key=lambda excess: -excess.moved)
    return Traffic(moved, least, len(kernels), flops, tuple(excesses[:shown]))
