"""The devices of a run as one mesh, how a batch lies on them, and what memory they have."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax.system.errors import RunError, UserError

MIB = 2**20


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Raises RunError with what to try, where the device's memory is too small to compile or run what is inside."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            "the device's memory is too small; try in this order: a smaller --config.batch_size or a larger "
            "--config.accumulate_steps, --config.model.remat=true, a 16-bit --config.precision"
        ) from None


def describe_devices(mesh: Mesh) -> str:
    """Returns the number and kind of the devices, "1 x NVIDIA L40S"; speeds are comparable where it is the same."""
    devices = mesh.devices.flat
    return f"{len(devices)} x {devices[0].device_kind}"


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis is divided among all devices."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def memory_limit_mib(mesh: Mesh) -> float | None:
    """Returns the MiB that the program may use of the smallest device; None where the backend does not say."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices]
    return min(limits) / MIB or None


def memory_mib(memory: Any) -> float:
    """Returns the MiB of arguments, results and temporaries by `memory_analysis`; donated arguments count once."""
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (needed - memory.alias_size_in_bytes) / MIB


def make_mesh(num_devices: int, batch_size: int, accumulate_steps: int) -> Mesh:
    """Returns a mesh of one axis.

    Args:
      num_devices: how many to use; 0: all.
      batch_size: images a step, over all devices together.
      accumulate_steps: parts of a batch that a step takes in turn.

    Raises:
      UserError: there are fewer devices, or the batch does not divide by devices and parts; names the config's key.
    """
    devices, parts = jax.devices(), accumulate_steps
    if num_devices > len(devices):
        raise UserError(f"config.num_devices is {num_devices}, but there are {len(devices)} ({devices[0].platform})")
    if jax.process_count() > 1 and num_devices not in (0, len(devices)):
        raise UserError(f"config.num_devices is {num_devices}, expected 0 with {jax.process_count()} processes")
    devices = devices[: num_devices or None]
    if batch_size % (len(devices) * parts):
        expected = f"a multiple of the {len(devices)} devices"
        expected += f" times config.accumulate_steps, {len(devices) * parts}" if parts > 1 else ""
        raise UserError(f"config.batch_size is {batch_size}, expected {expected}")
    return Mesh(np.array(devices), ("data",))
