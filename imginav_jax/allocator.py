"""The C library's allocator, told to keep what is freed: a training step takes and frees gigabytes on the CPU.

By default glibc returns such memory to the system, which hands it out again page by page, filled with zeros.
"""

import ctypes
import os
from pathlib import Path

_SETTINGS = {  # of <malloc.h>
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD, bytes: free memory at the end of the heap stays
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap too
    -8: 1,  # M_ARENA_MAX: of one heap, for that of a thread cannot grow beyond 64 MiB
}


def keep_freed_memory() -> None:
    """Where there is no GPU and glibc allocates; the environment's MALLOC_* and GLIBC_TUNABLES win.

    Call it before NumPy and JAX are imported: a thread that has run already leaves a heap of its own to later ones.
    """
    if _has_gpu() or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)


def _has_gpu() -> bool:
    """As far as can be told before the backend starts."""
    return os.environ.get("JAX_PLATFORMS") != "cpu" and any(Path("/dev").glob("nvidia[0-9]*"))
