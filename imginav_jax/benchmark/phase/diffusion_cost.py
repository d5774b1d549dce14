"""What a training step of a small latent-diffusion model costs, and of a ControlNet on it, by the latents' shape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imginav_jax.benchmark import timing
from imginav_jax.benchmark.program import Program, Stepper, compile_program
from imginav_jax.benchmark.sampling import Work
from imginav_jax.models.diffusion import steps, unet
from imginav_jax.models.diffusion.steps import Recipe, State
from imginav_jax.models.diffusion.unet import Demand, DemandShape, Shape
from imginav_jax.models.network import parameter_count
from imginav_jax.runs.results.benchmark_file import TrainingStepCost


class PreparedStep(NamedTuple):
    """Compiled, and ready to be timed."""

    trained_parameters: int
    program: Program
    work: Work


def prepare(shape: Shape, batch_size: int, dtype: str, seed: int) -> tuple[PreparedStep, PreparedStep]:
    """Compiles and returns steps of the U-Net and the ControlNet, on normal latents and a condition of their shape."""
    random = np.random.default_rng(seed)
    latents, cells = jax.device_put(random.standard_normal((2, batch_size, *shape), np.float32))
    key, recipe = jax.random.key(seed), Recipe(dtype=dtype)
    params = unet.init_unet(shape, key)
    controlnet = unet.init_controlnet(params, shape, DemandShape(shape[-1], 0))
    unet_step, controlnet_step = (
        functools.partial(step, recipe=recipe) for step in (steps.unet_step, steps.controlnet_step)
    )
    return (
        _prepare(unet_step, steps.create_state(jax.tree.map(jnp.copy, params), recipe), latents, key),
        _prepare(controlnet_step, steps.create_state(controlnet, recipe), params, latents, Demand(cells, None), key),
    )


def cost(
    prepared: PreparedStep, seconds: Sequence[float], reference: Sequence[float], batch_size: int
) -> TrainingStepCost:
    """Returns the cost, from the `seconds` of a step by round; `reference` has those of a step on R1's latents."""
    return TrainingStepCost(
        trained_parameters=prepared.trained_parameters,
        memory_mib=prepared.program.memory_mib,
        flops_per_image=prepared.program.flops / batch_size,
        timing=timing.summarize(seconds, batch_size),
        seconds_ratio_to_r1=timing.paired_ratio(seconds, reference),
    )


def _prepare(step: Callable[..., Any], state: State, *inputs: Any) -> PreparedStep:
    program = compile_program(step, state, *inputs, donates_first=True)
    return PreparedStep(parameter_count(state.params), program, Stepper(program.run, state, *inputs))
