"""The training loop: cadence, checkpoints, early stopping, and what stops a run."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jaxtyping import Int32

from imginav_jax.datasets import pictures
from imginav_jax.devices.mesh import batch_sharding, describe_devices, explain_out_of_memory
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import network
from imginav_jax.runs import checkpoints, weights
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError, first_line
from imginav_jax.system.log_file import LogFile
from imginav_jax.system.ownership import Ownership
from imginav_jax.system.progress import Progress
from imginav_jax.system.signals import Stop
from imginav_jax.training import evaluate, screen
from imginav_jax.training.compiled import peak_memory_mib
from imginav_jax.training.evaluate import Evaluation
from imginav_jax.training.records import EpochCosts, EpochRow, make_row, summarize
from imginav_jax.training.run import Position, Run, open_run
from imginav_jax.training.state import TrainState
from imginav_jax.training.steps import TrainMetrics

_SCALARS_EVERY_STEPS = 10
_LAYOUTS_NAMED = 8
_SKIPPED_IN_A_ROW = 100  # overflows that no loss scale will mend


class _CutOffError(Exception):
    """A signal has come while the validation split was evaluated."""


def train(
    config: RawConfig,
    workdir: str | None = None,
    stop: Stop | None = None,
    log: LogFile | None = None,
    owned: Sequence[Ownership] = (),
) -> None:
    """Trains to the last epoch or until early stopping, from the workdir's latest checkpoint if there is one.

    Args:
      config: as configs/phase1_2.py makes it.
      workdir: default experiments/phase1/{name} under the current folder.
      stop: notices the signals that end the run after the step at hand.
      log: is opened once the run is known to be this workdir's.
      owned: what the caller has of `Outputs.own` already.

    Raises:
      UserError: the config, the data or the folders cannot be used.
      RunError: a value became infinite or NaN, a checkpoint could not be saved, or the device's memory is too small.
      Interrupted: a signal has come, and what had been done is saved.
    """
    stop = stop or Stop()
    try:
        with explain_out_of_memory(), open_run(config, workdir, stop, log, owned) as run:
            if run is None:
                return
            _train_epochs(run, run.start_state())
            if run.is_over and run.position.rows:
                _finish(run)
                return
            run.checkpoints.wait()
            screen.say_stopped(run.position.step, run.position.epoch)
    except OSError as error:
        raise RunError(f"a file cannot be written or read: {error}") from error
    stop.check()


def _train_epochs(run: Run, state: TrainState) -> None:
    """Until the run is over or a signal has come; what has been done is saved either way."""
    config, position = run.config, run.position
    run.records.write_start(run.experiment.description, run.describe_model(), position.last_step)
    run.check_owned()
    run.records.write_csv(position.rows)
    if run.given is not None and not position.rows:
        _evaluate_given(run, state)
    if run.is_over:
        _save(run, state)  # another best may have been chosen
        return
    with contextlib.closing(read_batches(run)) as batches:
        while not run.is_over and not run.agreement.is_stopping:
            start = time.monotonic() - position.train_seconds
            state = train_epoch(run, state, batches)
            evaluation = None if run.agreement.is_stopping else _evaluate(run, state)
            row = None if evaluation is None else _close_epoch(run, evaluation, start)
            _save(run, state)
            if row is not None:
                run.records.write_epoch(position.rows)
                screen.say_epoch(row, config.num_epochs)
                screen.warn_of_collapse(row, run.experiment.model.latent_channels)
                if position.epoch % config.samples.every_epochs == 0:
                    _write_samples(run, state.evaluated, f"epoch_{position.epoch:03d}")


def read_batches(run: Run) -> Generator[Batch, None, None]:
    """Yields the training batches that are left; RunError where reading them fails."""
    config, done = run.config, run.position.step
    epochs, seed = config.num_epochs, config.seed
    dataset = pipeline.train_dataset(run.training, config.batch_size, epochs, seed, run.part)
    if done == len(dataset):
        return
    try:
        yield from pipeline.prefetch(dataset[done:], batch_sharding(run.mesh), config.data.num_workers)
    except Exception as error:  # a worker's end, a disk's failure, a damaged record
        if run.agreement.is_wanted and jax.process_count() == 1:
            return
        raise RunError(f"a batch soon after step {run.position.step} cannot be read: {first_line(error)}") from error


def _evaluate_given(run: Run, state: TrainState) -> None:
    """The row of epoch 0: what the weights are worth before a step."""
    start = time.monotonic()
    evaluation = _evaluate(run, state)
    if evaluation is None:
        return
    nothing_trained = _make_means(run, lambda _: math.nan)
    row = _add_row(run, nothing_trained, evaluation, math.nan, start)
    run.records.write_epoch(run.position.rows)
    screen.say_given(row)
    _write_samples(run, state.evaluated, "epoch_000")
    _save(run, state)


def train_epoch(run: Run, state: TrainState, batches: Iterator[Batch]) -> TrainState:
    """Takes the steps that are left of this epoch, or those until a signal, and returns the new state.

    Metrics are fetched a step late, so that a GPU need not wait.
    """
    config, position = run.config, run.position
    first, end = position.epoch * run.steps_per_epoch, (position.epoch + 1) * run.steps_per_epoch
    start, last_save = time.monotonic() - position.train_seconds, time.monotonic()
    done, total = (position.step - first) * config.batch_size, run.steps_per_epoch * config.batch_size
    pending = None
    with Progress(f"Epoch {position.epoch + 1}/{config.num_epochs}", total, "img", done) as progress:
        for step in range(position.step + 1, end + 1):
            batch = next(batches, None)
            if batch is None:  # a signal has ended the workers too
                run.agreement.settle(wants_save=False)
                break
            run.trace.begin(step, state)
            state, metrics = run.compiled.train(state, batch)
            run.trace.end(step, state)
            if pending is not None:
                _record(run, *pending, progress)
            pending = metrics, batch.index
            del batch  # the memory of its images is free for another
            save = run.agreement.settle(_is_due(config.checkpoint.every_minutes, last_save))
            if run.agreement.is_stopping:
                break
            if save:
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


def _record(run: Run, metrics: TrainMetrics, index: Int32[jax.Array, " b"], progress: Progress) -> None:
    """Counts a step whose metrics have arrived; RunError if they are not finite."""
    values = {name: float(value) for name, value in jax.device_get(metrics)._asdict().items() if value is not None}
    position = run.position
    position.step += 1
    fault = _find_fault(position, values)
    if fault is not None:
        indices = multihost_utils.process_allgather(index, tiled=True)
        layouts = [run.training.layout_id(int(index)) for index in indices]
        _stop_at(run, position.epoch + 1, fault, layouts, values)
    if not values["skipped"]:
        position.sums = {name: position.sums.get(name, 0.0) + value for name, value in values.items()}
    progress.advance(run.config.batch_size, f"loss {values['loss']:.4f}")
    if position.step == run.first_step:
        screen.say_first_step(position.step, values["loss"])
    if position.step % _SCALARS_EVERY_STEPS == 0:
        run.records.write_step(position.step, values)


def _find_fault(position: Position, values: dict[str, float]) -> str | None:
    """What makes this step the last; a step that the loss scale skips is counted, and is none unless it goes on."""
    if values["skipped"]:
        position.skipped += 1
        position.skipped_in_a_row += 1
        too_many = position.skipped_in_a_row >= _SKIPPED_IN_A_ROW
        return f"float16 has overflowed in {_SKIPPED_IN_A_ROW} steps in a row" if too_many else None
    position.skipped_in_a_row = 0
    return next((f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)), None)


def _stop_at(run: Run, epoch: int, what: str, layouts: list[str], values: dict[str, float]) -> None:
    """Leaves a file that says what was not finite and on what, then ends the run."""
    outputs, position = run.records.outputs, run.position
    found = {"step": position.step, "epoch": epoch, "what": what, "layouts": layouts, "values": values}
    path = run.records.write_not_finite(position.step, found)
    raise RunError(
        f"step {position.step} (epoch {epoch}): {what} on {', '.join(layouts[:_LAYOUTS_NAMED])}; "
        f"details in {path}; training stops, the checkpoints in {outputs.checkpoints} are from before"
    )


def _evaluate(run: Run, state: TrainState) -> Evaluation | None:
    """None if a signal has come before the end."""
    dataset = pipeline.eval_dataset(run.validation, run.config.batch_size, run.part)
    with Progress("Validation", len(dataset), "batches") as progress:
        batches = progress.count(pipeline.prefetch(dataset, batch_sharding(run.mesh)))
        try:
            return evaluate.evaluate(run.compiled.evaluate, state.evaluated, _until_stop(run, batches))
        except _CutOffError:
            return None


def _until_stop(run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        run.agreement.settle(wants_save=False)
        if run.agreement.is_stopping:
            raise _CutOffError
        yield batch


def _close_epoch(run: Run, evaluation: Evaluation, start: float) -> EpochRow:
    """The finished epoch's row; position and early stopping move on. RunError if the validation is not finite."""
    position = run.position
    counted = run.steps_per_epoch - position.skipped
    means = _make_means(run, lambda name: position.sums[name] / counted if counted else math.nan)
    images_per_second = run.steps_per_epoch * run.config.batch_size / position.train_seconds
    position.epoch += 1
    row = _add_row(run, means, evaluation, images_per_second, start)
    position.sums, position.skipped, position.train_seconds = {}, 0, 0.0
    return row


