"""The training loop: cadence, checkpoints, early stopping, and where the numbers go."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from imginav_jax import evaluate, experiment, input_pipeline, metrics_csv, screen, steps, train_state
from imginav_jax.batch import Batch
from imginav_jax.checkpoints import Checkpoints
from imginav_jax.compiled import CompiledSteps, compile_steps
from imginav_jax.datasets import preparation
from imginav_jax.datasets.layout_file import decode_layout
from imginav_jax.early_stopping import EarlyStopping
from imginav_jax.errors import RunError, UserError
from imginav_jax.experiment import Experiment
from imginav_jax.input_pipeline import LayoutSource
from imginav_jax.optimizer import make_optimizer
from imginav_jax.outputs import Outputs, write_json
from imginav_jax.progress import Progress, logger
from imginav_jax.train_state import TrainState

_SCALARS_EVERY_STEPS = 10


@dataclasses.dataclass
class Position:
    """Where the loop stands, between two steps; with the state, all that a continuation needs."""

    step: int = 0  # optimizer steps done; the data position too, since batch n belongs to step n
    epoch: int = 0  # epochs finished
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of the metrics of this epoch's steps
    train_seconds: float = 0.0  # spent in this epoch's steps


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything about a run that does not change while it trains."""

    experiment: Experiment
    outputs: Outputs
    data: preparation.PreparedData
    train: LayoutSource
    validation: LayoutSource
    mesh: Mesh
    compiled: CompiledSteps

    @property
    def config(self) -> ConfigDict:
        return self.experiment.config

    @property
    def steps_per_epoch(self) -> int:
        return input_pipeline.steps_per_epoch(len(self.train), self.config.batch_size)

    @property
    def batch_sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec("data"))


def train(config: ConfigDict, workdir: str | None = None) -> None:
    """Trains until the last epoch or early stopping, from the latest checkpoint in the workdir if there is one.

    Args:
      config: of configs/phase1_2.py.
      workdir: default experiments/phase1/{name} under the current folder.

    Raises:
      UserError: the config, the data or the folders cannot be used.
      RunError: a loss became infinite or NaN.
    """
    exp = experiment.from_config(config)
    outputs = Outputs(exp.name, Path(workdir or f"experiments/phase1/{exp.name}"), Path(config.phase_dir))
    outputs.check_writable()
    mesh = _make_mesh(config.num_devices, config.batch_size)
    data = preparation.prepare(exp.data, exp.cache_dir)
    fingerprint = exp.fingerprint(data.key)
    outputs.check_same_experiment(fingerprint)
    stopping = EarlyStopping(config.early_stopping.patience, config.early_stopping.min_delta)
    position = _read_position(outputs, stopping)
    if _is_over(config, position, stopping) and outputs.summary_json(outputs.workdir).exists():
        screen.say_finished(outputs, position.epoch, stopping)
        return

    training = LayoutSource(data.directory, preparation.TRAIN)
    validation = LayoutSource(data.directory, preparation.VALIDATION)
    if len(training) < config.batch_size:
        raise UserError(f"config.batch_size is {config.batch_size}, but only {len(training)} layouts are for training")
    outputs.open({"fingerprint": fingerprint, "data": data.describe(), "config": config.to_dict()})
    screen.say_start(exp, data, len(training), len(validation), mesh, outputs)
    optimizer = make_optimizer(config.optimizer.learning_rate, config.optimizer.weight_decay)
    create = functools.partial(train_state.create, config=exp.model, optimizer=optimizer)
    replicated = NamedSharding(mesh, PartitionSpec())
    compiled = compile_steps(exp, optimizer, create, replicated, NamedSharding(mesh, PartitionSpec("data")))
    screen.say_compiled(compiled)
    run = Run(exp, outputs, data, training, validation, mesh, compiled)

    period = config.checkpoint.every_epochs * run.steps_per_epoch
    checkpoints = Checkpoints(outputs.checkpoints, keep_period=period)
    writer = _open_writer(outputs.workdir, config)
    try:
        if position.step:
            screen.say_resumed(position.step, position.epoch)
            state = checkpoints.restore(position.step, compiled.abstract_state)
        else:
            state = jax.jit(create, out_shardings=replicated)(jax.random.key(config.seed))
        _run_epochs(run, state, position, stopping, fingerprint, checkpoints, writer)
    finally:
        writer.close()
        checkpoints.close()
    _finish(run, stopping, position)
"""placeholder"""
