"""The training loop: cadence, checkpoints, early stopping, and what stops a run."""

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from imginav_jax import evaluate, experiment, input_pipeline, model, screen, train_state, weights
from imginav_jax.batch import Batch
from imginav_jax.checkpoints import Checkpoints, latest_position
from imginav_jax.compiled import CompiledSteps, batch_sharding, compile_steps, peak_memory_mib
from imginav_jax.datasets import preparation
from imginav_jax.datasets.layout_file import decode_layout
from imginav_jax.early_stopping import EarlyStopping
from imginav_jax.errors import RunError, UserError
from imginav_jax.experiment import Config, Experiment
from imginav_jax.input_pipeline import LayoutSource
from imginav_jax.optimizer import make_optimizer
from imginav_jax.outputs import Outputs, compare_fingerprints, read_json
from imginav_jax.progress import Progress
from imginav_jax.records import EpochCosts, Records, Row, make_row
from imginav_jax.steps import TrainMetrics
from imginav_jax.train_state import TrainState
from imginav_jax.weights import Weights

_SCALARS_EVERY_STEPS = 10
_LAYOUTS_NAMED = 8


@dataclasses.dataclass
class Position:
    """Where the loop stands, between two steps; with the state, all that a continuation needs."""

    step: int = 0  # optimizer steps done; the data position too, since batch n belongs to step n
    epoch: int = 0  # epochs finished
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of the metrics of this epoch's steps
    train_seconds: float = 0.0  # spent in this epoch's steps
    rows: list[Row] = dataclasses.field(default_factory=list)  # of the finished epochs


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run works with; only what `position` and `stopping` say changes while it trains."""

    experiment: Experiment
    fingerprint: dict[str, Any]
    training: LayoutSource
    validation: LayoutSource
    mesh: Mesh
    compiled: CompiledSteps
    records: Records
    checkpoints: Checkpoints
    position: Position
    stopping: EarlyStopping
    given: model.Params | None  # weights to start from

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def steps_per_epoch(self) -> int:
        return input_pipeline.steps_per_epoch(len(self.training), self.config.batch_size)


def train(config: Config, workdir: str | None = None) -> None:
    """Trains to the last epoch or until early stopping, from the workdir's latest checkpoint if there is one.

    Args:
      config: as configs/phase1_2.py makes it.
      workdir: default experiments/phase1/{name} under the current folder.

    Raises:
      UserError: the config, the data or the folders cannot be used.
      RunError: a loss became infinite or NaN.
    """
    exp = experiment.from_config(config)
    workdir = workdir or f"experiments/phase1/{exp.name}"
    outputs = Outputs(exp.name, Path(workdir).expanduser(), Path(config.phase_dir).expanduser())
    outputs.check_writable()
    given = _load_given(config)
    if given is not None:
        exp = exp.starting_from(given.config)
    mesh = _make_mesh(config.num_devices, config.batch_size)
    data = preparation.prepare(exp.data, exp.cache_dir)
    fingerprint = exp.fingerprint(f"{data.kind} {data.key}", given and weights.digest(given.params))
    outputs.check_same_experiment(fingerprint)
    stopping = EarlyStopping(config.early_stopping.patience, config.early_stopping.min_delta)
    position = _read_position(outputs, fingerprint, stopping)
    if _is_over(config, position, stopping) and _is_summed_up(outputs, position):
        screen.say_finished(outputs, position.epoch, stopping)
        return

    training = LayoutSource(data.directory, preparation.TRAIN)
    validation = LayoutSource(data.directory, preparation.VALIDATION)
    if len(training) < config.batch_size:
        raise UserError(f"config.batch_size is {config.batch_size}, but only {len(training)} layouts are for training")
    screen.say_start(exp, data, (len(training), len(validation)), mesh, outputs)
    outputs.open({"fingerprint": fingerprint, "data": data.describe(), "config": config.to_dict()})
    compiled = _compile(exp, mesh)
    with (
        contextlib.closing(_open_writer(outputs)) as writer,
        contextlib.closing(_open_checkpoints(outputs, config, len(training))) as checkpoints,
    ):
        run = Run(
            experiment=exp,
            fingerprint=fingerprint,
            training=training,
            validation=validation,
            mesh=mesh,
            compiled=compiled,
            records=Records(outputs, writer, data.kind),
            checkpoints=checkpoints,
            position=position,
            stopping=stopping,
            given=given and given.params,
        )
        _train_epochs(run, _start_state(run))
        _finish(run, data.describe())


def _load_given(config: Config) -> Weights | None:
    return None if config.init_from is None else weights.load(Path(config.init_from).expanduser())


def _make_mesh(num_devices: int, batch_size: int) -> Mesh:
    """A one-axis mesh; UserError where the batch does not divide or there are fewer devices."""
    devices = jax.devices()
    if num_devices > len(devices):
        raise UserError(f"config.num_devices is {num_devices}, but there are {len(devices)} ({devices[0].platform})")
    devices = devices[: num_devices or None]
    if batch_size % len(devices):
        raise UserError(f"config.batch_size is {batch_size}, expected a multiple of the {len(devices)} devices")
    return Mesh(np.array(devices), ("data",))


def _read_position(outputs: Outputs, fingerprint: dict[str, Any], stopping: EarlyStopping) -> Position:
    """The latest checkpoint's position, and its early stopping into `stopping`; a fresh one where there is none."""
    stored = latest_position(outputs.checkpoints)
    if stored is None:
        return Position()
    if "fingerprint" not in stored:
        raise UserError(f"--workdir {outputs.workdir} is an imported checkpoint; start from it by --config.init_from")
    compare_fingerprints(str(outputs.checkpoints), stored["fingerprint"], fingerprint)
    stopping.load(stored["early_stopping"])
    return Position(**stored["position"])


