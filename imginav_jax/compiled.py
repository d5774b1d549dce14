"""The steps, compiled ahead of time for one batch shape: a step that would recompile is an error instead."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax import steps, target
from imginav_jax.batch import Batch
from imginav_jax.errors import RunError
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
    accumulate_steps: int = 1,
) -> CompiledSteps:
    """Compiles for batches of `batch_shape` (images a batch, pixels a side), sharded over the mesh's one axis.

    A training step takes the batch in `accumulate_steps` parts; each must divide by the devices.
    """
    start = time.monotonic()
    replicated = NamedSharding(mesh, PartitionSpec())
    abstract_state, batch = abstract_inputs(create, batch_shape, mesh)
    train = compile_train_step(config, weights, optimizer, (abstract_state, batch), mesh, accumulate_steps)
    jit = functools.partial(jax.jit, out_shardings=replicated, compiler_options=target.compiler_options())
    return CompiledSteps(
        create=jax.jit(create, out_shardings=replicated),
        train=train,
        evaluate=jit(functools.partial(steps.eval_step, config=config)).lower(abstract_state.params, batch).compile(),
        reconstruct=jit(functools.partial(steps.reconstruct, config=config)),
        abstract_state=abstract_state,
        seconds=time.monotonic() - start,
        train_memory_mib=memory_mib(train.memory_analysis()),
    )


def compile_train_step(
    config: AutoencoderConfig,
    weights: LossWeights,
    optimizer: optax.GradientTransformation,
    inputs: tuple[TrainState, Batch],
    mesh: Mesh,
    accumulate_steps: int = 1,
) -> Any:
    """JAX's compiled program, which donates the state; `inputs` as `abstract_inputs` makes them."""
    step = functools.partial(
        steps.train_step, config=config, weights=weights, optimizer=optimizer, accumulate_steps=accumulate_steps
    )
    options = target.compiler_options(keep_barriers=config.remat)
    replicated = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(step, donate_argnums=0, out_shardings=replicated, compiler_options=options)
    return jitted.lower(*inputs).compile()


def abstract_inputs(
    create: Callable[[jax.Array], TrainState], batch_shape: tuple[int, int], mesh: Mesh
) -> tuple[TrainState, Batch]:
    """Shapes, dtypes and shardings of what a training step takes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = _place(jax.eval_shape(create, key), NamedSharding(mesh, PartitionSpec()))
    return state, _place(_abstract_batch(*batch_shape), batch_sharding(mesh))


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """RunError with what to try, where the device's memory is too small to compile or to run what is inside."""
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


def memory_limit_mib(mesh: Mesh) -> float | None:
    """What the program may use of one device, the smallest; None where the backend does not say."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices]
    return min(limits) / _MIB or None


def memory_mib(memory: Any) -> float:
    """Arguments, results and temporaries of a compiled program's `memory_analysis`; donated arguments count once."""
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (needed - memory.alias_size_in_bytes) / _MIB


def _abstract_batch(batch_size: int, image_size: int) -> Batch:
    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return Batch(array((image_size, image_size, 3), np.uint8), array((), np.int32), array((), np.int32))


def _place(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
