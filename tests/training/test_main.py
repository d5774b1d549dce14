"""The command line as its user meets it: real processes, exit codes, and one clear line for a mistake."""

import functools
import os
import subprocess
import sys

import pytest

import helpers
from helpers import NAME, REAL_LAYOUTS, ROOT

CONFIG = "--config=configs/phase1_2.py:R1"
TINY = [
    f"{CONFIG},quick",
    "--config.data.image_size=32",
    "--config.data.synthetic_size=30",
    "--config.model.base_channels=16",
    "--config.batch_size=4",
    "--config.num_epochs=1",
]
run = functools.partial(helpers.run, "main")


def places(folder):
    return [
        f"--workdir={folder / 'work'}",
        f"--config.phase_dir={folder / 'phase'}",
        f"--config.data.cache_dir={folder / 'cache'}",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=configs/phase1_2.py:R9"], 'unknown experiment "R9"; valid ones are R1, R2, R3'),
        ([f"{CONFIG},fast"], 'unknown preset "fast"; valid ones are full, quick'),
        (["--config=configs/nowhere.py:R1"], "--config configs/nowhere.py does not exist"),
        (
            [CONFIG, "--config.batchsize=3"],
            'unknown config key "batchsize"; did you mean batch_size? All are listed in configs/phase1_2.py',
        ),
        ([CONFIG, "--config.model.depth=3"], 'unknown config key "model.depth"; did you mean model.remat? All'),
        (["--config", "configs/phase1_2.py:R1", "--config.batchsize=3"], 'unknown config key "batchsize"'),
        (["--config.seed=1"], "config"),
        (["--config=configs:R1", "--config.seed=1"], "configs"),
        ([CONFIG, "--config.batch_size=many"], "--config.batch_size=many"),
        ([CONFIG, "--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
        ([CONFIG, "extra"], "unknown argument extra"),
    ],
)
def test_a_wrong_flag_is_one_line_and_a_failure(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_wrong_input_is_named_without_a_traceback_and_nothing_is_left(tmp_path):
    result = run(*TINY, *places(tmp_path), "--config.data.manifest=nowhere.csv")
    assert result.returncode == 1
    assert result.stderr.strip() == "error: manifest nowhere.csv does not exist (config key data.manifest)"
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "phase").exists()


def test_a_run_speaks_in_plain_lines_and_a_second_one_has_nothing_to_do(tmp_path):
    first = run(*TINY, *places(tmp_path))
    assert first.returncode == 0, first.stderr
    for expected in (
        "SYNTHETIC LAYOUTS",
        "30 layouts of",
        "latent 4x4x16",
        "203,007 parameters",
        "float32",
        "Epoch 1/1: loss",
        "Best epoch",
        str(tmp_path / "work"),
        str(tmp_path / "phase"),
    ):
        assert expected in first.stdout
    assert "\r" not in first.stdout + first.stderr, "no progress bar in a log file"
    assert "Traceback" not in first.stderr
    assert (tmp_path / "work" / f"{NAME}_metrics.csv").exists()
    second = run(*TINY, *places(tmp_path))
    assert second.returncode == 0
    assert "has finished already" in second.stdout


@pytest.mark.parametrize(
    ("variational", "setups"),
    [
        pytest.param(True, [(1, 1), (2, 2)], id="variational"),
        pytest.param(
            False, [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2)], id="deterministic", marks=pytest.mark.slow
        ),
    ],
)
def test_one_two_and_four_devices_agree_whatever_the_parts(variational, setups):
    program = (
        f"variational, setups = {variational}, {setups}"
        + """
import functools, re, jax, numpy as np
from imginav_jax.datasets import palette
from imginav_jax.devices.mesh import batch_sharding
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.losses import LossWeights
from imginav_jax.training import compiled, state
config = AutoencoderConfig(latent_channels=4, base_channels=16, downsampling_steps=1, variational=variational)
adamw = state.make_optimizer(1e-3, 0.01)
create = functools.partial(state.create_state, config=config, optimizer=adamw)
rng = np.random.default_rng(0)
batches = [
    Batch(palette.COLORS[rng.integers(0, 10, (8, 8, 8))], rng.integers(0, 2, 8, dtype=np.int32),
          np.where(np.arange(8) < 6, np.arange(8), -1).astype(np.int32))
    for _ in range(20)
]
expected = None
for devices, parts in setups:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    run = compiled.compile_steps(config, LossWeights(kl=float(variational)), adamw, create, (8, 8), mesh, parts)
    # Devices exchange the gradients and the losses, and no image.
    exchanged = set(re.findall(r" (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?[(]", run.train.as_text()))
    assert exchanged == ({"all-reduce"} if devices > 1 else set()), exchanged
    current, losses = run.create(jax.random.key(0)), []
    for batch in batches:
        batch = jax.device_put(batch, batch_sharding(mesh))
        current, metrics = run.train(current, batch)
        losses.append(float(metrics.loss))
    found = losses, jax.device_get(run.evaluate(current.params, batch))
    expected = expected or found
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert np.abs(found[1].confusion - expected[1].confusion).sum() <= 4
    np.testing.assert_allclose(found[1].losses.mse_rgb, expected[1].losses.mse_rgb, rtol=1e-4)
"""
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, timeout=300)


def test_steps_model_and_evaluation_start_without_tensorflow():
    program = """
import sys
from imginav_jax import main
from imginav_jax.input_pipeline import pipeline
from imginav_jax.runs import checkpoints
from imginav_jax.training import evaluate, records, steps, train
assert not {"tensorflow", "clu"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_several_devices_and_worker_processes_change_no_result(tmp_path):
    losses = []
    for name, devices, options in (
        ("one", 1, []),
        ("four", 4, ["--config.num_devices=4"]),
        ("workers", 1, ["--config.data.num_workers=1"]),
    ):
        result = run(*TINY, *places(tmp_path / name), *options, devices=devices)
        assert result.returncode == 0, result.stderr
        header, row = (tmp_path / name / "work" / f"{NAME}_metrics.csv").read_text().splitlines()
        values = dict(zip(header.split(","), row.split(","), strict=True))
        losses.append([float(values[column]) for column in ("train_loss", "val_loss")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == losses[0]
    result = run(*TINY, *places(tmp_path / "odd"), "--config.num_devices=3", devices=4)
    assert "config.batch_size is 4, expected a multiple of the 3 devices" in result.stderr
    result = run(*TINY, *places(tmp_path / "odd"), "--config.accumulate_steps=2", devices=4)
    expected = "expected a multiple of the 4 devices times config.accumulate_steps, 8"
    assert f"config.batch_size is 4, {expected}" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not REAL_LAYOUTS.exists(), reason="the real layouts are not at hand")
@pytest.mark.parametrize(("experiment", "latent"), [("R1", "64x64x16"), ("R2", "32x32x16"), ("R3", "16x16x16")])
def test_the_full_models_train_on_real_layouts(tmp_path, experiment, latent):
    result = run(
        f"--config=configs/phase1_2.py:{experiment}",
        f"--config.data.manifest={REAL_LAYOUTS / 'layouts.csv'}",
        "--config.batch_size=2",
        "--config.num_epochs=2",
        *places(tmp_path),
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    assert "SYNTHETIC" not in result.stdout
    assert f"latent {latent}" in result.stdout
    (csv_file,) = (tmp_path / "phase").glob("*_metrics.csv")
    assert len(csv_file.read_text().splitlines()) == 3
