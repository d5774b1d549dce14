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

import jax

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.devices.mesh import batch_sharding
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.signals import Stop
from imginav_jax.training import train
from imginav_jax.training.run import Run, open_run
from imginav_jax.training.state import TrainState


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Trains on the first device, an epoch of `config.data.synthetic_size` layouts a round and one to warm up."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        fresh = _fresh_config(config, rounds + 1, Path(folder))
        run = stack.enter_context(open_run(fresh, f"{folder}/work", Stop()))
        assert run is not None  # it has not finished already
        batch = jax.device_put(autoencoder_cost.synthetic_batch(run.config), batch_sharding(run.mesh))
        pairs, state = [], run.start_state()
        batches = stack.enter_context(contextlib.closing(train.read_batches(run)))
        for _ in range(rounds + 1):
            state, epoch_seconds = _time_epoch(run, state, batches)
            state, steps_seconds = _time_steps(run, state, batch)
            pairs.append((epoch_seconds, steps_seconds))
        return present(run.steps_per_epoch, run.config.batch_size, pairs[1:])


def present(steps: int, batch_size: int, pairs: list[tuple[float, float]]) -> Measurement:
    """Returns what is made of `pairs`: seconds of an epoch of so many steps, and of as many steps alone, by round."""
    epoch, alone = map(timing.spread, zip(*pairs, strict=True))
    overhead = timing.spread([1 - steps_seconds / epoch_seconds for epoch_seconds, steps_seconds in pairs])
    rates = [steps * batch_size / seconds.median for seconds in (epoch, alone)]
    values = {
        "epoch_steps": steps,
        "epoch_train_seconds": epoch,
        "epoch_steps_alone_seconds": alone,
        "epoch_images_per_second": rates[0],
        "steps_alone_images_per_second": rates[1],
        "epoch_overhead_fraction": overhead,
    }
    header = [f"{steps} steps", "seconds", "images/s"]
    lines = table.align([header, ["an epoch's training", epoch, rates[0]], ["its steps alone", alone, rates[1]]])
    share = f"Not spent in steps  {table.show(overhead.scaled(100))} % of an epoch's training"
    return Measurement(timing.flatten(values), f"{lines}\n\n{share}")


def _fresh_config(config: RawConfig, epochs: int, folder: Path) -> RawConfig:
    """Returns that of a fresh run of so many epochs that leaves nothing outside `folder`."""
    changes = {"num_devices": 1, "num_epochs": epochs, "init_from": None, "checkpoint.every_minutes": 0.0}
    changes |= {"data.manifest": None, "data.root": None}
    changes |= {"data.cache_dir": str(folder / "cache"), "phase_dir": str(folder / "phase")}
    return autoencoder_cost.change(config, changes)


def _time_epoch(run: Run, state: TrainState, batches: Iterator[Batch]) -> tuple[TrainState, float]:
    """Returns the new state, and the seconds as the run itself counts them."""
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
