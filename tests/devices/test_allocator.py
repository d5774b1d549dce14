"""Memory that a command has freed on the CPU is there for its next call."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from imginav_jax.system.process import allocator

_COMMAND = """
import ctypes, resource, tempfile
import jax, jax.numpy as jnp
from imginav_jax.devices import target
target.require_devices()
image, wide = jnp.ones((20480, 8)), jnp.ones((8, 1024))
step = jax.jit(lambda x: jnp.maximum(x @ wide, 0) @ wide.T / 8192)  # a temporary array of 80 MiB
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):  # each is called before the last one has ended
        image = step(image)
    jax.block_until_ready(image)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile("r") as report:
    file = ctypes.c_void_p(libc.fopen(report.name.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    heaps = report.read().count("<heap ")
print(min(faults), " hg" in open("/proc/self/smaps").read(), heaps)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_command_asks_for_no_page_twice(tmp_path: Path):
    shutil.copytree(ROOT / "imginav_jax", tmp_path / "imginav_jax", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "imginav_jax" / "encode.py").write_text(_COMMAND)
    start = [sys.executable, "-m", "imginav_jax.encode"]
    given = {name: value for name, value in os.environ.items() if not name.startswith(allocator.WINNERS)}
    said = subprocess.run(start, cwd=tmp_path, env=given, check=True, capture_output=True, text=True).stdout
    faults, has_huge_pages, heaps = said.split()
    assert int(faults) < 100  # 80 MiB are 20,480 pages
    assert int(heaps) > 1  # or all threads would wait for each other where they take memory
    assert has_huge_pages == str(Path("/sys/kernel/mm/transparent_hugepage").exists())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_addresses_that_are_limited_are_left_to_the_program():
    limit = 2**34
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from imginav_jax.system.process import allocator
allocator.keep_freed_memory()
print(int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize())
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert int(said) < limit // 10
