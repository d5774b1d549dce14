"""Settings for every test, and manifests to test with."""

import atexit
import csv
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The same tiny programs are compiled again and again, in this process and in those that it starts.
if "PYTEST_XDIST_WORKER" in os.environ:  # a cache of its own: JAX reads an entry that another process still writes
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
else:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="imginav_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import pytest
from PIL import Image

from helpers import COLUMNS, FAST, TINY, random_layout
from imginav_jax.datasets import synthetic
from imginav_jax.devices import target
from imginav_jax.models import network

hypothesis.settings.register_profile("no deadline", deadline=None)  # the first example compiles
hypothesis.settings.load_profile("no deadline")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny_params() -> network.Params:
    return jax.jit(functools.partial(network.init, TINY))(jax.random.key(0))


@pytest.fixture(scope="module")
def compile_fast() -> Iterator[None]:
    """Machine code of less quality in a third of the time; what XLA computes, and in what memory, it decides before."""
    options = target.compiler_options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "compiler_options", lambda **keywords: options(**keywords) | FAST)
        yield


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes tmp_path/layouts.csv from rows of five values each."""

    def write(rows: Sequence[Sequence[object]], columns: Sequence[str] = COLUMNS, name: str = "layouts.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return path

    return write


@pytest.fixture
def manifest(tmp_path: Path, write_manifest: Callable[..., Path]) -> Path:
    """Ten layouts of 32x32 in five scenes, all different."""
    rows = []
    for index in range(10):
        Image.fromarray(random_layout(32, index)).save(tmp_path / f"{index}.png")
        kind = "scene" if index % 2 == 0 else "room"
        rows.append((f"s{index // 2}", kind, f"{index:04d}", f"{index}.png", "false"))
    return write_manifest(rows)


@pytest.fixture(scope="session")
def synthetic_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty synthetic layouts of 32x32."""
    return synthetic.write_manifest(tmp_path_factory.mktemp("synthetic"), 30, 32, 0)
