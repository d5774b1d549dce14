"""The training loop: cadence, checkpoints, early stopping, and where the numbers go."""

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imginav_jax import evaluate, experiment, input_pipeline, metrics_csv, model, screen, train_state
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
from imginav_jax.outputs import Outputs, write_json
from imginav_jax.progress import Progress
from imginav_jax.steps import TrainMetrics, weigh_losses
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
    """What a run works with; only what `position` and `stopping` say changes while it trains."""

    experiment: Experiment
    outputs: Outputs
    data: preparation.PreparedData
    training: LayoutSource
    validation: LayoutSource
    mesh: Mesh
    compiled: CompiledSteps
    checkpoints: Checkpoints
    writer: Any  # clu's MetricWriter
    fingerprint: dict[str, Any]
    position: Position
    stopping: EarlyStopping

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
    screen.say_start(exp, data, (len(training), len(validation)), mesh, outputs)
    outputs.open({"fingerprint": fingerprint, "data": data.describe(), "config": config.to_dict()})
    compiled = _compile(exp, mesh)
    period = config.checkpoint.every_epochs * input_pipeline.steps_per_epoch(len(training), config.batch_size)
    with (
        contextlib.closing(_open_writer(outputs)) as writer,
        contextlib.closing(Checkpoints(outputs.checkpoints, keep_period=period)) as checkpoints,
    ):
        run = Run(
            *(exp, outputs, data, training, validation, mesh, compiled),
            *(checkpoints, writer, fingerprint, position, stopping),
        )
        _train_epochs(run, _start_state(run))
        _finish(run)


def _make_mesh(num_devices: int, batch_size: int) -> Mesh:
    """A one-axis mesh; UserError where the batch does not divide or there are fewer devices."""
    devices = jax.devices()
    if num_devices > len(devices):
        raise UserError(f"config.num_devices is {num_devices}, but there are {len(devices)} ({devices[0].platform})")
    devices = devices[: num_devices or None]
    if batch_size % len(devices):
        raise UserError(f"config.batch_size is {batch_size}, expected a multiple of the {len(devices)} devices")
    return Mesh(np.array(devices), ("data",))


def _compile(exp: Experiment, mesh: Mesh) -> CompiledSteps:
    config = exp.config
    optimizer = make_optimizer(config.optimizer.learning_rate, config.optimizer.weight_decay)
    create = functools.partial(train_state.create, config=exp.model, optimizer=optimizer)
    shape = config.batch_size, config.data.image_size
    compiled = compile_steps(exp.model, exp.weights, optimizer, create, shape, mesh)
    parameters = model.parameter_count(compiled.abstract_state.params)
    screen.say_compiled(parameters, compiled.seconds, compiled.train_memory_mib)
    return compiled


def _open_writer(outputs: Outputs) -> Any:
    """clu's TensorBoard writer; TensorFlow is imported here and nowhere else, after every check of the input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow only writes event files here: its notes on
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # how it computes would mislead
    from clu import metric_writers

    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(outputs.workdir)))


def _read_position(outputs: Outputs, stopping: EarlyStopping) -> Position:
    """The latest checkpoint's position, and its early stopping into `stopping`; a fresh one where there is none."""
    stored = latest_position(outputs.checkpoints)
    if stored is None:
        return Position()
    stopping.load(stored["early_stopping"])
    return Position(**stored["position"])


def _is_over(config: Config, position: Position, stopping: EarlyStopping) -> bool:
    return position.epoch >= config.num_epochs or stopping.should_stop


def _start_state(run: Run) -> TrainState:
    if run.position.step:
        screen.say_resumed(run.position.step, run.position.epoch)
        return run.checkpoints.restore(run.position.step, run.compiled.abstract_state)
    return run.compiled.create(jax.random.key(run.config.seed))


