"""Samples of a call's time, and the turns that they take; neither JAX nor PyTorch is needed."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

SAMPLE_SECONDS = 0.05  # that a sample lasts at least, roughly: a shorter one would time the dispatch of a call
SETTLE_SECONDS = 0.3  # of calls before a sample: in a loop, the caches are warm and no other work's threads still spin
MOST_CALLS = 100  # in a sample, and before it

_Name = TypeVar("_Name", bound=Hashable)
Work = Callable[[], Any]  # starts one call, and returns what `Wait` waits for
Wait = Callable[[Any], object]  # returns once the device is done
Clock = Callable[[], float]  # seconds
Sampler = Callable[[], float]  # takes one sample: seconds a call


def make_sampler(work: Work, wait: Wait, clock: Clock = time.perf_counter) -> Sampler:
    """Warms the work up, and returns what takes its samples.

    A sample is as many calls as one call's time, taken after the warm-up, asks for; the device is waited for at its
    end alone, as a training loop would.
    """
    once = _sample(work, 1, wait, clock)
    calls = min(math.ceil(SAMPLE_SECONDS / once), MOST_CALLS) if once > 0 else MOST_CALLS
    return lambda: _sample(work, calls, wait, clock)


def take_turns(
    samplers: Mapping[_Name, Sampler], rounds: int, on_round: Callable[[], None] = lambda: None
) -> dict[_Name, list[float]]:
    """Returns seconds a call, one sample of each a round: what slows the machine down for a while slows all of them."""
    seconds: dict[_Name, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sampler in samplers.items():
            seconds[name].append(sampler())
        on_round()
    return seconds


def _sample(work: Work, calls: int, wait: Wait, clock: Clock) -> float:
    result, start = None, clock()
    for _ in range(MOST_CALLS):
        wait(work())
        if clock() - start >= SETTLE_SECONDS:
            break
    start = clock()
    for _ in range(calls):
        result = work()
    wait(result)
    return (clock() - start) / calls
