"""What part of an epoch's training is not spent in its steps: waiting for batches, metrics, the screen, TensorBoard.

The training loop itself goes through synthetic layouts, an epoch a round, and in turns with it the run's own compiled
step is called as often on a batch that stays on the device.  Evaluation and checkpoints come between epochs and are not
in it.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.timing import Measurement, spread_values
from imginav_jax.devices.mesh import batch_sharding
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.runs.benchmark_file import Spread
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.signals import Stop
from imginav_jax.training import train
from imginav_jax.training.run import Run, open_run
from imginav_jax.training.state import TrainState


class EpochOverhead(NamedTuple):
    steps: int  # of an epoch
    epoch_seconds: Spread
    steps_seconds: Spread  # of as many steps alone
    overhead: Spread  # 1 - steps_seconds / epoch_seconds, of every round's own


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Trains on the first device, an epoch of `config.data.synthetic_size` layouts a round and one to warm up.

    Raises:
      UserError: the config cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder, _open(config, rounds + 1, Path(folder)) as run:
        size, data = run.config.batch_size, run.config.data
        batch = autoencoder_cost.synthetic_batch(size, data.image_size, data.seed)
        batch = jax.device_put(batch, batch_sharding(run.mesh))
        pairs, state = [], run.start_state()
        with contextlib.closing(train.read_batches(run)) as batches:
            for _ in range(rounds + 1):
                state, epoch_seconds = _time_epoch(run, state, batches)
                state, steps_seconds = _time_steps(run, state, batch)
                pairs.append((epoch_seconds, steps_seconds))
        found = summarize(run.steps_per_epoch, pairs[1:])
    return Measurement(dump(found, size), render(found, size))


def summarize(steps: int, pairs: list[tuple[float, float]]) -> EpochOverhead:
    """`pairs`: seconds of the epoch and of its steps alone, a round."""
    epochs, alone = zip(*pairs, strict=True)
    overhead = timing.spread([1 - steps_seconds / epoch_seconds for epoch_seconds, steps_seconds in pairs])
    return EpochOverhead(steps, timing.spread(epochs), timing.spread(alone), overhead)


def dump(found: EpochOverhead, batch_size: int) -> dict[str, Any]:
    images = found.steps * batch_size
    return {
        "epoch_steps": found.steps,
        **spread_values("epoch_train_seconds", found.epoch_seconds),
        **spread_values("epoch_steps_alone_seconds", found.steps_seconds),
        "epoch_images_per_second": images / found.epoch_seconds.median,
        "steps_alone_images_per_second": images / found.steps_seconds.median,
        **spread_values("epoch_overhead_fraction", found.overhead),
    }


def render(found: EpochOverhead, batch_size: int) -> str:
    rows = [
        [name, table.show_spread(seconds), table.show_number(found.steps * batch_size / seconds.median)]
        for name, seconds in (("an epoch's training", found.epoch_seconds), ("its steps alone", found.steps_seconds))
    ]
    share = found.overhead
    percents = Spread(100 * share.median, 100 * share.lower_quartile, 100 * share.upper_quartile)
    lines = table.align([[f"{found.steps} steps", "seconds", "images/s"], *rows], text_columns=1)
    return f"{lines}\n\nNot spent in steps  {table.show_spread(percents)} % of an epoch's training"


@contextlib.contextmanager
def _open(config: RawConfig, epochs: int, folder: Path) -> Iterator[Run]:
    """A fresh run of so many epochs that leaves nothing outside `folder`."""
    changed = config.copy_and_resolve_references()
    changed.num_devices, changed.num_epochs = 1, epochs
    changed.init_from = changed.data.manifest = changed.data.root = None
    changed.data.cache_dir, changed.phase_dir = str(folder / "cache"), str(folder / "phase")
    changed.checkpoint.every_minutes = 0.0
    with open_run(changed, str(folder / "work"), Stop()) as run:
        assert run is not None  # it has not finished already
        yield run


def _time_epoch(run: Run, state: TrainState, batches: Iterator[Batch]) -> tuple[TrainState, float]:
    """Seconds as the run itself counts them."""
    state = train.train_epoch(run, state, batches)
    seconds, position = run.position.train_seconds, run.position
    position.epoch += 1
    position.sums, position.train_seconds = {}, 0.0
    return state, seconds


def _time_steps(run: Run, state: TrainState, batch: Batch) -> tuple[TrainState, float]:
    jax.block_until_ready(state)
    start = time.monotonic()
    for _ in range(run.steps_per_epoch):
        state, metrics = run.compiled.train(state, batch)
        del metrics
    jax.block_until_ready(state)
    return state, time.monotonic() - start
