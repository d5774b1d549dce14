"""What a training step of a small latent-diffusion model costs, and of a ControlNet on it, by the latents' shape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from imginav_jax.benchmark import timing
from imginav_jax.benchmark.program import Program, Stepper, compile_program
from imginav_jax.benchmark.sampling import Work
from imginav_jax.models import diffusion_unet
from imginav_jax.models.diffusion_unet import Params, Shape, Velocity
from imginav_jax.models.network import parameter_count
from imginav_jax.runs.results.benchmark_file import TrainingStepCost
from imginav_jax.training.state import make_optimizer

_OPTIMIZER = make_optimizer(1e-4, 0.01)


class State(NamedTuple):
    step: Int32[Array, ""]  # from which the noise is drawn
    params: Params  # the trained ones
    opt_state: Any


class PreparedStep(NamedTuple):
    """Compiled, and ready to be timed."""

    trained_parameters: int
    program: Program
    work: Work


def unet_step(state: State, latents: Float[Array, "b h w c"], *, dtype: str) -> tuple[State, Float[Array, ""]]:
    """Takes one optimizer step of the U-Net and returns the new state and the loss; donate `state`."""
    return _update(state, latents, lambda unet: functools.partial(diffusion_unet.velocity, unet, dtype=dtype))


def controlnet_step(
    state: State,
    unet: Params,
    latents: Float[Array, "b h w c"],
    condition: Float[Array, "b h w k"],
    *,
    dtype: str,
) -> tuple[State, Float[Array, ""]]:
    """Takes one optimizer step of the ControlNet on a frozen U-Net, as `unet_step`."""

    def predict(controlnet: Params) -> Velocity:
        return functools.partial(diffusion_unet.controlled_velocity, unet, controlnet, condition=condition, dtype=dtype)

    return _update(state, latents, predict)


def create_state(params: Params) -> State:
    return State(jnp.zeros((), jnp.int32), params, _OPTIMIZER.init(params))


def prepare(shape: Shape, batch_size: int, dtype: str, seed: int) -> tuple[PreparedStep, PreparedStep]:
    """Compiles and returns steps of the U-Net and the ControlNet, on normal latents and a condition of their shape."""
    random = np.random.default_rng(seed)
    latents, condition = jax.device_put(random.standard_normal((2, batch_size, *shape), np.float32))
    unet = diffusion_unet.init_unet(shape, jax.random.key(seed))
    controlnet = diffusion_unet.init_controlnet(unet, shape, shape[-1])
    return (
        _prepare(functools.partial(unet_step, dtype=dtype), jax.tree.map(jnp.copy, unet), latents),
        _prepare(functools.partial(controlnet_step, dtype=dtype), controlnet, unet, latents, condition),
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


def _update(state: State, latents: Array, predict: Callable[[Params], Velocity]) -> tuple[State, Array]:
    key = jax.random.fold_in(jax.random.key(0), state.step)

    def loss_fn(params: Params) -> Array:
        return diffusion_unet.flow_matching_loss(predict(params), latents, key)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = _OPTIMIZER.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state), loss


def _prepare(step: Callable[..., Any], params: Params, *inputs: Any) -> PreparedStep:
    state = create_state(params)
    program = compile_program(step, state, *inputs, donates_first=True)
    return PreparedStep(parameter_count(params), program, Stepper(program.run, state, *inputs))
