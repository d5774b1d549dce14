"""A run and all that it works with: opened once, checked first, closed whatever happens."""

import contextlib
import copy
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from imginav_jax.datasets import preparation
from imginav_jax.devices import cards, distributed
from imginav_jax.devices.distributed import Agreement
from imginav_jax.devices.mesh import make_mesh, memory_limit_mib
from imginav_jax.devices.trace import Trace
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.pipeline import Part
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.models import network
from imginav_jax.runs import checkpoints, experiment, weights
from imginav_jax.runs.checkpoints import Checkpoints
from imginav_jax.runs.experiment import Config, Experiment, RawConfig
from imginav_jax.runs.outputs import Outputs, compare_fingerprints, locate
from imginav_jax.runs.weights import Weights
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user
from imginav_jax.system.log_file import LogFile
from imginav_jax.system.ownership import Ownership
from imginav_jax.system.signals import Stop
from imginav_jax.training import screen, state, writers
from imginav_jax.training.compiled import CompiledSteps, compile_steps
from imginav_jax.training.early_stopping import EarlyStopping
from imginav_jax.training.records import EpochRow, Records, are_recorded, summarize
from imginav_jax.training.state import TrainState
from imginav_jax.training.writers import Opener, OptionalWriter


@dataclasses.dataclass
class Position:
    """Where the loop stands, between two steps; with the state, all that a continuation needs."""

    step: int = 0  # optimizer steps done; the data position too, since batch n belongs to step n
    epoch: int = 0  # epochs finished
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of the metrics of this epoch's steps
    skipped: int = 0  # steps of this epoch that float16 has overflowed in; they are in no sum
    skipped_in_a_row: int = 0
    train_seconds: float = 0.0  # spent in this epoch's steps
    rows: list[EpochRow] = dataclasses.field(default_factory=list)  # of the finished epochs

    @property
    def last_step(self) -> int:
        """The last step of which something has been recorded; -1 at a run's beginning."""
        return self.step if self.step or self.rows else -1


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run works with; only what `position`, `stopping` and `agreement` say changes while it trains."""

    experiment: Experiment
    fingerprint: dict[str, Any]
    data: dict[str, Any]  # what the data set is, for the summary
    training: LayoutSource
    validation: LayoutSource
    mesh: Mesh
    compiled: CompiledSteps
    records: Records
    checkpoints: Checkpoints
    owned: Sequence[Ownership]  # of the folders; empty where another process of the run has them
    position: Position
    stopping: EarlyStopping
    agreement: Agreement
    given: network.Params | None  # weights to start from
    first_step: int  # that this start of the run does
    trace: Trace

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def steps_per_epoch(self) -> int:
        return pipeline.steps_per_epoch(len(self.training), self.config.batch_size)

    @property
    def learning_rate(self) -> float:
        """That of the last update; a step that float16 has overflowed in is none."""
        schedule = state.make_schedule(self.config.optimizer, self.steps_per_epoch * self.config.num_epochs)
        if not callable(schedule):
            return schedule
        skipped = self.position.skipped + sum(row["skipped_steps"] for row in self.position.rows)
        return float(jax.device_get(schedule(max(self.position.step - skipped - 1, 0))))

    @property
    def part(self) -> Part:
        """This process's rows of every batch."""
        return Part(jax.process_index(), jax.process_count())

    def describe_model(self) -> dict[str, Any]:
        """Returns what the config does not say of the run by itself, as text and numbers."""
        shape = self.experiment.model.latent_shape(self.config.data.image_size)
        return {
            "name": self.experiment.name,
            "latent": "x".join(map(str, shape)),
            "parameters": network.parameter_count(self.compiled.abstract_state.params),
        }

    def check_owned(self) -> None:
        """Raises RunError where another process has taken the workdir over."""
        for each in self.owned:
            each.check()

    @property
    def is_over(self) -> bool:
        return _is_over(self.config, self.position, self.stopping)

    def start_state(self) -> TrainState:
        """Returns the latest checkpoint's state, or the given weights', or a fresh one, on its devices.

        Raises:
          UserError: the checkpoint that the run goes on from is gone or cannot be restored.
        """
        abstract, position = self.compiled.abstract_state, self.position
        if position.step or self.checkpoints.has(position.step):  # never fresh weights in the middle of a run
            screen.say_resumed(position.step, position.epoch)
            return checkpoints.restore(self.records.outputs.checkpoints, position.step, abstract, is_verified=True)
        fresh = self.compiled.create(jax.random.key(self.config.seed))
        if self.given is None:
            return fresh
        sharding = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
        given = jax.device_get(self.given)
        ema = None if fresh.ema is None else jax.device_put(given, sharding)
        return fresh._replace(params=jax.device_put(given, sharding), ema=ema)


