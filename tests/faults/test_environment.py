"""A user's whole environment against the program: its numbers, files and ends stay what they are."""

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers import ROOT
from imginav_jax.latents.storage import StoredLatents

# Every one of these has ended or bent some program that reads it.
HOSTILE = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_DTYPE_BITS": "64",
    "JAX_EXPLICIT_X64_DTYPES": "error",
    "JAX_DISABLE_JIT": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_TRANSFER_GUARD": "disallow_explicit",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_CHECK_TRACER_LEAKS": "1",
    "JAX_ENABLE_CHECKS": "1",
    "JAX_NUM_CPU_DEVICES": "",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MPLCONFIGDIR": "/proc/nothing",
    "TQDM_NONSENSE": "1",
    "TQDM_NCOLS": "x",
    "COLUMNS": "1",
    "LINES": "x",
    "NO_COLOR": "1",
    "FORCE_COLOR": "1",
    "TERM": "nonsense",
    "LC_ALL": "POSIX",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "1",
    "PYTHONHASHSEED": "7",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONSAFEPATH": "1",
    "HOME": "/proc/nothing/home",
    "TMPDIR": "/proc/nothing",
    "XDG_CACHE_HOME": "/proc/nothing",
    "XDG_CONFIG_HOME": "/proc/nothing",
    "TF_CPP_MIN_LOG_LEVEL": "0",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF2_BEHAVIOR": "0",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_XLA_FLAGS": "--tf_nonsense",
    "KERAS_BACKEND": "nonsense",
    "TFDS_DATA_DIR": "/proc/nothing",
    "TFDS_CACHE_DIR": "/proc/nothing",
    "TFDS_RETRY_TRIES": "x",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp",
    "FLAX_PROFILE": "x",
    "NPY_DISABLE_CPU_FEATURES": "SSE SSE2",
    "SCIPY_ARRAY_API": "1",
    "EPATH_USE_TF": "maybe",
    "PYGRAIN_PROMETHEUS_PORT": "x",
    "FSSPEC_CONFIG_DIR": "/proc/nothing",
    "OMP_NUM_THREADS": "x",
}
MATPLOTLIBRC = "backend: TkAgg\ntext.usetex: True\nsavefig.dpi: 7\nfont.size: 30\naxes.facecolor: red\nnonsense\n"


def run(folder, module, *arguments, **variables):
    """A command in `folder`; its output."""
    result = subprocess.run(
        [sys.executable, "-m", f"imginav_jax.{module}", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "Traceback" not in result.stdout
    return result.stdout


def encode_and_report(folder, place, config, variables):
    run(folder, "encode", place.work, "--out", folder / "latents", "--dtype=float32", **variables)
    run(folder, "report", place.work, "--out", folder / "report", "--config", config, **variables)


def train(place):
    """Arguments that need no current folder."""
    first, *rest = place.arguments()
    return first.replace("=", f"={ROOT}/"), *rest


@contextlib.contextmanager
def proxy():
    """An address that proxies may be at, and that nobody may ask."""
    with socket.create_server(("localhost", 0)) as server:
        server.setblocking(False)
        yield f"http://localhost:{server.getsockname()[1]}"
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.fault(30, "training, encode and report where every variable that they read is set against them")
def test_hostile_environment(place, whole, quick_report, counted, tmp_path):
    elsewhere = tmp_path / "ä folder"
    elsewhere.mkdir()
    (elsewhere / "matplotlibrc").write_text(MATPLOTLIBRC)
    place.folder = elsewhere / "rün"
    with proxy() as address, ThreadPoolExecutor(1) as beside:
        undisturbed = beside.submit(encode_and_report, tmp_path, whole, quick_report, {})
        hostile = {**HOSTILE, "http_proxy": address, "https_proxy": address, "all_proxy": address}
        run(elsewhere, "main", *train(place), **hostile)
        encode_and_report(elsewhere, place, quick_report, hostile)
        undisturbed.result()
    assert place.end_state() == whole.end_state()
    assert list(place.work.glob("events*")), "TensorBoard's file"
    one, other = (StoredLatents(folder / "latents") for folder in (tmp_path, elsewhere))
    assert len(one) == len(other) == 30
    for index in range(one.description.examples["validation"]):
        first, second = (stored.read("validation", index) for stored in (one, other))
        np.testing.assert_array_equal(first.latent, second.latent)
    pictures = sorted(path.relative_to(tmp_path) for path in (tmp_path / "report").rglob("*.png"))
    assert pictures
    assert not [path for path in pictures if (tmp_path / path).read_bytes() != (elsewhere / path).read_bytes()]
    counted(len(HOSTILE))


@pytest.mark.fault(31, "whoever reads the output of a training goes away")
def test_nobody_reads(place, whole, counted):
    command = [sys.executable, "-m", "imginav_jax.main", *train(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(300) == 0
    assert errors == "The output can be written no longer; the work goes on without.\n"
    assert place.end_state() == whole.end_state()
    counted(1)
