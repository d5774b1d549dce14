"""What several test modules need: small models, configs and layouts, and the program as its user starts it."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import UInt8

from configs.phase1_2 import get_config
from imginav_jax.datasets import palette
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import latent_statistics, network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.system.signals import Interrupted, Stop

ROOT = Path(__file__).resolve().parent.parent
REAL_LAYOUTS = ROOT.parent / "shared" / "real_layouts"
COLUMNS = ("scene_id", "type", "room_id", "layout_path", "is_empty")
TINY = AutoencoderConfig(latent_channels=4, base_channels=16, downsampling_steps=2)
NAME = "phase1_2_AE_R1_ds3_quick"  # of the run of `tiny_config`
CONFIG = "--config=configs/phase1_2.py:R1"
TINY_BENCHMARK = [
    f"{CONFIG},quick",
    "--config.data.image_size=32",
    "--config.model.base_channels=16",
    "--config.model.latent_channels=4",
    "--config.batch_size=2",
    "--rounds=2",
]
# For XLA, where what is computed is small and takes much longer to compile than to run.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def random_layout(size: int, seed: int = 0) -> UInt8[np.ndarray, "size size 3"]:
    """Returns palette colours in 4x4 blocks."""
    classes = np.random.default_rng(seed).integers(0, palette.NUM_CLASSES, (size // 4, size // 4))
    return palette.COLORS[np.kron(classes, np.ones((4, 4), int))]


def make_batch(images: Sequence[Any], types: Sequence[int] | np.ndarray, mask: Sequence[bool] | None = None) -> Batch:
    """Returns a batch of these images; a row whose mask is False only pads."""
    index = np.arange(len(images)) if mask is None else np.where(mask, np.arange(len(images)), -1)
    return Batch(np.stack(images), np.asarray(types, np.int32), index.astype(np.int32))


def random_batch(count: int, size: int = 16) -> Batch:
    return make_batch([random_layout(size, seed) for seed in range(count)], np.arange(count) % 2)


def reconstruct(config: AutoencoderConfig, params: Any, images: Any) -> network.HeadOutputs:
    """Returns the heads' outputs of the latents of images in [-1, 1]."""
    return network.decode(config, params, network.encode(config, params, images))


def train_until(step: int, config: Any, workdir: Path, monkeypatch: Any) -> None:
    """Trains until LSF's warning comes with a step, and saves."""
    from imginav_jax.training import train  # which most test modules do not need

    stop, record = Stop(), train._record

    def warn(run: Any, *arguments: Any) -> None:
        record(run, *arguments)
        if run.position.step == step:
            stop._notice(signal.SIGUSR2, None)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_record", warn)
        with pytest.raises(Interrupted):
            train.train(config, str(workdir), stop)


def config_of(argument: str = "R1", make: Callable[[str], Any] = get_config, **overrides: Any) -> Any:
    """Returns the config that `make` makes of `argument`; "a.b" overrides a field."""
    config = make(argument)
    config.update_from_flattened_dict(overrides)
    return config


def tiny_config(
    folder: Path, argument: str = "R1,quick", make: Callable[[str], Any] = get_config, **overrides: Any
) -> Any:
    """Returns a config that trains in seconds, its cache and phase folder in `folder`; "a.b" overrides a field."""
    changes = {
        "data.image_size": 32,
        "data.synthetic_size": 30,
        "data.cache_dir": str(folder / "cache"),
        "phase_dir": str(folder / "phase"),
        "model.base_channels": 16,
        "batch_size": 4,
        "num_epochs": 3,
        "optimizer.learning_rate": 2e-3,
        "samples.count": 3,
        **overrides,
    }
    return config_of(argument, make, **changes)


def rows_of(workdir: Path) -> list[dict[str, str]]:
    """Returns the rows of the CSV of `tiny_config`'s run."""
    with (workdir / f"{NAME}_metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def statistics_of(latents: np.ndarray, sizes: Sequence[int] | None = None) -> latent_statistics.LatentStatistics:
    """Computes latent statistics in batches of `sizes`, each merged on its own, then all of them."""
    parts, start = [], 0
    for size in sizes or [len(latents)]:
        with jax.enable_x64(True):
            summaries = jax.device_get(jax.jit(latent_statistics.summarize)(latents[start : start + size]))
        merged = latent_statistics.merge(summaries)
        parts.append(latent_statistics.load_summary(json.loads(json.dumps(latent_statistics.dump_summary(merged)))))
        start += size
    assert start == len(latents)
    return latent_statistics.compute(latent_statistics.merge(latent_statistics.stack(parts)), {"digest": "a"})


def run(
    module: str,
    *arguments: object,
    devices: int | None = None,
    wrapper: Sequence[str] = (),
    cwd: Path = ROOT,
    timeout: float = 300,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m imginav_jax.{module}`, on so many virtual devices, under a wrapper such as `nice`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    if devices is not None:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.run(
        [*wrapper, sys.executable, "-m", f"imginav_jax.{module}", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """Returns the one line in which a command that has failed says why; there is no traceback."""
    assert result.returncode not in (0, None)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.stderr
    return line
