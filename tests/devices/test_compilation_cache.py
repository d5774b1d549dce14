"""Compiled programs are kept where the documentation says, give the same bits, and never end a run."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from imginav_jax.devices import cards

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, sys
from imginav_jax.devices import compilation_cache
from imginav_jax.system import progress
progress.log_to_stdout()
compilation_cache.enable()
def step(x):
    return jnp.tanh(x @ x.T).sum(0) * jnp.exp(-x[0].mean())
result = jax.jit(step)(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
print("RESULT", np.asarray(result).tobytes().hex())
"""


def start(home, **environment):
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "IMGINAV_CACHE")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**inherited, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def result_of(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.partition("RESULT")[2]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A home with one program in its cache, and what that gave."""
    home = tmp_path_factory.mktemp("home")
    first = start(home)
    assert first.stderr == ""
    return home, result_of(first)


def programs(home):
    return sorted((home / ".cache/imginav_jax/xla").glob("cpu_????????/*-cache"))


def test_a_second_start_loads_the_program_and_gives_the_same_bits(kept):
    home, expected = kept
    before = {path: path.stat().st_mtime_ns for path in programs(home)}
    assert any(path.name.startswith("jit_step-") for path in before)
    again = start(home)
    assert (result_of(again), again.stderr) == (expected, "")
    assert {path: path.stat().st_mtime_ns for path in programs(home)} == before


def test_a_damaged_program_is_compiled_anew(kept):
    home, expected = kept
    for path in programs(home):
        path.write_bytes(path.read_bytes()[:100])
    assert result_of(start(home)) == expected


def test_a_folder_that_cannot_be_made_is_one_warning(kept, tmp_path):
    (tmp_path / "file").touch()
    found = start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert result_of(found) == kept[1]
    assert found.stdout.count("Compiled programs are not kept: ") == 1
    assert "Not a directory" in found.stdout
    assert found.stderr == ""


def test_each_kind_of_cpu_has_a_folder_of_its_own(monkeypatch):
    card = cards.find({"JAX_PLATFORMS": "cpu"})
    folder = cards.compilation_cache(card, {"IMGINAV_CACHE": "/shared"})
    assert str(folder).startswith(f"/shared/xla/{os.getuid()}/cpu_")
    monkeypatch.setattr(cards, "_cpu", lambda: "another")
    assert cards.compilation_cache(card, {"IMGINAV_CACHE": "/shared"}) != folder
