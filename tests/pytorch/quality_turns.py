"""Both programs' training, a few steps at a time: what `compare_with_torch.py --time` starts, each in its own process.

Each answers with the seconds of its steps alone and the validation PSNR in dB after them.  Reading and decoding batches
is in this program's time; PyTorch has its batches ready, channels last and AdamW in one kernel.
"""

import contextlib
import time
from pathlib import Path

from imginav_jax.system.process import start

_HELD = contextlib.ExitStack()  # a run stays open while the process answers


def serve_ours(settings, params, workdir, steps):
    """Trains a config's run from the weights of an imported checkpoint, whatever its shortcuts."""
    start.prepare()  # as the program's own commands do, before JAX is imported
    import jax

    from configs.phase1_2 import get_config
    from imginav_jax.runs import weights
    from imginav_jax.system.signals import Stop
    from imginav_jax.training import run, train

    config = get_config(settings.pop("experiment"))
    config.update_from_flattened_dict(settings)
    opened = _HELD.enter_context(run.open_run(config, workdir, Stop()))
    given = weights.load(Path(params)).params
    state = opened.start_state()
    placed = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), given, state.params)
    state = state._replace(params=placed)
    batches = train.read_batches(opened)

    def work():
        nonlocal state
        begin = time.monotonic()
        for _ in range(steps):
            state, metrics = opened.compiled.train(state, next(batches))
        jax.block_until_ready((state, metrics))
        seconds = time.monotonic() - begin
        return seconds, train._evaluate(opened, state).columns()["val_PSNR"]

    return opened.steps_per_epoch * config.num_epochs, {"train": work}


def serve_torch(settings, checkpoint, directory, steps):
    """Trains the twin from its checkpoint on the same batches."""
    import math

    import torch

    from configs.phase1_2 import get_config
    from imginav_jax.datasets import palette, preparation
    from imginav_jax.input_pipeline import pipeline
    from imginav_jax.input_pipeline.source import LayoutSource
    from imginav_jax.pytorch import twin
    from imginav_jax.runs import experiment

    config = get_config(settings.pop("experiment"))
    config.update_from_flattened_dict(settings)
    exp = experiment.from_config(config)
    model = twin.Twin(exp.model.latent_channels, exp.model.base_channels, exp.model.downsampling_steps)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    model.to(memory_format=torch.channels_last)
    optimizer = twin.make_optimizer(model, config.optimizer.learning_rate, config.optimizer.weight_decay, fused=True)
    splits = preparation.TRAIN, preparation.VALIDATION
    training, validation = (LayoutSource(Path(directory), split) for split in splits)
    dataset = pipeline.train_dataset(training, config.batch_size, config.num_epochs, config.seed)
    taken = 0

    def prepare(batch):
        classes = (batch.image[..., None, :] == palette.COLORS).all(-1).argmax(-1)
        return twin.to_torch(batch.image), torch.from_numpy(classes), torch.from_numpy(batch.type).long()

    @torch.inference_mode()
    def measure():
        errors = []
        for batch in pipeline.eval_dataset(validation, 1):
            images = twin.to_torch(batch.image)
            errors.append((model(images)["rgb"] - images).square().mean().item())
        return 10 * math.log10(4 / (sum(errors) / len(errors)))

    def work():
        nonlocal taken
        ready = [prepare(batch) for batch in dataset[taken : taken + steps]]
        taken += steps
        begin = time.monotonic()
        for images, classes, types in ready:
            optimizer.zero_grad()
            twin.compute_loss(model(images), images, classes, types, exp.weights).backward()
            optimizer.step()
        seconds = time.monotonic() - begin
        return seconds, measure()

    return len(dataset), {"train": work}
