"""What a run says about itself: at its start, when it goes on, and at its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from imginav_jax.datasets.preparation import PreparedData
from imginav_jax.devices import cards
from imginav_jax.devices.cards import Card
from imginav_jax.devices.mesh import describe_devices
from imginav_jax.input_pipeline.pipeline import steps_per_epoch
from imginav_jax.models.posterior import ACTIVE
from imginav_jax.runs.experiment import TENSORBOARD, Config, Experiment
from imginav_jax.runs.outputs import Outputs
from imginav_jax.system.progress import logger
from imginav_jax.training.early_stopping import EarlyStopping

FIRST_STEP = "First step"  # begins the line that says that it is done
_WIDTH = 88


def say_start(
    experiment: Experiment, data: PreparedData, sizes: tuple[int, int], mesh: Mesh, outputs: Outputs, card: Card
) -> None:
    """Says what the run is and what it works with; `sizes`: layouts for training and for validation."""
    config, model = experiment.config, experiment.model
    size = config.data.image_size
    height, width, channels = model.latent_shape(size)
    if data.synthetic:
        _say_synthetic()
    counts = f"{sum(sizes):,} layouts of {data.facts['scenes']:,} scenes, {size}x{size}"
    _say("Experiment", f"{outputs.name}, its config in {outputs.experiment_json(outputs.workdir)}")
    _say("Data set", f"{data.kind} {data.manifest}, {counts}")
    _say("", f"{sizes[0]:,} for training, {sizes[1]:,} for validation, {data.facts['duplicates']:,} exact duplicates")
    if not data.synthetic:
        off_palette = data.facts["off_palette_pixels"] / (sum(sizes) * size**2)
        _say("", f"skipped {data.skipped_empty:,} empty rows and {data.skipped_without_path:,} rows without a path; "
                 f"{off_palette:.3%} of the pixels are off the palette and carry no label")  # fmt: skip
    _say("Model", f"{model.downsampling_steps} downsampling steps, latent {height}x{width}x{channels}, "
                  f"compression {model.compression}x{', shortcuts' if model.shortcuts else ''}"
                  f"{f', variational (KL {config.loss.kl:g})' if model.variational else ''}")  # fmt: skip
    if config.init_from is not None:
        _say("", f"weights from {config.init_from}, heads {', '.join(head.name for head in model.heads)}")
    parts = config.accumulate_steps
    split = f" in {parts} parts of {config.batch_size // parts}" if parts > 1 else ""
    pace = f"{config.batch_size} images a step{split}, learning rate {_describe_optimizer(config)}"
    _say("Training", f"{config.num_epochs} epochs of {steps_per_epoch(sizes[0], config.batch_size):,} steps, {pace}")
    _say("Devices", f"{describe_devices(mesh)} ({mesh.devices.flat[0].platform}), {config.precision}")
    for line in cards.describe(card) if card.exists else ():
        _say("", line)
    own = [name for name in config.logger_names if name != TENSORBOARD]
    hint = f" (tensorboard --logdir {outputs.workdir})" if TENSORBOARD in config.logger_names else ""
    _say("Outputs", f"{outputs.workdir}{hint}")
    if own:
        _say("", f"values also for {', '.join(own)}")
    _say("", f"copies in {outputs.phase_dir}")


def _describe_optimizer(config: Config) -> str:
    fields = config.optimizer
    warmup = f" after {fields.warmup_steps:,} steps of warmup" if fields.warmup_steps else ""
    cosine = ", by a cosine to 0" if fields.schedule == "cosine" else ""
    clip = f", gradients clipped at norm {fields.clip_norm:g}" if fields.clip_norm else ""
    ema = f", evaluated by the weights' moving average ({config.ema_decay:g})" if config.ema_decay else ""
    return f"{fields.learning_rate:g}{warmup}{cosine}{clip}{ema}"


def say_compiling() -> None:
    logger.info("Compiling the training and the evaluation step ...")


def say_compiled(parameters: int, seconds: float, memory_mib: float, limit_mib: float | None) -> None:
    """Says how long compiling took and what a training step needs.

    `memory_mib` is what it needs on one device, `limit_mib` what the device has, None if not known.
    """
    limit = "" if limit_mib is None else f" of {limit_mib:,.0f} MiB that the device has"
    needs = f"a training step needs {memory_mib:,.0f} MiB{limit}"
    _say("Compiled", f"{parameters:,} parameters, {needs}; took {seconds:.1f} s")


def say_first_step(step: int, loss: float) -> None:
    """Says the loss of the first step since this start of the run."""
    _say(FIRST_STEP, f"step {step:,}, loss {loss:.4f}")


def say_resumed(step: int, epoch: int) -> None:
    _say("Continuing", f"from the checkpoint of step {step:,}, after {epoch} finished epochs")


def say_damaged(damaged: Mapping[int, str], used: int, place: Path) -> None:
    for step, reason in damaged.items():
        logger.warning("The checkpoint of step %s cannot be restored: %s. It is now in %s.", f"{step:,}", reason, place)
    logger.warning("The latest sound one is that of step %s.", f"{used:,}")


def say_best_lost(epoch: int) -> None:
    logger.warning("The best checkpoint, of epoch %d, is lost: the best is now chosen from what is left.", epoch)


def say_stopped(step: int, epoch: int) -> None:
    logger.info("Stopped by a signal after step %s, %d epochs finished; all is saved.", f"{step:,}", epoch)
    logger.info("The same command goes on from there.")


def say_finished(outputs: Outputs, epoch: int, stopping: EarlyStopping) -> None:
    best = f"best epoch {stopping.best_epoch}, validation loss {stopping.best_loss:.6f}"
    logger.info("%s has finished already: %d epochs, %s. Nothing was changed.", outputs.name, epoch, best)
    logger.info("Results are in %s; train again with another --workdir and --config.phase_dir.", outputs.workdir)


def say_epoch(row: Mapping[str, Any], num_epochs: int) -> None:
    speed = f"{row['images_per_second']:.1f} img/s, {row['epoch_seconds']:.0f} s"
    left = (num_epochs - row["epoch"]) * row["epoch_seconds"]
    epoch = f"Epoch {row['epoch']}/{num_epochs}: loss {row['train_loss']:.4f}, validation {row['val_loss']:.4f}"
    logger.info("%s, %s, %s%s", epoch, _quality(row), speed, f", {left / 60:.1f} min left" if left else "")


def warn_of_collapse(row: Mapping[str, Any], channels: int) -> None:
    """Warns where the encoder of a variational model says nothing in most of its channels."""
    active = row.get("val_active_channels")
    if active is not None and active < channels / 2:
        found = f"{active:.0f} of {channels} channels of the latent have a KL divergence above {ACTIVE} nats"
        logger.warning("The posterior has collapsed, epoch %d: %s; a smaller config.loss.kl keeps more.",
                       row["epoch"], found)  # fmt: skip


def say_given(row: Mapping[str, Any]) -> None:
    logger.info("Given weights: validation %.4f, %s", row["val_loss"], _quality(row))


def say_end(outputs: Outputs, best: Mapping[str, Any], stopped_early: bool) -> None:
    """Says how the run ended and where its outputs are; `best`: the row of the best epoch."""
    logger.info("Stopped early." if stopped_early else "All epochs done.")
    _say("Best epoch", f"{best['epoch']}: validation loss {best['val_loss']:.6f}, PSNR {best['val_PSNR']:.2f} dB")
    _say("", f"mIoU {best['val_mIoU']:.3f}, pixel accuracy {best['val_pixel_accuracy']:.4f}, "
             f"room/scene accuracy {best['val_room_scene_accuracy']:.3f}")  # fmt: skip
    _say("Metrics", str(outputs.metrics_csv(outputs.phase_dir)))
    _say("Pictures", str(outputs.sample(outputs.phase_dir, "best", "*")))
    _say("Checkpoints", f"{outputs.checkpoints} (best: step {best['step']})")


def _quality(row: Mapping[str, Any]) -> str:
    text = f"PSNR {row['val_PSNR']:.2f} dB, mIoU {row['val_mIoU']:.3f}, pixel accuracy {row['val_pixel_accuracy']:.4f}"
    active = row.get("val_active_channels")
    return text if active is None else f"{text}, {active:.0f} active channels"


def _say_synthetic() -> None:
    lines = ("SYNTHETIC LAYOUTS", "No --config.data.manifest was given: this run does not see real data.")
    logger.info("*" * _WIDTH)
    for line in lines:
        logger.info("*%s*", line.center(_WIDTH - 2))
    logger.info("*" * _WIDTH)


def _say(label: str, text: str) -> None:
    logger.info("%-12s %s", label, text)
