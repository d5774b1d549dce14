"""Times of works of JAX in turns, and the numbers that are made of them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from imginav_jax.benchmark import sampling
from imginav_jax.benchmark.sampling import Sampler, Work
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.runs.results.benchmark_file import Conditions, Spread, Timing
from imginav_jax.system.progress import Progress, logger

_Name = TypeVar("_Name", bound=Hashable)


class Measurement(NamedTuple):
    """What one part has been measured at."""

    values: Mapping[str, Any]  # for JSON; a key carries its unit
    table: str  # the same for a person


def warm_up(works: Mapping[_Name, Work]) -> dict[_Name, Sampler]:
    """Calls each work, and returns what takes its samples."""
    return {name: sampling.make_sampler(work, jax.block_until_ready) for name, work in works.items()}


def time_in_turns(description: str, samplers: Mapping[_Name, Sampler], rounds: int) -> dict[_Name, list[float]]:
    """Returns seconds a call, one sample of each work a round; shows how far it is."""
    logger.info("%s: %d rounds ...", description, rounds)
    with Progress(description, rounds, "rounds") as progress:
        return sampling.take_turns(samplers, rounds, progress.advance)


def spread(values: Sequence[float]) -> Spread:
    """Returns median and quartiles, interpolated linearly between neighbouring values."""
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return Spread(median, lower, upper)


def summarize(seconds: Sequence[float], batch_size: int) -> Timing:
    """Returns the timing of a call with so many images, of its seconds by round."""
    found = spread(seconds)
    speed = Spread(batch_size / found.median, batch_size / found.upper_quartile, batch_size / found.lower_quartile)
    return Timing(found, speed)


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> Spread:
    """Returns the spread of every round's own ratio to the reference."""
    return spread([ours / theirs for ours, theirs in zip(seconds, reference, strict=True)])


def current_conditions(config: RawConfig, rounds: int) -> Conditions:
    """Returns the conditions of a measurement on the first device, which is the one that is measured."""
    device = jax.devices()[0]
    return Conditions(
        device_kind=device.device_kind,
        platform=device.platform,
        num_devices=1,
        jax_version=jax.__version__,
        precision=config.precision,
        image_size=config.data.image_size,
        batch_size=config.batch_size,
        rounds=rounds,
    )


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns single values: a spread's median under its key, its quartiles and what a timing has under longer ones."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Timing):
            speed, seconds = value.images_per_second, value.seconds_per_batch
            found |= flatten({f"{key}_images_per_second": speed, f"{key}_seconds_per_batch": seconds})
        elif isinstance(value, Spread):
            found |= {key: value.median, f"{key}_lower_quartile": value.lower_quartile}
            found[f"{key}_upper_quartile"] = value.upper_quartile
        else:
            found[key] = value
    return found
