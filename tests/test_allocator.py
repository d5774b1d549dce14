"""Memory that a command has freed on the CPU is there for its next call."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from imginav_jax import allocator

_COMMAND = """
import jax, jax.numpy as jnp, resource
image = jnp.ones((10, 512, 512))  # 10 MiB, as what is sorted twice, which is temporary
step = jax.jit(lambda x: jnp.sort(jnp.sort(x + 1, 2) * 2, 1).sum())
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(image))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults), " hg" in open("/proc/self/smaps").read())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_command_asks_for_no_page_twice(tmp_path: Path):
    package = tmp_path / "imginav_jax"
    package.mkdir()
    for name in ("__init__.py", "allocator.py"):
        shutil.copy(ROOT / "imginav_jax" / name, package)
    (package / "command.py").write_text(_COMMAND)
    start = [sys.executable, "-m", "imginav_jax.command"]
    given = {name: value for name, value in os.environ.items() if not name.startswith(allocator.WINNERS)}
    said = subprocess.run(start, cwd=tmp_path, env=given, check=True, capture_output=True, text=True).stdout
    faults, has_huge_pages = said.split()
    assert int(faults) < 100  # 10 MiB are 2,560 pages
    assert has_huge_pages == str(Path("/sys/kernel/mm/transparent_hugepage").exists())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_addresses_that_are_limited_are_left_to_the_program():
    limit = 2**34
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from imginav_jax import allocator
allocator.keep_freed_memory()
print(int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize())
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert int(said) < limit // 10
