"""What an autoencoder costs: its training step, encoding and decoding, on synthetic layouts."""

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imginav_jax.benchmark import timing
from imginav_jax.benchmark.program import Program, Stepper, compile_program
from imginav_jax.benchmark.sampling import Work
from imginav_jax.datasets import synthetic
from imginav_jax.datasets.manifest import TYPES
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import inference, network
from imginav_jax.runs.benchmark_file import AutoencoderCost
from imginav_jax.runs.experiment import Experiment, RawConfig, from_config
from imginav_jax.training import state, steps


class PreparedAutoencoder(NamedTuple):
    """Compiled, and ready to be timed; by what is done: train, eval, encode, decode."""

    experiment: Experiment
    params: network.Params  # at the start
    programs: Mapping[str, Program]
    works: Mapping[str, Work]


def fresh_experiment(config: RawConfig) -> Experiment:
    """The config's, but with fresh weights, whatever its `init_from`.

    Raises:
      UserError: a value is out of range.
    """
    changed = config.copy_and_resolve_references()
    changed.init_from = None
    return from_config(changed)


def synthetic_batch(batch_size: int, image_size: int, seed: int) -> Batch:
    """Layouts of as many synthetic scenes as it takes, on the device."""
    scenes = (synthetic.generate_scene(seed, index, image_size) for index in itertools.count())
    layouts = list(itertools.islice(itertools.chain.from_iterable(scenes), batch_size))
    types = np.array([TYPES.index(layout.type) for layout in layouts], np.int32)
    images = np.stack([layout.image for layout in layouts])
    return jax.device_put(Batch(images, types, np.arange(batch_size, dtype=np.int32)))


def prepare(experiment: Experiment, batch: Batch, names: Collection[str]) -> PreparedAutoencoder:
    """Those of the programs that are named, with fresh weights from the config's seed."""
    config, fields = experiment.model, experiment.config
    create = jax.jit(state.of_experiment(experiment)[1])
    fresh = create(jax.random.key(fields.seed))
    params = jax.tree.map(jnp.copy, fresh.params)  # training donates its own
    inputs: dict[str, tuple[Any, ...]] = {
        "train": (fresh, batch),
        "eval": (params, batch),
        "encode": (params, batch.image),
    }
    if "decode" in names:
        inputs["decode"] = params, jax.jit(functools.partial(inference.encode, config=config))(params, batch.image)
    programs = {name: _compile(experiment, name, inputs[name]) for name in names}
    works: dict[str, Work] = {
        name: (Stepper if name == "train" else functools.partial)(program.run, *inputs[name])
        for name, program in programs.items()
    }
    return PreparedAutoencoder(experiment, params, programs, works)


def _compile(experiment: Experiment, name: str, inputs: Sequence[Any]) -> Program:
    config, fields = experiment.model, experiment.config
    if name == "train":
        step = functools.partial(
            steps.train_step,
            config=config,
            weights=experiment.weights,
            optimizer=state.of_experiment(experiment)[0],
            accumulate_steps=fields.accumulate_steps,
        )
        return compile_program(step, *inputs, donates_first=True, keep_barriers=config.remat)
    function = {"eval": steps.eval_step, "encode": inference.encode, "decode": inference.decode}[name]
    return compile_program(functools.partial(function, config=config), *inputs)


def cost(run: str, prepared: PreparedAutoencoder, seconds: Mapping[str, Sequence[float]]) -> AutoencoderCost:
    """`seconds`: a call, of each of the works."""
    config, fields = prepared.experiment.model, prepared.experiment.config
    batch_size = fields.batch_size
    return AutoencoderCost(
        run=run,
        downsampling_steps=config.downsampling_steps,
        latent_shape=config.latent_shape(fields.data.image_size),
        parameters=network.parameter_count(prepared.params),
        compile_seconds=prepared.programs["train"].compile_seconds,
        train_memory_mib=prepared.programs["train"].memory_mib,
        train_flops_per_image=prepared.programs["train"].flops / batch_size,
        train=timing.summarize(seconds["train"], batch_size),
        encode=timing.summarize(seconds["encode"], batch_size),
        decode=timing.summarize(seconds["decode"], batch_size),
    )
