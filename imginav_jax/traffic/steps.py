"""The steps whose traffic is counted, as functions of arrays that are never made."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import inference, network
from imginav_jax.models.diffusion import steps as diffusion_steps
from imginav_jax.models.diffusion import unet
from imginav_jax.models.diffusion.unet import Demand, DemandShape
from imginav_jax.runs.experiment import Experiment
from imginav_jax.traffic import floor, kinds
from imginav_jax.traffic.floor import Pass
from imginav_jax.training import state, steps


class Step(NamedTuple):
    """What is to be compiled.

    Attributes:
      function: a pure one.
      arguments: shapes and types of what it takes.
      trains: whether it changes its first argument, which it then donates.
      passes: the least that it must move beside convolutions, products and norms.
      keeps_barriers: as in `target.compiler_options`.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    trains: bool
    passes: Sequence[Pass]
    keeps_barriers: bool = False


def train_step(experiment: Experiment) -> Step:
    fields = experiment.config
    optimizer, create = state.of_experiment(experiment)
    function = functools.partial(
        steps.train_step,
        config=experiment.model,
        weights=experiment.weights,
        optimizer=optimizer,
        accumulate_steps=fields.accumulate_steps,
        ema_decay=fields.ema_decay,
    )
    fresh, batch, size = jax.eval_shape(create, _key()), _batch(experiment), _type_size(experiment)
    passes = [
        *_heads(experiment, trains=True),
        *_inputs(experiment),
        *floor.updates(fresh.params, size, fields.ema_decay > 0),
    ]
    return Step(function, (fresh, batch), True, passes, experiment.model.remat)


def eval_step(experiment: Experiment) -> Step:
    function = functools.partial(steps.eval_step, config=experiment.model)
    passes = [*_heads(experiment, trains=False), *_inputs(experiment)]
    return Step(function, (_params(experiment), _batch(experiment)), False, passes)


def encode(experiment: Experiment) -> Step:
    function = functools.partial(inference.encode, config=experiment.model)
    return Step(function, (_params(experiment), _batch(experiment).image), False, _inputs(experiment))


def decode(experiment: Experiment) -> Step:
    params, images = _params(experiment), _batch(experiment).image
    latents = jax.eval_shape(functools.partial(inference.encode, config=experiment.model), params, images)
    function = functools.partial(inference.decode, config=experiment.model)
    made = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(function, params, latents)))
    read = _head_bytes(experiment)
    passes = [Pass(kinds.HEADS, read + made), *floor.conversions(params["decoder"], _type_size(experiment))]
    return Step(function, (params, latents), False, passes)


def unet_step(experiment: Experiment) -> Step:
    """Returns a training step of the small U-Net on the experiment's latents."""
    recipe, latents = _recipe(experiment), _latents(experiment)
    params = jax.eval_shape(functools.partial(unet.init_unet, latents.shape[1:]), _key())
    fresh = jax.eval_shape(functools.partial(diffusion_steps.create_state, recipe=recipe), params)
    function = functools.partial(diffusion_steps.unet_step, recipe=recipe)
    return Step(function, (fresh, latents, _key()), True, _diffusion(params, params, experiment))


def controlnet_step(experiment: Experiment) -> Step:
    """Returns a training step of a ControlNet on that U-Net, whose condition has the latents' shape."""
    recipe, latents = _recipe(experiment), _latents(experiment)
    shape = latents.shape[1:]
    params = jax.eval_shape(functools.partial(unet.init_unet, shape), _key())
    demand = DemandShape(shape[-1], 0)
    init = functools.partial(unet.init_controlnet, latent_shape=shape, demand=demand)
    controlnet = jax.eval_shape(init, params)
    fresh = jax.eval_shape(functools.partial(diffusion_steps.create_state, recipe=recipe), controlnet)
    function = functools.partial(diffusion_steps.controlnet_step, recipe=recipe)
    arguments = fresh, params, latents, Demand(latents, None), _key()
    return Step(function, arguments, True, _diffusion((params, controlnet), controlnet, experiment))


STEPS: dict[str, Callable[[Experiment], Step]] = {
    each.__name__: each for each in (train_step, eval_step, encode, decode, unet_step, controlnet_step)
}


def place(arguments: Any, device: Any) -> Any:
    """Returns the arguments' shapes and types on a device."""
    sharding = SingleDeviceSharding(device)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments)


def _heads(experiment: Experiment, *, trains: bool) -> list[Pass]:
    """Losses and metrics read what the heads say and the layouts, and write gradients, in one pass."""
    heads = _head_bytes(experiment)
    return [Pass(kinds.HEADS, (2 if trains else 1) * heads + _batch(experiment).image.size)]


def _head_bytes(experiment: Experiment) -> int:
    """Returns the bytes of what the pictures' heads say; the room/scene head reads its features with their norm."""
    fields, heads = experiment.config, [experiment.model.head(kind) for kind in ("rgb", "segmentation")]
    pixels = fields.batch_size * fields.data.image_size**2
    return pixels * _type_size(experiment) * sum(head.outputs for head in heads if head)


def _inputs(experiment: Experiment) -> list[Pass]:
    """Layouts are read as bytes and written as the convolutions take them, and so are the kernels."""
    size, values = _type_size(experiment), _batch(experiment).image.size
    return [Pass(kinds.COPIES, values * (1 + size)), *floor.conversions(_params(experiment), size)]


def _diffusion(used: Any, trained: Any, experiment: Experiment) -> list[Pass]:
    """Adam as AdamW, and the average of the weights: read and written."""
    size = _type_size(experiment)
    averages = [Pass(kinds.OPTIMIZER, 8 * leaf.size) for leaf in jax.tree.leaves(trained)]
    return [*floor.conversions(used, size), *floor.updates(trained, size), *averages]


def _params(experiment: Experiment) -> network.Params:
    return network.abstract_params(experiment.model)


def _batch(experiment: Experiment) -> Batch:
    count, side = experiment.config.batch_size, experiment.config.data.image_size
    numbers = jax.ShapeDtypeStruct((count,), np.int32)
    return Batch(jax.ShapeDtypeStruct((count, side, side, 3), np.uint8), numbers, numbers)


def _latents(experiment: Experiment) -> Any:
    shape = experiment.model.latent_shape(experiment.config.data.image_size)
    return jax.ShapeDtypeStruct((experiment.config.batch_size, *shape), np.float32)


def _recipe(experiment: Experiment) -> diffusion_steps.Recipe:
    return diffusion_steps.Recipe(dtype=experiment.model.compute_dtype)


def _type_size(experiment: Experiment) -> int:
    return jnp.dtype(experiment.model.compute_dtype).itemsize


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
