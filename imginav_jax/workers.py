"""What a process that decodes layouts does for itself; it starts by this module, so there are no heavy imports here."""

import os
import threading
import time

_SECONDS_BETWEEN_LOOKS = 1.0


def end_with(parent: int, *worker: int) -> None:
    """Ends this process within seconds of its parent's end, however that came; `worker` is its number and the count."""
    del worker

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
