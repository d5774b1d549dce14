"""Trains the same weights on the same batches in both programs: `python tests/pytorch/compare_with_torch.py`.

The experiment's optimizer and batch size, 300 synthetic layouts of 128x128, 3 epochs; prints the validation MSE of each
epoch and fails where the last ones differ by 2 % or more.  With `--time` it measures the time to quality instead, on
the quick runs: the seconds of training until the validation PSNR is reached with which PyTorch ends, for PyTorch, this
program, and this program with shortcuts, which take turns.  Needs tests/requirements.txt.
"""

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import torch

from configs.phase1_2 import get_config
from imginav_jax.benchmark import turn_process
from imginav_jax.datasets import palette, preparation
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.pytorch import twin
from imginav_jax.runs import experiment
from imginav_jax.training import train

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 20  # steps between two validations, an epoch's sixth
LIMIT = 0.02  # relative difference of the final validation MSE
SETTINGS = {"data.image_size": 128, "data.synthetic_size": 300, "num_epochs": 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=["R1", "R2", "R3"], metavar="R1 R2 R3")
    parser.add_argument("--time", action="store_true", help="the time to quality, on the quick runs")
    arguments = parser.parse_args()
    if arguments.time:
        print("run  program    ended at, dB  PyTorch's end reached after")
        for name in arguments.experiments:
            with tempfile.TemporaryDirectory() as folder:
                print_times(name, Path(folder))
        return
    failed = False
    for name in arguments.experiments:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = compare(name, Path(folder))
        difference = ours[-1] / theirs[-1] - 1
        failed |= abs(difference) >= LIMIT
        print(f"{name}  epoch  PyTorch MSE  imginav_jax MSE")
        for epoch, (here, there) in enumerate(zip(ours, theirs, strict=True)):
            print(f"    {epoch:5}  {there:11.6f}  {here:15.6f}")
        print(f"    the last ones differ by {difference:+.4%}", flush=True)
    sys.exit(failed)


def print_times(name, folder):
    """A line for each program: when it reaches the PSNR with which PyTorch ends, in seconds and PyTorch's time."""
    curves = train_in_turns(name, folder)
    whole, aim = curves["PyTorch"][-1]
    for program, curve in curves.items():
        seconds = next((at for at, psnr in curve if psnr >= aim), None)
        reached = "not reached" if seconds is None else f"{seconds:6.1f} s  {whole / seconds:5.2f} times as fast"
        print(f"{name:4} {program:10} {curve[-1][1]:12.2f}  {reached}", flush=True)


def train_in_turns(name, folder):
    """Each arm's seconds of training and validation PSNR after every CHUNK steps, from the same weights."""
    config = get_config(f"{name},quick")
    exp = experiment.from_config(config)
    torch.manual_seed(0)
    model = twin.Twin(exp.model.latent_channels, exp.model.base_channels, exp.model.downsampling_steps)
    torch.save(model.checkpoint(), folder / "start.pt")
    import_checkpoint(folder / "start.pt", folder / "start")
    directory = str(preparation.prepare(exp.data, exp.cache_dir).directory)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])}
    with contextlib.ExitStack() as started:
        processes = {}
        for arm, argument in (("PyTorch", None), ("ours", f"{name},quick"), ("shortcuts", f"{name},shortcuts,quick")):
            settings = {"experiment": argument or f"{name},quick"}
            if argument is None:
                command = "quality_turns:serve_torch", settings, str(folder / "start.pt"), directory, CHUNK
            else:
                settings["phase_dir"] = str(folder / "phase")
                command = "quality_turns:serve_ours", settings, str(folder / "start"), str(folder / arm), CHUNK
            process = turn_process.start(arm, turn_process.command(*command), environment)
            processes[arm] = started.enter_context(process)
        steps = {arm: process.answer() for arm, process in processes.items()}
        curves = {arm: [(0.0, float("-inf"))] for arm in processes}
        for _ in range(steps["PyTorch"] // CHUNK):
            for arm, process in processes.items():
                seconds, psnr = process.ask("train")
                curves[arm].append((curves[arm][-1][0] + seconds, psnr))
    return curves


def compare(name, folder):
    """The validation MSE before training and after each epoch, here and in PyTorch."""
    config = get_config(name)
    config.update_from_flattened_dict({**SETTINGS, "phase_dir": str(folder / "phase")})
    exp = experiment.from_config(config)
    torch.manual_seed(0)
    model = twin.Twin(exp.model.latent_channels, exp.model.base_channels, exp.model.downsampling_steps)
    torch.save(model.checkpoint(), folder / "start.pt")
    import_checkpoint(folder / "start.pt", folder / "start")
    config.init_from = str(folder / "start")
    train.train(config, str(folder / "work"))
    with (folder / "work" / f"{exp.name}_metrics.csv").open(newline="") as file:
        ours = [float(row["val_MSE_rgb"]) for row in csv.DictReader(file)]
    return ours, list(train_twin(model, config, preparation.prepare(exp.data, exp.cache_dir).directory))


def train_twin(model, config, directory):
    training, validation = (LayoutSource(directory, split) for split in (preparation.TRAIN, preparation.VALIDATION))
    optimizer = twin.make_optimizer(model, config.optimizer.learning_rate, config.optimizer.weight_decay)
    batches = pipeline.train_dataset(training, config.batch_size, config.num_epochs, config.seed)
    steps = pipeline.steps_per_epoch(len(training), config.batch_size)
    yield evaluate(model, validation)
    for epoch in range(config.num_epochs):
        for batch in batches[epoch * steps : (epoch + 1) * steps]:
            images = twin.to_torch(batch.image)
            classes = torch.from_numpy((batch.image[..., None, :] == palette.COLORS).all(-1).argmax(-1))
            loss = twin.compute_loss(model(images), images, classes, torch.from_numpy(batch.type).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield evaluate(model, validation)


@torch.no_grad()
def evaluate(model, validation):
    errors = []
    for batch in pipeline.eval_dataset(validation, 1):
        images = twin.to_torch(batch.image)
        errors.append((model(images)["rgb"] - images).square().mean().item())
    return sum(errors) / len(errors)


if __name__ == "__main__":
    main()
