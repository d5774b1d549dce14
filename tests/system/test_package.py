"""The package as others get it: a wheel that brings the commands along, and rooms that import downwards only."""

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

import imginav_jax
from helpers import ROOT


def call(*command, cwd, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env={**environment, **variables}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a fresh environment that has the wheel, and what this one has but for the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "experiments", "outputs"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    made = call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    assert made.returncode == 0, made.stderr
    shutil.rmtree(source)
    (wheel,) = folder.glob("imginav_jax-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    there = call(*pip, "--python", environment / "bin" / "python", "install", "--no-deps", wheel, cwd=folder)
    assert there.returncode == 0, there.stderr
    return environment


def test_the_wheel_brings_commands_and_configs_along(installed, tmp_path):
    options = [
        *("--config.num_epochs=1", "--config.data.synthetic_size=12", "--config.data.image_size=32"),
        *("--config.model.base_channels=16", "--config.batch_size=4", f"--config.data.cache_dir={tmp_path / 'cache'}"),
    ]
    door = installed / "bin" / "imginav-jax"
    result = call(door, "train", "--config=configs/phase1_2.py:R1,quick", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (description,) = tmp_path.glob("experiments/phase1/*/*_experiment.json")
    stamp = json.loads(description.read_text())["program"]
    assert stamp["imginav_jax"] == imginav_jax.__version__
    assert stamp["commit"] is None
    where = call(installed / "bin" / "python", "-c", "import imginav_jax; print(imginav_jax.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed)
    listed = call(door, cwd=tmp_path)
    assert "usage: imginav-jax COMMAND" in listed.stdout
    assert call(door, "report", "nothing", cwd=tmp_path).stderr.startswith("error: no run in nothing ")


def lint(folder):
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return call(*command, cwd=folder, PYTHONPATH=str(folder))


def test_an_import_upwards_breaks_the_contract(tmp_path):
    shutil.copytree(ROOT / "imginav_jax", tmp_path / "imginav_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kept = lint(tmp_path)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    with (tmp_path / "imginav_jax" / "models" / "losses.py").open("a") as file:
        file.write("\nfrom imginav_jax.training import steps\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1
    assert "imginav_jax.models.losses -> imginav_jax.training.steps" in broken.stdout
