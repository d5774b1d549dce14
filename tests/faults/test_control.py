"""A measurement of control that is cut off, and a second start beside it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from faults.test_ownership import wait_for_any
from helpers import ROOT, run, tiny_config
from imginav_jax.runs.results import control_file
from imginav_jax.training import train

SMALL = [
    "--quick",
    "--only",
    "drawing",
    "--unet-steps",
    "6",
    "--controlnet-steps",
    "8",
    "--batch-size",
    "4",
    "--held-out",
    "24",
]


@pytest.mark.fault(29, "a measurement of control is stopped, and started twice")
def test_control_goes_on_to_the_same_result(tmp_path, counted):
    train.train(tiny_config(tmp_path, **{"data.synthetic_size": 300, "num_epochs": 1}), str(tmp_path / "work"))
    whole, out = tmp_path / "whole.json", tmp_path / "cut_off.json"
    words = ["control", tmp_path / "work", *SMALL, "--out"]
    result = run(*words, whole)
    assert result.returncode == 0, result.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "imginav_jax.control", *words[1:], out],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_any(process, tmp_path, "cut_off.partial/*/*/controlnet_*.npz")
    process.send_signal(signal.SIGSTOP)  # so that it has not ended before the second start has looked
    second = run(*words, out)
    assert second.returncode == 1
    assert f"error: --out {out} is in use by process {process.pid}" in second.stderr
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert not out.exists()
    result = run(*words, out)
    assert result.returncode == 0, result.stderr
    (mine,), (theirs,) = (control_file.load(path).latents for path in (out, whole))
    for one, other in zip(mine.trials[0].equal_steps, theirs.trials[0].equal_steps, strict=True):
        assert all((one.counts[name] == other.counts[name]).all() for name in other.counts)
    np.testing.assert_array_equal(mine.pictures, theirs.pictures)
    assert not list(tmp_path.glob("*.partial"))
    counted(2)
