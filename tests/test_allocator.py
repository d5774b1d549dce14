"""Memory that a command has freed on the CPU is there for its next call."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

_COMMAND = """
import jax, jax.numpy as jnp, resource
image = jnp.ones((10, 512, 512))  # 10 MiB, as what is sorted twice, which is temporary
step = jax.jit(lambda x: jnp.sort(jnp.sort(x + 1, 2) * 2, 1).sum())
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(image))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_command_asks_for_no_page_twice(tmp_path: Path):
    package = tmp_path / "imginav_jax"
    package.mkdir()
    for name in ("__init__.py", "allocator.py"):
        shutil.copy(ROOT / "imginav_jax" / name, package)
    (package / "command.py").write_text(_COMMAND)
    start = [sys.executable, "-m", "imginav_jax.command"]
    said = subprocess.run(start, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert int(said) < 100  # 10 MiB are 2,560 pages