def _train_epochs(run: Run, state: TrainState) -> None:
    config, position = run.config, run.position
    rows: list[Mapping[str, object]] = list(
        metrics_csv.read_rows(run.outputs.metrics_csv(run.outputs.workdir), position.epoch)
    )
    run.writer.write_hparams(_flatten(config) | {"data": run.data.kind})
    dataset = input_pipeline.train_dataset(run.training, config.batch_size, config.num_epochs, config.seed)
    batches = input_pipeline.prefetch(dataset[position.step :], batch_sharding(run.mesh), config.data.num_workers)
    while not _is_over(config, position, run.stopping):
        start = time.monotonic() - position.train_seconds
        state = _train_epoch(run, state, batches)
        evaluation = _evaluate(run, state)
        position.epoch += 1
        rows.append(_row(run, evaluation, time.monotonic() - start))
        val_loss = float(str(rows[-1]["val_loss"]))
        if not math.isfinite(val_loss):
            raise RunError(f"the validation loss after step {position.step} (epoch {position.epoch}) is {val_loss}")
        run.stopping.update(val_loss, position.epoch, position.step)
        position.sums, position.train_seconds = {}, 0.0
        _write_row(run, rows)
        _save(run, state)
        if position.epoch % config.samples.every_epochs == 0:
            _write_samples(run, state.params, f"epoch_{position.epoch:03d}")


def _train_epoch(run: Run, state: TrainState, batches: Iterator[Batch]) -> TrainState:
    """The steps that are left of this epoch; metrics are fetched while the next step runs."""
    config, position = run.config, run.position
    first = position.epoch * run.steps_per_epoch
    start = last_save = time.monotonic()
    earlier_seconds, pending = position.train_seconds, None
    done = (position.step - first) * config.batch_size
    with Progress(f"Epoch {position.epoch + 1}", run.steps_per_epoch * config.batch_size, "img", done) as progress:
        for _ in range(position.step, first + run.steps_per_epoch):
            state, metrics = run.compiled.train(state, next(batches))
            if pending is not None:
                _record(run, pending, progress)
            pending = metrics
            if config.checkpoint.every_minutes and time.monotonic() - last_save > 60 * config.checkpoint.every_minutes:
                _record(run, pending, progress)
                pending, last_save = None, time.monotonic()
                position.train_seconds = earlier_seconds + last_save - start
                _save(run, state)
        if pending is not None:
            _record(run, pending, progress)
    position.train_seconds = earlier_seconds + time.monotonic() - start
    return state


def _record(run: Run, pending: TrainMetrics, progress: Progress) -> None:
    """Counts a step whose metrics have arrived; RunError if they are not finite."""
    values = {name: float(value) for name, value in jax.device_get(pending)._asdict().items()}
    position = run.position
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise RunError(
            f"step {position.step + 1} (epoch {position.epoch + 1}): {bad[0]} is {values[bad[0]]}; training stops, "
            f"the checkpoints in {run.outputs.checkpoints} are those from before"
        )
    position.step += 1
    position.sums = {name: position.sums.get(name, 0.0) + value for name, value in values.items()}
    progress.advance(run.config.batch_size, f"loss {values['loss']:.4f}")
    if position.step % _SCALARS_EVERY_STEPS == 0:
        run.writer.write_scalars(position.step, {f"step/{name}": value for name, value in values.items()})


def _evaluate(run: Run, state: TrainState) -> evaluate.Evaluation:
    dataset = input_pipeline.eval_dataset(run.validation, run.config.batch_size)
    return evaluate.evaluate(
        run.compiled.evaluate, state.params, input_pipeline.prefetch(dataset, batch_sharding(run.mesh))
    )


