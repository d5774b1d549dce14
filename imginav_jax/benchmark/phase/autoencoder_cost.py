"""What an autoencoder costs: its training step, encoding and decoding, on synthetic layouts.

Here every part of the benchmark gets its experiment, its batch and its programs.
"""

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
from imginav_jax.runs.experiment import Experiment, RawConfig, from_config
from imginav_jax.runs.results.benchmark_file import AutoencoderCost
from imginav_jax.training import state, steps


class PreparedAutoencoder(NamedTuple):
    """Compiled, and ready to be timed; by what is done: train, eval, encode, decode."""

    experiment: Experiment
    batch: Batch  # on the device
    params: network.Params  # at the start
    programs: Mapping[str, Program]
    works: Mapping[str, Work]


def change(config: RawConfig, changes: Mapping[str, Any]) -> RawConfig:
    """Returns a copy with other values, by key: "model.remat"."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return changed


def fresh_experiment(config: RawConfig, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Returns a config's experiment with fresh weights, whatever its `init_from`; UserError where a value is unfit."""
    return from_config(change(config, {**(changes or {}), "init_from": None}))


def synthetic_batch(config: RawConfig) -> Batch:
    """Returns layouts of as many synthetic scenes as it takes, of the config's sizes and seed, on the device."""
    scenes = (synthetic.generate_scene(config.data.seed, index, config.data.image_size) for index in itertools.count())
    layouts = list(itertools.islice(itertools.chain.from_iterable(scenes), config.batch_size))
    types = np.array([TYPES.index(layout.type) for layout in layouts], np.int32)
    images = np.stack([layout.image for layout in layouts])
    return jax.device_put(Batch(images, types, np.arange(len(layouts), dtype=np.int32)))


def prepare(experiment: Experiment, names: Collection[str]) -> PreparedAutoencoder:
    """Compiles the programs that are named; returns them with a batch, and fresh weights from the config's seed."""
    config, batch = experiment.model, synthetic_batch(experiment.config)
    create = jax.jit(state.of_experiment(experiment)[1])
    fresh = create(jax.random.key(experiment.config.seed))
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
    return PreparedAutoencoder(experiment, batch, params, programs, works)


def _compile(experiment: Experiment, name: str, inputs: Sequence[Any]) -> Program:
    config = experiment.model
    if name == "train":
        step = functools.partial(
            steps.train_step,
            config=config,
            weights=experiment.weights,
            optimizer=state.of_experiment(experiment)[0],
            accumulate_steps=experiment.config.accumulate_steps,
            ema_decay=experiment.config.ema_decay,
        )
        return compile_program(step, *inputs, donates_first=True, keep_barriers=config.remat)
    function = {"eval": steps.eval_step, "encode": inference.encode, "decode": inference.decode}[name]
    return compile_program(functools.partial(function, config=config), *inputs)


def cost(run: str, prepared: PreparedAutoencoder, seconds: Mapping[str, Sequence[float]]) -> AutoencoderCost:
    """Returns the cost of a run, from the seconds that a call of each of its works took, by round."""
    model, fields, train = prepared.experiment.model, prepared.experiment.config, prepared.programs["train"]
    timings = {name: timing.summarize(each, fields.batch_size) for name, each in seconds.items()}
    return AutoencoderCost(
        run=run,
        downsampling_steps=model.downsampling_steps,
        latent_shape=model.latent_shape(fields.data.image_size),
        parameters=network.parameter_count(prepared.params),
        compile_seconds=train.compile_seconds,
        train_memory_mib=train.memory_mib,
        train_flops_per_image=train.flops / fields.batch_size,
        **timings,
    )
