"""Memory that a program of the CPU has freed is there for its next call."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource
from imginav_jax import allocator
allocator.keep_freed_memory()
import jax, jax.numpy as jnp
image = jnp.ones((10, 1024, 1024))  # 40 MiB, as what is sorted twice, which is temporary
step = jax.jit(lambda x: jnp.sort(jnp.sort(x + 1, 2) * 2, 1).sum())
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(image))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_no_page_is_asked_for_twice():
    said = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True).stdout
    assert int(said) < 100  # 40 MiB are 10,240 pages
