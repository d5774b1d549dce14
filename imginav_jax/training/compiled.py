"""The steps, compiled ahead of time for one batch shape: a step that would recompile is an error instead."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax.devices import target
from imginav_jax.devices.mesh import MIB, batch_sharding, memory_mib
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import inference
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.losses import LossWeights
from imginav_jax.models.network import Params
from imginav_jax.training import steps
from imginav_jax.training.state import TrainState
from imginav_jax.training.steps import EvalMetrics, TrainMetrics


class CompiledSteps(NamedTuple):
    create: Callable[[jax.Array], TrainState]  # from a key, on its devices
    train: Callable[[TrainState, Batch], tuple[TrainState, TrainMetrics]]  # donates the state
    evaluate: Callable[[Params, Batch], EvalMetrics]
    reconstruct: Callable[[Params, Any], inference.Reconstruction]  # compiled at its first call
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
    seed: int = 0,
    ema_decay: float = 0.0,
) -> CompiledSteps:
    """Compiles the steps for batches of `batch_shape` (images a batch, pixels a side), sharded over the mesh's axis.

    A training step takes the batch in `accumulate_steps` parts; each must divide by the devices.  `seed` is of a
    variational model's noise, `ema_decay` of the moving average of the weights.
    """
    start = time.monotonic()
    replicated = NamedSharding(mesh, PartitionSpec())
    abstract_state, batch = abstract_inputs(create, batch_shape, mesh)
    inputs = abstract_state, batch
    train = compile_train_step(config, weights, optimizer, inputs, mesh, accumulate_steps, seed, ema_decay)
    jit = functools.partial(jax.jit, out_shardings=replicated, compiler_options=target.compiler_options())
    return CompiledSteps(
        create=jax.jit(create, out_shardings=replicated),
        train=train,
        evaluate=jit(functools.partial(steps.eval_step, config=config)).lower(abstract_state.params, batch).compile(),
        reconstruct=jit(functools.partial(inference.reconstruct, config=config)),
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
    seed: int = 0,
    ema_decay: float = 0.0,
) -> Any:
    """Returns JAX's compiled program, which donates the state; `inputs` as `abstract_inputs` makes them."""
    step = functools.partial(
        steps.train_step,
        config=config,
        weights=weights,
        optimizer=optimizer,
        accumulate_steps=accumulate_steps,
        seed=seed,
        ema_decay=ema_decay,
    )
    options = target.compiler_options(keep_barriers=config.remat)
    replicated = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(step, donate_argnums=0, out_shardings=replicated, compiler_options=options)
    return jitted.lower(*inputs).compile()


def abstract_inputs(
    create: Callable[[jax.Array], TrainState], batch_shape: tuple[int, int], mesh: Mesh
) -> tuple[TrainState, Batch]:
    """Returns shapes, dtypes and shardings of what a training step takes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = _place(jax.eval_shape(create, key), NamedSharding(mesh, PartitionSpec()))
    return state, _place(_abstract_batch(*batch_shape), batch_sharding(mesh))


def peak_memory_mib(compiled: CompiledSteps, mesh: Mesh) -> float:
    """Returns the most MiB that one device has held, where the backend counts it; else the compiler's estimate."""
    measured = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in mesh.local_devices]
    return max(measured) / MIB or compiled.train_memory_mib


def _abstract_batch(batch_size: int, image_size: int) -> Batch:
    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return Batch(array((image_size, image_size, 3), np.uint8), array((), np.int32), array((), np.int32))


def _place(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
