"""How near a program comes to what the machine can do: the machine's rates, measured on the spot.

The roofline is the least time that a program could take: that of its arithmetic at the rate of a large matrix product,
or that of its memory traffic at the rate of a large copy, whichever is longer.  Divided by the time that it did take,
it is the fraction of the roofline that is reached.

- The arithmetic is that of convolutions and matrix products (`traffic/floor.py`), in the precision that they have.
- The memory traffic is XLA's count for the compiled program: what every operation, or group of fused ones, reads and
  writes.  What a cache keeps from one to the next is counted all the same, so the fraction of a program that works in
  the caches may exceed 1; it says then that memory is not what limits it.  What cuDNN and cuBLAS use inside is missing.
- Both rates are of JAX itself, measured in turns with the program.  The copy changes signs, so that it is not left out,
  and writes where it has read: the pages of fresh memory would cost a CPU several times as much as the copy.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from imginav_jax.benchmark import timing
from imginav_jax.benchmark.program import Program, Stepper
from imginav_jax.benchmark.sampling import Work
from imginav_jax.runs.results.benchmark_file import Spread

_COPY_BYTES = 2**28  # far more than any cache holds
# Rows and columns: enough to keep all of the device busy, and no more than tenths of a second.
_PRODUCT_SIDE, _PRODUCT_SIDE_CPU = 8192, 2048


class Rates(NamedTuple):
    """What the device reaches."""

    flops_per_second: float  # a multiplication and an addition being two
    bytes_per_second: float  # read and written


class Fractions(NamedTuple):
    """Of a program's time, what its arithmetic and its memory traffic would take at the device's rates."""

    compute: Spread
    memory: Spread

    @property
    def roofline(self) -> Spread:
        return max(self, key=lambda fraction: fraction.median)


class Probes(NamedTuple):
    """What is timed for the rates."""

    product: Work
    copy: Work
    product_side: int

    def rates(self, product_seconds: float, copy_seconds: float) -> Rates:
        return Rates(2 * self.product_side**3 / product_seconds, 2 * _COPY_BYTES / copy_seconds)


def prepare(precision: str) -> Probes:
    """Compiles the probes and returns them; takes about a GiB of the device's memory.

    Args:
      precision: of the matrix product.
    """
    side = _PRODUCT_SIDE_CPU if jax.default_backend() == "cpu" else _PRODUCT_SIDE
    factors = jax.random.normal(jax.random.key(0), (2, side, side)).astype(precision)
    negate = jax.jit(lambda values: (-values, ()), donate_argnums=0)
    copy = Stepper(negate, jnp.ones(_COPY_BYTES // 4))
    return Probes(functools.partial(jax.jit(jnp.matmul), *factors), copy, side)


def fractions(program: Program, seconds: Sequence[float], rates: Sequence[Rates]) -> Fractions:
    """Returns the fractions, of the seconds that a call took and the device's rates by round."""
    rounds = list(zip(seconds, rates, strict=True))
    return Fractions(
        timing.spread([program.flops / rate.flops_per_second / each for each, rate in rounds]),
        timing.spread([program.bytes_accessed / rate.bytes_per_second / each for each, rate in rounds]),
    )
