"""Trains the same weights on the same batches in both programs: `python tests/compare_with_torch.py`.

The experiment's optimizer and batch size, 300 synthetic layouts of 128x128, 3 epochs; prints the validation MSE of each
epoch and fails where the last ones differ by 2 % or more.  Needs tests/requirements.txt.
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import torch

from configs.phase1_2 import get_config
from imginav_jax.datasets import palette, preparation
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.pytorch import twin as torch_twin
from imginav_jax.runs import experiment
from imginav_jax.training import train

LIMIT = 0.02  # relative difference of the final validation MSE
SETTINGS = {"data.image_size": 128, "data.synthetic_size": 300, "num_epochs": 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=["R1", "R2", "R3"], metavar="R1 R2 R3")
    failed = False
    for name in parser.parse_args().experiments:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = compare(name, Path(folder))
        difference = ours[-1] / theirs[-1] - 1
        failed |= abs(difference) >= LIMIT
        print(f"{name}  epoch  PyTorch MSE  imginav_jax MSE")
        for epoch, (here, there) in enumerate(zip(ours, theirs, strict=True)):
            print(f"    {epoch:5}  {there:11.6f}  {here:15.6f}")
        print(f"    the last ones differ by {difference:+.4%}", flush=True)
    sys.exit(failed)


def compare(name, folder):
    """The validation MSE before training and after each epoch, here and in PyTorch."""
    config = get_config(name)
    config.update_from_flattened_dict({**SETTINGS, "phase_dir": str(folder / "phase")})
    exp = experiment.from_config(config)
    torch.manual_seed(0)
    twin = torch_twin.Twin(exp.model.latent_channels, exp.model.base_channels, exp.model.downsampling_steps)
    torch.save(twin.checkpoint(), folder / "start.pt")
    import_checkpoint(folder / "start.pt", folder / "start")
    config.init_from = str(folder / "start")
    train.train(config, str(folder / "work"))
    with (folder / "work" / f"{exp.name}_metrics.csv").open(newline="") as file:
        ours = [float(row["val_MSE_rgb"]) for row in csv.DictReader(file)]
    return ours, list(train_twin(twin, config, preparation.prepare(exp.data, exp.cache_dir).directory))


def train_twin(twin, config, directory):
    training, validation = (LayoutSource(directory, split) for split in (preparation.TRAIN, preparation.VALIDATION))
    optimizer = torch_twin.make_optimizer(twin, config.optimizer.learning_rate, config.optimizer.weight_decay)
    batches = pipeline.train_dataset(training, config.batch_size, config.num_epochs, config.seed)
    steps = pipeline.steps_per_epoch(len(training), config.batch_size)
    yield evaluate(twin, validation)
    for epoch in range(config.num_epochs):
        for batch in batches[epoch * steps : (epoch + 1) * steps]:
            images = torch_twin.to_torch(batch.image)
            classes = torch.from_numpy((batch.image[..., None, :] == palette.COLORS).all(-1).argmax(-1))
            loss = torch_twin.compute_loss(twin(images), images, classes, torch.from_numpy(batch.type).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield evaluate(twin, validation)


@torch.no_grad()
def evaluate(twin, validation):
    errors = []
    for batch in pipeline.eval_dataset(validation, 1):
        images = torch_twin.to_torch(batch.image)
        errors.append((twin(images)["rgb"] - images).square().mean().item())
    return sum(errors) / len(errors)


if __name__ == "__main__":
    main()