@contextlib.contextmanager
def open_run(
    config: RawConfig,
    workdir: str | None,
    stop: Stop,
    log: LogFile | None = None,
    owned: Sequence[Ownership] = (),
) -> Iterator[Run | None]:
    """Checks everything, prepares the data, compiles and yields the run; None where it has finished already.

    Raises:
      UserError: the config, the data or the folders cannot be used.
      RunError: the last save failed.
    """
    exp = experiment.from_config(config)
    outputs = locate(config, workdir)
    with contextlib.ExitStack() as held:
        if not owned and distributed.is_primary():
            owned = held.enter_context(outputs.own())
        yield held.enter_context(_open_owned(exp, outputs, owned, stop, log))


@contextlib.contextmanager
def _open_owned(
    exp: Experiment, outputs: Outputs, owned: Sequence[Ownership], stop: Stop, log: LogFile | None
) -> Iterator[Run | None]:
    config = exp.config
    _quiet_tensorflow()  # before there are threads, to which a change of the environment is a danger
    openers = writers.find(config.logger_names)
    outputs.check_writable()
    card = cards.find()
    cards.check_cudnn(card.name, cards.cudnn_version())
    given, given_digest = _load_given(config)
    if given is not None:
        exp = exp.starting_from(given.config)
    mesh = make_mesh(config.num_devices, config.batch_size, config.accumulate_steps)
    data = preparation.prepare(exp.data, exp.cache_dir)
    training = LayoutSource(data.directory, preparation.TRAIN)
    validation = LayoutSource(data.directory, preparation.VALIDATION)
    num_steps = _count_steps(config, len(training))
    fingerprint = exp.fingerprint(data.fingerprint, given_digest, num_steps)
    outputs.check_same_experiment(fingerprint)
    stopping = EarlyStopping(config.early_stopping.patience, config.early_stopping.min_delta)
    position = _find_position(outputs, fingerprint, stopping)
    if _is_over(config, position, stopping) and _is_summed_up(outputs, config, stopping, position):
        screen.say_finished(outputs, position.epoch, stopping)
        yield None
        return

    screen.say_start(exp, data, (len(training), len(validation)), mesh, outputs, card)
    if distributed.is_primary():
        outputs.open({"fingerprint": fingerprint, "data": data.describe(), "config": exp.description})
        if log is not None:
            log.open()
    multihost_utils.sync_global_devices("the folders are there")
    compiled = _compile(exp, mesh, num_steps)
    checkpoints.require_space(outputs.checkpoints, compiled.abstract_state, _checkpoints_kept(config))
    stop.defer()
    if jax.process_count() == 1:  # else all stop together, after a step
        stop.check()
    for each in owned:  # before anything of an earlier start is touched
        each.check()
    open_writer = functools.partial(_open_writer, openers, exp, outputs, position.last_step, owned)
    with (
        contextlib.closing(OptionalWriter(open_writer)) as writer,
        contextlib.closing(_open_checkpoints(outputs, config, len(training))) as kept,
        contextlib.closing(_open_trace(outputs, config, num_steps)) as trace,
    ):
        yield Run(
            experiment=exp,
            fingerprint=fingerprint,
            data=data.describe(),
            training=training,
            validation=validation,
            mesh=mesh,
            compiled=compiled,
            records=Records(outputs, writer, data.kind, distributed.is_primary()),
            checkpoints=kept,
            owned=owned,
            position=position,
            stopping=stopping,
            agreement=Agreement(stop, mesh),
            given=given and given.params,
            first_step=position.step + 1,
            trace=trace,
        )


def _count_steps(config: Config, num_training: int) -> int:
    """Those of the whole run; UserError where the config does not fit them."""
    if num_training < config.batch_size:
        raise UserError(f"config.batch_size is {config.batch_size}, but only {num_training} layouts are for training")
    num_steps, fields = config.num_epochs * pipeline.steps_per_epoch(num_training, config.batch_size), config.optimizer
    if fields.schedule == "cosine" and 0 < num_steps <= fields.warmup_steps:
        expected = f"less than the {num_steps} steps of the run for config.optimizer.schedule cosine"
        raise UserError(f"config.optimizer.warmup_steps is {fields.warmup_steps}, expected {expected}")
    return num_steps


