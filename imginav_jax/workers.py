"""What a process that decodes layouts does for itself; it starts by this module, so there are no heavy imports here."""

import os
import signal
import threading
import time

from imginav_jax.signals import STOPPING

_SECONDS_BETWEEN_LOOKS = 1.0


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
