"""What an autoencoder costs: its training step, encoding and decoding, on synthetic layouts."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imginav_jax import model, steps, train_state
from imginav_jax.batch import Batch
from imginav_jax.benchmark import timing
from imginav_jax.benchmark.program import Program, Stepper, compile_program
from imginav_jax.benchmark.results import AutoencoderCost
from imginav_jax.benchmark.timing import Work
from imginav_jax.compiled import compiler_options
from imginav_jax.datasets import synthetic
from imginav_jax.datasets.manifest import TYPES
from imginav_jax.experiment import Experiment
from imginav_jax.optimizer import make_optimizer


class PreparedAutoencoder(NamedTuple):
    """Compiled, and ready to be timed."""

    experiment: Experiment
    parameters: int
    train: Program
    works: Mapping[str, Work]  # train, encode and decode


def synthetic_batch(batch_size: int, image_size: int, seed: int) -> Batch:
    """Layouts of as many synthetic scenes as it takes, on the device."""
    scenes = (synthetic.generate_scene(seed, index, image_size) for index in itertools.count())
    layouts = list(itertools.islice(itertools.chain.from_iterable(scenes), batch_size))
    types = np.array([TYPES.index(layout.type) for layout in layouts], np.int32)
    images = np.stack([layout.image for layout in layouts])
    return jax.device_put(Batch(images, types, np.arange(batch_size, dtype=np.int32), np.ones(batch_size, bool)))


def prepare(experiment: Experiment, batch: Batch) -> PreparedAutoencoder:
    """With fresh weights from the config's seed."""
    config, fields = experiment.model, experiment.config
    optimizer = make_optimizer(fields.optimizer.learning_rate, fields.optimizer.weight_decay)
    create = jax.jit(functools.partial(train_state.create, config=config, optimizer=optimizer))
    state = create(jax.random.key(fields.seed))
    params = jax.tree.map(jnp.copy, state.params)  # training donates its own
    train_step = functools.partial(
        steps.train_step,
        config=config,
        weights=experiment.weights,
        optimizer=optimizer,
        accumulate_steps=fields.accumulate_steps,
    )
    options = compiler_options(config)
    train = compile_program(train_step, state, batch, donates_first=True, compiler_options=options)
    encode = jax.jit(functools.partial(steps.encode, config=config))
    decode = jax.jit(functools.partial(steps.decode, config=config))
    latents = encode(params, batch.image)
    works: dict[str, Work] = {
        "train": Stepper(train.run, state, batch),
        "encode": functools.partial(encode, params, batch.image),
        "decode": functools.partial(decode, params, latents),
    }
    return PreparedAutoencoder(experiment, model.parameter_count(params), train, works)


def cost(run: str, prepared: PreparedAutoencoder, seconds: Mapping[str, Sequence[float]]) -> AutoencoderCost:
    """`seconds`: a call, of each of the works."""
    config, fields = prepared.experiment.model, prepared.experiment.config
    batch_size = fields.batch_size
    return AutoencoderCost(
        run=run,
        downsampling_steps=config.downsampling_steps,
        latent_shape=config.latent_shape(fields.data.image_size),
        parameters=prepared.parameters,
        compile_seconds=prepared.train.compile_seconds,
        train_memory_mib=prepared.train.memory_mib,
        train_flops_per_image=prepared.train.flops / batch_size,
        train=timing.timing(seconds["train"], batch_size),
        encode=timing.timing(seconds["encode"], batch_size),
        decode=timing.timing(seconds["decode"], batch_size),
    )
