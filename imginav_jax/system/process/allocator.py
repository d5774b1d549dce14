"""The C library's allocator, told to keep what is freed: a training step takes and frees gigabytes on the CPU.

By default glibc returns such memory to the system, which hands it out again page by page, filled with zeros.
Here it stays, in huge pages where the system has them for the asking: 512 times fewer addresses to look up.

Every thread has a heap of its own, for threads with one heap wait for each other.  Only the main thread's heap may grow
beyond 64 MiB, and larger blocks of other threads go back to the system all the same.  So the main thread must start
the computations: JAX takes their memory where it starts them (`target` tells it so).
"""

import ctypes
import mmap
import os
import resource
from pathlib import Path

_SETTINGS = {  # of <malloc.h>
    -1: -1,  # M_TRIM_THRESHOLD: free memory at the end of the heap stays, however much it is
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap too
}
WINNERS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # the last may bring an allocator that is not glibc's
_is_keeping = False


def is_keeping_freed_memory() -> bool:
    """Returns whether `keep_freed_memory` has changed the allocator in this process."""
    return _is_keeping


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep freed memory for the process's next arrays, where there is no GPU.

    It changes nothing where the environment has MALLOC_*, GLIBC_TUNABLES or LD_PRELOAD, or another libc allocates.

    The package itself calls it for its commands, before NumPy and JAX are imported.
    """
    global _is_keeping
    if _has_gpu() or any(name.startswith(WINNERS) for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        _is_keeping = True
        for parameter, value in _SETTINGS.items():
            libc.mallopt(parameter, value)
        if _addresses_are_free():
            _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Grows the heap by addresses alone, for memory is taken when it is first used, and marks them for huge pages."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    start = libc.malloc(size)
    if start:
        first_page = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(first_page, start + size - first_page, mmap.MADV_HUGEPAGE)
        libc.free(start)


def _addresses_are_free() -> bool:
    """Whether memory counts when it is used, and not when it is asked for."""
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    is_counted = overcommit.exists() and overcommit.read_text().strip() == "2"
    return not is_counted and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def _has_gpu() -> bool:
    """As far as can be told before the backend starts."""
    return os.environ.get("JAX_PLATFORMS") != "cpu" and any(Path("/dev").glob("nvidia[0-9]*"))