def _make_means(run: Run, value_of: Callable[[str], float]) -> TrainMetrics:
    """A value for each metric that the model has, by its name."""
    names = [name for name in TrainMetrics._fields if name != "kld" or run.experiment.model.variational]
    return TrainMetrics(**{name: value_of(name) for name in names})


def _add_row(run: Run, means: TrainMetrics, evaluation: Evaluation, images_per_second: float, start: float) -> EpochRow:
    position = run.position
    costs = EpochCosts(images_per_second, time.monotonic() - start, peak_memory_mib(run.compiled, run.mesh))
    row = make_row(position.epoch, position.step, means, evaluation, run.experiment.weights, costs)
    row |= {"skipped_steps": position.skipped, "learning_rate": run.learning_rate}
    row |= {"device": describe_devices(run.mesh), "data": run.records.data_kind}
    if not math.isfinite(row["val_loss"]):
        layouts = [run.validation.layout_id(index) for index in evaluation.not_finite]
        _stop_at(run, position.epoch, f"the validation loss is {row['val_loss']}", layouts, evaluation.losses._asdict())
    run.stopping.update(row["val_loss"], position.epoch, position.step)
    position.rows.append(row)
    return row


def _save(run: Run, state: TrainState) -> None:
    run.check_owned()
    stored: dict[str, Any] = {
        "position": dataclasses.asdict(run.position),
        "early_stopping": run.stopping.dump(),
        "fingerprint": run.fingerprint,
        weights.ARCHITECTURE: run.experiment.model.architecture(),
    }
    if state.ema is not None:
        stored[weights.TAKEN] = weights.EMA
    run.checkpoints.save(run.position.step, state.to_save(), stored, run.stopping.best_step)


def _write_samples(run: Run, params: network.Params, moment: str) -> None:
    """The same validation layouts each time, at full resolution."""
    chosen = pictures.spread_indices(len(run.validation), run.config.samples.count)
    images = run.validation.images(chosen)
    made = jax.device_get(run.compiled.reconstruct(params, images))
    run.records.write_samples(run.position.step, moment, images, made)


def _finish(run: Run) -> None:
    """Restores the best weights, draws what they make, and leaves a summary that says that the run is over."""
    outputs, stopping, position = run.records.outputs, run.stopping, run.position
    run.check_owned()
    run.checkpoints.wait()
    best = checkpoints.restore(outputs.checkpoints, stopping.best_step, run.compiled.abstract_state)
    _write_samples(run, best.evaluated, "best")
    summary = summarize(position.rows, stopping.best_epoch, run.config.num_epochs)
    checkpoint = str((outputs.checkpoints / str(stopping.best_step)).absolute())
    run.records.write_summary({**summary, "best_checkpoint": checkpoint, "data": run.data})
    screen.say_end(outputs, summary["best_epoch"], summary["stopped_early"])