def _row(run: Run, evaluation: evaluate.Evaluation, seconds: float) -> dict[str, object]:
    """One epoch's row: the original's columns first, loss terms multiplied by their weights, then ours."""
    position = run.position
    means = {name: total / run.steps_per_epoch for name, total in position.sums.items()}
    terms = weigh_losses(evaluation.losses, run.experiment.weights)
    return {
        "epoch": position.epoch,
        "train_loss": means["loss"],
        "train_MSE_rgb": means["mse_rgb"],
        "train_CE_segmentation": means["ce_segmentation"],
        "train_CE_classification": means["ce_classification"],
        "val_loss": sum(terms),
        "val_MSE_rgb": terms.mse_rgb,
        "val_CE_segmentation": terms.ce_segmentation,
        "val_CE_classification": terms.ce_classification,
        **evaluation.columns(),
        "learning_rate": run.config.optimizer.learning_rate,
        "grad_norm": means["grad_norm"],
        "images_per_second": run.steps_per_epoch * run.config.batch_size / position.train_seconds,
        "epoch_seconds": seconds,
        "peak_memory_mib": peak_memory_mib(run.compiled, run.mesh),
        "step": position.step,
        "data": run.data.kind,
    }


def _write_row(run: Run, rows: list[Mapping[str, object]]) -> None:
    row = dict(rows[-1])
    for folder in run.outputs.folders:
        metrics_csv.write_rows(run.outputs.metrics_csv(folder), rows)
    scalars = {name.replace("_", "/", 1) if name.startswith(("train_", "val_")) else f"epoch/{name}": value
               for name, value in row.items() if isinstance(value, float) and math.isfinite(value)}  # fmt: skip
    run.writer.write_scalars(run.position.step, scalars)
    run.writer.flush()
    screen.say_epoch(row, run.config.num_epochs)


def _save(run: Run, state: TrainState) -> None:
    position = {
        "position": dataclasses.asdict(run.position),
        "early_stopping": run.stopping.dump(),
        "fingerprint": run.fingerprint,
    }
    run.checkpoints.save(run.position.step, state, position, run.stopping.best_step)


def _write_samples(run: Run, params: model.Params, moment: str) -> None:
    """The same validation layouts each time, at full resolution, to both folders and TensorBoard."""
    source = run.validation
    chosen = evaluate.spread_indices(len(source), run.config.samples.count)
    images = np.stack([decode_layout(source[index]["image"]) for index in chosen])
    made = jax.device_get(run.compiled.reconstruct(params, images))
    title = [run.outputs.name, moment.replace("_", " "), *(["SYNTHETIC LAYOUTS"] if run.data.synthetic else [])]
    pairs = {
        "comparison": (images, made.rgb, ("input", "reconstruction")),
        "segmentation": (
            evaluate.true_classes_in_color(images),
            evaluate.color_classes(made.classes),
            ("true classes", "predicted classes"),
        ),
    }
    for kind, (left, right, captions) in pairs.items():
        picture = evaluate.side_by_side(left, right, captions, title)
        for folder in run.outputs.folders:
            picture.save(run.outputs.sample(folder, moment, kind))
        run.writer.write_images(run.position.step, {f"{moment.split('_')[0]}/{kind}": np.asarray(picture)})


def _finish(run: Run) -> None:
    """Restores the best weights, draws what they make, and leaves a summary that says that the run is over."""
    outputs, stopping = run.outputs, run.stopping
    run.checkpoints.wait()
    best = run.checkpoints.restore(stopping.best_step, run.compiled.abstract_state)
    _write_samples(run, best.params, "best")
    rows = metrics_csv.read_rows(outputs.metrics_csv(outputs.workdir), stopping.best_epoch)
    summary = {
        "epochs": run.position.epoch,
        "stopped_early": stopping.should_stop,
        "best_step": stopping.best_step,
        "best_checkpoint": str((outputs.checkpoints / str(stopping.best_step)).absolute()),
        "data": run.data.describe(),
        "best_epoch": rows[-1],
    }
    for folder in outputs.folders:
        write_json(outputs.summary_json(folder), summary)
    screen.say_end(outputs, rows[-1], stopping.should_stop)


def _flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: str(value)}
    return flat
