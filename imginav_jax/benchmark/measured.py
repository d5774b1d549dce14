"""What one mode of the benchmark hands to the command, and under which conditions it was measured."""

from typing import Any, NamedTuple

import jax

from imginav_jax.benchmark.results import Conditions, Spread, Timing
from imginav_jax.experiment import Config


class Measured(NamedTuple):
    values: dict[str, Any]  # for JSON; a key carries its unit
    table: str  # the same for a person


def current_conditions(config: Config, rounds: int) -> Conditions:
    """Of the first device, which is the one that is measured."""
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


def spread_values(key: str, spread: Spread) -> dict[str, float]:
    """The median under `key`, the quartiles under keys of their own."""
    return {
        key: spread.median,
        f"{key}_lower_quartile": spread.lower_quartile,
        f"{key}_upper_quartile": spread.upper_quartile,
    }


def timing_values(name: str, timing: Timing) -> dict[str, float]:
    return {
        **spread_values(f"{name}_images_per_second", timing.images_per_second),
        **spread_values(f"{name}_seconds_per_batch", timing.seconds_per_batch),
    }