def _is_over(config: Config, position: Position, stopping: EarlyStopping) -> bool:
    return position.epoch >= config.num_epochs or stopping.should_stop


def _is_summed_up(outputs: Outputs, position: Position) -> bool:
    path = outputs.summary_json(outputs.workdir)
    return path.exists() and read_json(path).get("epochs") == position.epoch


def _compile(exp: Experiment, mesh: Mesh) -> CompiledSteps:
    config = exp.config
    optimizer = make_optimizer(config.optimizer.learning_rate, config.optimizer.weight_decay)
    create = functools.partial(train_state.create, config=exp.model, optimizer=optimizer)
    screen.say_compiling()
    shape = config.batch_size, config.data.image_size
    compiled = compile_steps(exp.model, exp.weights, optimizer, create, shape, mesh)
    parameters = model.parameter_count(compiled.abstract_state.params)
    screen.say_compiled(parameters, compiled.seconds, compiled.train_memory_mib)
    return compiled


def _open_writer(outputs: Outputs) -> Any:
    """clu's TensorBoard writer; TensorFlow is imported here and nowhere else, after every check of the input."""
    # TensorFlow only writes event files here; its notes on how it computes would mislead.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from clu import metric_writers

    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(outputs.workdir)))


def _open_checkpoints(outputs: Outputs, config: Config, num_training: int) -> Checkpoints:
    steps_per_epoch = input_pipeline.steps_per_epoch(num_training, config.batch_size)
    return Checkpoints(outputs.checkpoints, keep_period=config.checkpoint.every_epochs * steps_per_epoch)


def _start_state(run: Run) -> TrainState:
    if run.position.step:
        screen.say_resumed(run.position.step, run.position.epoch)
        return run.checkpoints.restore(run.position.step, run.compiled.abstract_state)
    state = run.compiled.create(jax.random.key(run.config.seed))
    if run.given is None:
        return state
    sharding = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    return state._replace(params=jax.device_put(run.given, sharding))


def _train_epochs(run: Run, state: TrainState) -> None:
    config, position = run.config, run.position
    run.records.write_start(config)
    if run.given is not None and not position.rows:
        _evaluate_given(run, state)
    if config.num_epochs == 0:
        return
    dataset = input_pipeline.train_dataset(run.training, config.batch_size, config.num_epochs, config.seed)
    sharding = batch_sharding(run.mesh)
    batches = input_pipeline.prefetch(dataset[position.step :], sharding, config.data.num_workers)
    while not _is_over(config, position, run.stopping):
        start = time.monotonic() - position.train_seconds
        state = _train_epoch(run, state, batches)
        evaluation = _evaluate(run, state)
        row = _close_epoch(run, evaluation, start)
        run.records.write_epochs(position.rows)
        screen.say_epoch(row, config.num_epochs)
        if position.epoch % config.samples.every_epochs == 0:
            _write_samples(run, state.params, f"epoch_{position.epoch:03d}")
        _save(run, state)


def _evaluate_given(run: Run, state: TrainState) -> None:
    """The row of epoch 0: what the weights are worth before a step."""
    start = time.monotonic()
    nothing_trained = TrainMetrics(*[math.nan] * len(TrainMetrics._fields))
    row = _add_row(run, nothing_trained, _evaluate(run, state), math.nan, start)
    run.records.write_epochs(run.position.rows)
    screen.say_given(row)
    _write_samples(run, state.params, "epoch_000")
    _save(run, state)


def _train_epoch(run: Run, state: TrainState, batches: Iterator[Batch]) -> TrainState:
    """The steps that are left of this epoch; metrics are fetched while the next step runs."""
    config, position = run.config, run.position
    first, end = position.epoch * run.steps_per_epoch, (position.epoch + 1) * run.steps_per_epoch
    start, last_save = time.monotonic() - position.train_seconds, time.monotonic()
    done, total = (position.step - first) * config.batch_size, run.steps_per_epoch * config.batch_size
    pending = None
    with Progress(f"Epoch {position.epoch + 1}/{config.num_epochs}", total, "img", done) as progress:
        for step in range(position.step + 1, end + 1):
            batch = next(batches)
            state, metrics = run.compiled.train(state, batch)
            if pending is not None:
                _record(run, *pending, progress)
            pending = metrics, batch
            # Not at the end of an epoch: its own save follows, with the validation in it.
            if step < end and _is_due(config.checkpoint.every_minutes, last_save):
                _record(run, *pending, progress)
                pending, last_save = None, time.monotonic()
                position.train_seconds = last_save - start
                _save(run, state)
        if pending is not None:
            _record(run, *pending, progress)
    position.train_seconds = time.monotonic() - start
    return state


