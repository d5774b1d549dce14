"""Times of works of JAX in turns, and the numbers that are made of them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np

from imginav_jax.benchmark import sampling
from imginav_jax.benchmark.results import Spread, Timing
from imginav_jax.benchmark.sampling import Sampler, Work
from imginav_jax.progress import Progress, logger

_Name = TypeVar("_Name", bound=Hashable)


def warm_up(works: Mapping[_Name, Work]) -> dict[_Name, Sampler]:
    """The works, ready to be timed."""
    return {name: sampling.make_sampler(work, jax.block_until_ready) for name, work in works.items()}


def time_in_turns(description: str, samplers: Mapping[_Name, Sampler], rounds: int) -> dict[_Name, list[float]]:
    """Seconds a call, one sample of each work a round; shows how far it is."""
    logger.info("%s: %d rounds ...", description, rounds)
    with Progress(description, rounds, "rounds") as progress:
        return sampling.take_turns(samplers, rounds, progress.advance)


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