def _load_given(config: Config) -> tuple[Weights | None, str | None]:
    """The weights to start from and their digest."""
    if config.init_from is None:
        return None, None
    place = expand_user(config.init_from)
    return weights.load_given(place, config.init_step, config.init_sha256, config.init_log_variance)


def _find_position(outputs: Outputs, fingerprint: dict[str, Any], stopping: EarlyStopping) -> Position:
    """That of the latest sound checkpoint, its early stopping put into `stopping`; a fresh one where there is none.

    Damaged checkpoints are named and moved out of the way.
    """
    found = checkpoints.find(outputs.checkpoints)
    if found is None:
        return Position()
    stored = found.contents
    if "fingerprint" not in stored:
        raise UserError(f"--workdir {outputs.workdir} is an imported checkpoint; start from it by --config.init_from")
    compare_fingerprints(str(outputs.checkpoints), stored["fingerprint"], fingerprint)
    stopping.load(stored["early_stopping"])
    position = Position(**stored["position"])
    if found.damaged:
        multihost_utils.sync_global_devices("every process has looked at the checkpoints")
        place = checkpoints.set_aside(outputs.checkpoints, list(found.damaged))
        screen.say_damaged(found.damaged, found.step, place)
    if stopping.best_epoch in [row["epoch"] for row in position.rows] and stopping.best_step not in found.sound:
        _choose_another_best(position, stopping)
    return position


def _choose_another_best(position: Position, stopping: EarlyStopping) -> None:
    """The best checkpoint is lost: the one that goes on is the best that is left, if it closed an epoch."""
    screen.say_best_lost(stopping.best_epoch)
    last = position.rows[-1]
    closed_an_epoch = last["step"] == position.step
    stopping.replace_best(*((last["val_loss"], last["epoch"], last["step"]) if closed_an_epoch else ()))


def _is_over(config: Config, position: Position, stopping: EarlyStopping) -> bool:
    return position.epoch >= config.num_epochs or stopping.should_stop


def _is_summed_up(outputs: Outputs, config: Config, stopping: EarlyStopping, position: Position) -> bool:
    """Whether the run's CSV files and summaries are there and say what its checkpoint says."""
    if not any(row["epoch"] == stopping.best_epoch for row in position.rows):
        return False
    return are_recorded(outputs, position.rows, summarize(position.rows, stopping.best_epoch, config.num_epochs))


def _compile(exp: Experiment, mesh: Mesh, num_steps: int) -> CompiledSteps:
    config = exp.config
    optimizer, create = state.of_experiment(exp, num_steps)
    screen.say_compiling()
    shape = config.batch_size, config.data.image_size
    parts, seed, decay = config.accumulate_steps, config.seed, config.ema_decay
    compiled = compile_steps(exp.model, exp.weights, optimizer, create, shape, mesh, parts, seed, decay)
    parameters = network.parameter_count(compiled.abstract_state.params)
    screen.say_compiled(parameters, compiled.seconds, compiled.train_memory_mib, memory_limit_mib(mesh))
    return compiled


def _checkpoints_kept(config: Config) -> int:
    return checkpoints.count_kept(config.num_epochs, config.checkpoint.every_epochs)


def _open_writer(
    openers: Mapping[str, Opener], exp: Experiment, outputs: Outputs, step: int, owned: Sequence[Ownership]
) -> Any:
    """Returns clu's writers by folder, for what comes after `step`; TensorFlow is imported here alone."""
    if not distributed.is_primary() or not openers:
        return None
    for each in owned:
        each.check()
    config = {**copy.deepcopy(exp.description), "name": exp.name}
    return writers.open_together(openers, outputs.workdir, step, config)


def _open_trace(outputs: Outputs, config: Config, num_steps: int) -> Trace:
    if config.profiled is None or not distributed.is_primary():
        return Trace(outputs.workdir, None)
    first, last = config.profiled
    return Trace(outputs.workdir, (first, min(last, num_steps)))


def _quiet_tensorflow() -> None:
    """It only writes event files here; its notes on how it computes would mislead."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _open_checkpoints(outputs: Outputs, config: Config, num_training: int) -> Checkpoints:
    steps_per_epoch = pipeline.steps_per_epoch(num_training, config.batch_size)
    period = config.checkpoint.every_epochs * steps_per_epoch
    return Checkpoints(outputs.checkpoints, period, _checkpoints_kept(config))
