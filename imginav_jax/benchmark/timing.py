"""Times of several works in turns: what slows the machine down for a while slows all of them."""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from imginav_jax.benchmark.results import Spread, Timing

SAMPLE_SECONDS = 0.05  # that a sample lasts at least, roughly: a shorter one would time the dispatch of a call
MOST_CALLS = 100  # in a sample

_Name = TypeVar("_Name", bound=Hashable)
Work = Callable[[], Any]  # starts one call, and returns what is there once the call is over
Clock = Callable[[], float]  # seconds


def time_in_turns(
    works: Mapping[_Name, Work],
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
    *,
    clock: Clock = time.perf_counter,
) -> dict[_Name, list[float]]:
    """Seconds a call, one sample of each work a round, after a warm-up.

    A sample is as many calls as one call's time, taken after the warm-up, asks for; the device is waited for at its
    end alone, as a training loop would.
    """
    calls = {name: _calls_a_sample(work, clock) for name, work in works.items()}
    seconds: dict[_Name, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(_sample(work, calls[name], clock))
        on_round()
    return seconds


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated linearly between neighbouring values."""
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return Spread(median, lower, upper)


def timing(seconds: Sequence[float], batch_size: int) -> Timing:
    found = spread(seconds)
    speed = Spread(batch_size / found.median, batch_size / found.upper_quartile, batch_size / found.lower_quartile)
    return Timing(found, speed)


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> Spread:
    """Of every round's own ratio to the reference."""
    return spread([ours / theirs for ours, theirs in zip(seconds, reference, strict=True)])


def _calls_a_sample(work: Work, clock: Clock) -> int:
    jax.block_until_ready(work())
    once = _sample(work, 1, clock)
    return min(math.ceil(SAMPLE_SECONDS / once), MOST_CALLS) if once > 0 else MOST_CALLS


def _sample(work: Work, calls: int, clock: Clock) -> float:
    result = None
    start = clock()
    for _ in range(calls):
        result = work()
    jax.block_until_ready(result)
    return (clock() - start) / calls
