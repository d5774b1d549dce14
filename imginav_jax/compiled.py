"""The steps, compiled ahead of time for one batch shape: a step that would recompile is an error instead."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax import steps
from imginav_jax.batch import Batch
from imginav_jax.model import AutoencoderConfig, Params
from imginav_jax.steps import EvalMetrics, LossWeights, TrainMetrics
from imginav_jax.train_state import TrainState

_MIB = 2**20


class CompiledSteps(NamedTuple):
    create: Callable[[jax.Array], TrainState]  # from a key, on its devices
    train: Callable[[TrainState, Batch], tuple[TrainState, TrainMetrics]]  # donates the state
    evaluate: Callable[[Params, Batch], EvalMetrics]
    reconstruct: Callable[[Params, Any], steps.Reconstruction]  # compiled at its first call
    abstract_state: TrainState  # shapes, dtypes and shardings
    seconds: float  # spent compiling
    train_memory_mib: float  # XLA's estimate of what a training step needs on one device


def compile_steps(
    config: AutoencoderConfig,
    weights: LossWeights,
    optimizer: optax.GradientTransformation,
    create: Callable[[jax.Array], TrainState],
    batch_shape: tuple[int, int],
    mesh: Mesh,
) -> CompiledSteps:
    """Compiles for batches of `batch_shape` (images a batch, pixels a side), sharded over the mesh's one axis."""
    start = time.monotonic()
    replicated, by_batch = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract_state = _place(jax.eval_shape(create, key), replicated)
    batch = _place(_abstract_batch(*batch_shape), by_batch)
    train_step = functools.partial(steps.train_step, config=config, weights=weights, optimizer=optimizer)
    train = jax.jit(train_step, donate_argnums=0, out_shardings=replicated).lower(abstract_state, batch).compile()
    eval_step = jax.jit(functools.partial(steps.eval_step, config=config), out_shardings=replicated)
    memory = train.memory_analysis()
    return CompiledSteps(
        create=jax.jit(create, out_shardings=replicated),
        train=train,
        evaluate=eval_step.lower(abstract_state.params, batch).compile(),
        reconstruct=jax.jit(functools.partial(steps.reconstruct, config=config), out_shardings=replicated),
        abstract_state=abstract_state,
        seconds=time.monotonic() - start,
        train_memory_mib=memory_mib(memory),
    )


def describe_devices(mesh: Mesh) -> str:
    """Their number and kind, "1 x NVIDIA L40S", by which speeds are told apart."""
    devices = mesh.devices.flat
    return f"{len(devices)} x {devices[0].device_kind}"


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def peak_memory_mib(compiled: CompiledSteps, mesh: Mesh) -> float:
    """The most that one device has held, where the backend counts it; else the compiler's estimate."""
    measured = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in mesh.local_devices]
    return max(measured) / _MIB or compiled.train_memory_mib


def memory_mib(memory: Any) -> float:
    """Arguments, results and temporaries of a compiled program's `memory_analysis`; donated arguments count once."""
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (needed - memory.alias_size_in_bytes) / _MIB


def _abstract_batch(batch_size: int, image_size: int) -> Batch:
    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return Batch(
        array((image_size, image_size, 3), np.uint8), array((), np.int32), array((), np.int32), array((), bool)
    )


def _place(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
