"""Training, evaluation and encoding, timed in turns with the same model in PyTorch on the same device.

Both take the same batch from the same weights, which is checked by the loss.  Ours runs as the config says (remat,
accumulate_steps); PyTorch's takes the whole batch at once.  An evaluation of ours counts the confusion matrix too.
"""

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imginav_jax.benchmark import table, timing, turn_process
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.phase.autoencoder_cost import PreparedAutoencoder
from imginav_jax.benchmark.pytorch import job
from imginav_jax.benchmark.pytorch.job import Job, Ready
from imginav_jax.benchmark.timing import Measurement
from imginav_jax.benchmark.turn_process import TurnProcess
from imginav_jax.models.losses import weigh_losses
from imginav_jax.pytorch import tensors
from imginav_jax.runs.experiment import RawConfig
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.progress import logger
from imginav_jax.training.steps import EvalMetrics

NAMES = ("train", "eval", "encode")
_SAME_LOSS = 0.01  # relative difference; 16 bits round

_Key = tuple[str, str]  # whose, and one of the names


def measure(config: RawConfig, rounds: int) -> Measurement:
    """Takes turns with PyTorch in a process of its own; UserError where it is missing, RunError where it differs."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install -r tests/requirements.txt")
    logger.info("Compiling %s ...", ", ".join(NAMES))
    prepared = autoencoder_cost.prepare(autoencoder_cost.fresh_experiment(config), NAMES)
    loss = _loss(prepared)
    with tempfile.TemporaryDirectory() as folder:
        job.save(Path(folder), _make_job(prepared), _arrays(prepared))
        logger.info("Starting PyTorch ...")
        command = turn_process.command("imginav_jax.benchmark.pytorch.worker:prepare", folder)
        with turn_process.start("PyTorch's process", command) as process:
            ready = Ready(*process.answer())
            check_losses(loss, ready.loss)
            seconds = _time(prepared, process, rounds)
    return compare(seconds, config.batch_size, loss, ready)


def check_losses(ours: float, theirs: float) -> None:
    """Raises RunError where the programs do not compute the same."""
    if not abs(ours - theirs) <= _SAME_LOSS * abs(theirs):
        raise RunError(f"the loss is {ours:.6g}, but PyTorch's is {theirs:.6g}; these are different works")


def compare(seconds: Mapping[_Key, Sequence[float]], batch_size: int, loss: float, ready: Ready) -> Measurement:
    """Returns what is made of the seconds of a call, by round, under ("jax", name) and ("torch", name).

    The ratios are our images a second over PyTorch's, of every round's own times.
    """
    values: dict[str, Any] = {}
    rows: list[list[table.Cell]] = [["", "images/s", "PyTorch's", "times PyTorch's"]]
    for name in NAMES:
        ratio = timing.paired_ratio(seconds["torch", name], seconds["jax", name])
        ours, theirs = (timing.summarize(seconds[whose, name], batch_size) for whose in ("jax", "torch"))
        values |= {f"{name}_ratio_to_torch": ratio, name: ours, f"torch_{name}": theirs}
        rows.append([name, ours.images_per_second, theirs.images_per_second, ratio])
    values |= {"loss": loss, "torch_loss": ready.loss, "torch_form": ready.form}
    losses = f"Loss of the first batch: {loss:.6f}, PyTorch's {ready.loss:.6f}"
    return Measurement(timing.flatten(values), f"{table.align(rows)}\n\n{ready.form}\n{losses}")


def _time(prepared: PreparedAutoencoder, process: TurnProcess, rounds: int) -> dict[_Key, list[float]]:
    ours = timing.warm_up(prepared.works)
    samplers = {}
    for name in NAMES:
        samplers |= {("jax", name): ours[name], ("torch", name): process.sampler(name)}
    return timing.time_in_turns("Against PyTorch", samplers, rounds)


def _loss(prepared: PreparedAutoencoder) -> float:
    """Returns that of the batch, with the weights at the start."""
    metrics: EvalMetrics = prepared.works["eval"]()
    terms = weigh_losses(metrics.losses, prepared.experiment.weights)
    return float(np.sum([np.mean(term) for term in terms if term is not None]))


def _make_job(prepared: PreparedAutoencoder) -> Job:
    model, fields = prepared.experiment.model, prepared.experiment.config
    jax_config: Any = jax.config  # whose fields no type checker knows
    return Job(
        device="cuda" if jax.default_backend() == "gpu" else "cpu",
        precision=fields.precision,
        allow_tf32=jax_config.jax_default_matmul_precision not in ("float32", "highest"),
        latent_channels=model.latent_channels,
        base_channels=model.base_channels,
        downsampling_steps=model.downsampling_steps,
        learning_rate=fields.optimizer.learning_rate,
        weight_decay=fields.optimizer.weight_decay,
        loss_weights=tuple(prepared.experiment.weights),
        shortcuts=model.shortcuts,
        variational=model.variational,
    )


def _arrays(prepared: PreparedAutoencoder) -> dict[str, np.ndarray]:
    state_dict, batch = tensors.from_params(prepared.experiment.model, jax.device_get(prepared.params)), prepared.batch
    return {**state_dict, "images": np.asarray(batch.image), "types": np.asarray(batch.type)}
