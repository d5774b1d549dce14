"""What a process that decodes layouts does for itself; it starts by this module, so there are no heavy imports here."""

import os
import signal
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from imginav_jax.system.signals import STOPPING

_SECONDS_BETWEEN_LOOKS = 1.0


def open_pool() -> Executor:
    """Returns a pool of processes, one a core, that end with this one; a thread where they have no memory to share.

    They import the caller's main module anew, and start with the first tasks.
    """
    try:
        cores = len(os.sched_getaffinity(0))
        return ProcessPoolExecutor(cores, get_context("spawn"), initializer=end_with, initargs=(os.getpid(),))
    except OSError:  # /dev/shm is full
        return ThreadPoolExecutor(1)


def end_with(parent: int, *worker: int) -> None:
    """Ends this process within seconds of its parent's end, however that came, and for no other signal but KILL.

    `worker` is its number and how many there are.
    """
    del worker
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