def _is_due(every_minutes: float, last_save: float) -> bool:
    return every_minutes > 0 and time.monotonic() - last_save >= 60 * every_minutes


def _record(run: Run, metrics: TrainMetrics, batch: Batch, progress: Progress) -> None:
    """Counts a step whose metrics have arrived; RunError if they are not finite."""
    values = {name: float(value) for name, value in jax.device_get(metrics)._asdict().items()}
    position = run.position
    for name, value in values.items():
        if not math.isfinite(value):
            layouts = [run.training.layout_id(int(index)) for index in np.asarray(batch.index)[:_LAYOUTS_NAMED]]
            raise RunError(
                f"step {position.step + 1} (epoch {position.epoch + 1}): {name} is {value} on {', '.join(layouts)}; "
                f"training stops, the checkpoints in {run.records.outputs.checkpoints} are from before"
            )
    position.step += 1
    position.sums = {name: position.sums.get(name, 0.0) + value for name, value in values.items()}
    progress.advance(run.config.batch_size, f"loss {values['loss']:.4f}")
    if position.step % _SCALARS_EVERY_STEPS == 0:
        run.records.write_step(position.step, values)


def _evaluate(run: Run, state: TrainState) -> evaluate.Evaluation:
    dataset = input_pipeline.eval_dataset(run.validation, run.config.batch_size)
    with Progress("Validation", len(dataset), "batches") as progress:
        batches = progress.count(input_pipeline.prefetch(dataset, batch_sharding(run.mesh)))
        return evaluate.evaluate(run.compiled.evaluate, state.params, batches)


def _close_epoch(run: Run, evaluation: evaluate.Evaluation, start: float) -> Row:
    """The finished epoch's row; position and early stopping move on. RunError if the validation is not finite."""
    position = run.position
    position.epoch += 1
    means = TrainMetrics(**{name: total / run.steps_per_epoch for name, total in position.sums.items()})
    images_per_second = run.steps_per_epoch * run.config.batch_size / position.train_seconds
    row = _add_row(run, means, evaluation, images_per_second, start)
    position.sums, position.train_seconds = {}, 0.0
    return row


def _add_row(
    run: Run, means: TrainMetrics, evaluation: evaluate.Evaluation, images_per_second: float, start: float
) -> Row:
    position, config = run.position, run.config
    costs = EpochCosts(images_per_second, time.monotonic() - start, peak_memory_mib(run.compiled, run.mesh))
    row = make_row(position.epoch, position.step, means, evaluation, run.experiment.weights, costs)
    row |= {"learning_rate": config.optimizer.learning_rate, "data": run.records.data_kind}
    if not math.isfinite(row["val_loss"]):
        raise RunError(f"the validation loss after step {position.step} (epoch {position.epoch}) is {row['val_loss']}")
    run.stopping.update(row["val_loss"], position.epoch, position.step)
    position.rows.append(row)
    return row


def _save(run: Run, state: TrainState) -> None:
    stored = {
        "position": dataclasses.asdict(run.position),
        "early_stopping": run.stopping.dump(),
        "fingerprint": run.fingerprint,
        weights.ARCHITECTURE: run.experiment.model.architecture(),
    }
    run.checkpoints.save(run.position.step, state, stored, run.stopping.best_step)


def _write_samples(run: Run, params: model.Params, moment: str) -> None:
    """The same validation layouts each time, at full resolution."""
    chosen = evaluate.spread_indices(len(run.validation), run.config.samples.count)
    images = np.stack([decode_layout(run.validation[index]["image"]) for index in chosen])
    made = jax.device_get(run.compiled.reconstruct(params, images))
    run.records.write_samples(run.position.step, moment, images, made)


def _finish(run: Run, data: dict[str, Any]) -> None:
    """Restores the best weights, draws what they make, and leaves a summary that says that the run is over."""
    outputs, stopping, position = run.records.outputs, run.stopping, run.position
    run.checkpoints.wait()
    best = run.checkpoints.restore(stopping.best_step, run.compiled.abstract_state)
    _write_samples(run, best.params, "best")
    row = next(row for row in position.rows if row["epoch"] == stopping.best_epoch)
    stopped_early = position.epoch < run.config.num_epochs
    summary = {
        "epochs": position.epoch,
        "stopped_early": stopped_early,
        "best_checkpoint": str((outputs.checkpoints / str(stopping.best_step)).absolute()),
        "best_epoch": row,
        "data": data,
    }
    run.records.write_summary(summary)
    screen.say_end(outputs, row, stopped_early)
