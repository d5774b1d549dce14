"""What a run says about itself: at its start, when it goes on, and at its end."""

from jax.sharding import Mesh

from imginav_jax.datasets.preparation import PreparedData
from imginav_jax.early_stopping import EarlyStopping
from imginav_jax.experiment import Experiment
from imginav_jax.outputs import Outputs
from imginav_jax.progress import logger

_WIDTH = 88


def say_start(experiment: Experiment, data: PreparedData, sizes: tuple[int, int], mesh: Mesh, outputs: Outputs) -> None:
    """`sizes`: layouts for training and for validation."""
    config, model = experiment.config, experiment.model
    size = config.data.image_size
    height, width, channels = model.latent_shape(size)
    if data.synthetic:
        _say_synthetic()
    counts = f"{sum(sizes):,} layouts of {data.facts['scenes']:,} scenes, {size}x{size}"
    _say("Experiment", config.name)
    _say("Data set", f"{data.kind} {data.manifest}, {counts}")
    _say("", f"{sizes[0]:,} for training, {sizes[1]:,} for validation, {data.facts['duplicates']:,} exact duplicates")
    if not data.synthetic:
        off_palette = data.facts["off_palette_pixels"] / (sum(sizes) * size**2)
        _say("", f"skipped {data.skipped_empty:,} empty rows and {data.skipped_without_path:,} rows without a path; "
                 f"{off_palette:.3%} of the pixels are off the palette and carry no label")  # fmt: skip
    _say("Model", f"{model.downsampling_steps} downsampling steps, latent {height}x{width}x{channels}, "
                  f"compression {model.compression}x")  # fmt: skip
    pace = f"{config.batch_size} images a step, learning rate {config.optimizer.learning_rate:g}"
    _say("Training", f"{config.num_epochs} epochs of {sizes[0] // config.batch_size:,} steps, {pace}")
    devices = mesh.devices.flat
    _say("Devices", f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {config.precision}")
    _say("Outputs", f"{outputs.workdir} (tensorboard --logdir {outputs.workdir})")
    _say("", f"copies in {outputs.phase_dir}")


def say_compiled(parameters: int, seconds: float, memory_mib: float) -> None:
    _say("Compiled", f"{parameters:,} parameters, a training step needs {memory_mib:,.0f} MiB; took {seconds:.1f} s")


def say_resumed(step: int, epoch: int) -> None:
    _say("Continuing", f"from the checkpoint of step {step:,}, after {epoch} finished epochs")


def say_finished(outputs: Outputs, epoch: int, stopping: EarlyStopping) -> None:
    reason = " (stopped early)" if stopping.should_stop else ""
    logger.info("%s has finished already: %d epochs%s, best epoch %d, validation loss %.6f. Nothing was changed.",
                outputs.name, epoch, reason, stopping.best_epoch, stopping.best_loss)  # fmt: skip
    logger.info("Results are in %s; train again with another --workdir.", outputs.workdir)


def say_epoch(row: dict[str, object], num_epochs: int) -> None:
    logger.info(
        "Epoch %d/%d: loss %.5f, validation %.5f, PSNR %.2f dB, mIoU %.3f, pixel accuracy %.4f, %.1f img/s, %.0f s",
        *(row["epoch"], num_epochs, row["train_loss"], row["val_loss"], row["val_PSNR"], row["val_mIoU"]),
        *(row["val_pixel_accuracy"], row["images_per_second"], row["epoch_seconds"]),
    )


def say_end(outputs: Outputs, best: dict[str, str], stopped_early: bool) -> None:
    """`best`: the row of the best epoch."""
    logger.info("Stopped early." if stopped_early else "All epochs done.")
    _say("Best epoch", f"{best['epoch']}: validation loss {float(best['val_loss']):.6f}, "
                       f"PSNR {float(best['val_PSNR']):.2f} dB, mIoU {float(best['val_mIoU']):.3f}, "
                       f"pixel accuracy {float(best['val_pixel_accuracy']):.4f}, "
                       f"room/scene accuracy {float(best['val_room_scene_accuracy']):.3f}")  # fmt: skip
    _say("Metrics", str(outputs.metrics_csv(outputs.phase_dir)))
    _say("Pictures", str(outputs.sample(outputs.phase_dir, "best", "comparison")))
    _say("", str(outputs.sample(outputs.phase_dir, "best", "segmentation")))
    _say("Checkpoints", f"{outputs.checkpoints} (best: step {best['step']})")


def _say_synthetic() -> None:
    lines = ("SYNTHETIC LAYOUTS", "No --config.data.manifest was given: this run does not see real data.")
    logger.info("*" * _WIDTH)
    for line in lines:
        logger.info("*%s*", line.center(_WIDTH - 2))
    logger.info("*" * _WIDTH)


def _say(label: str, text: str) -> None:
    logger.info("%-12s %s", label, text)
