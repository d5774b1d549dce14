"""A trace of some training steps, for TensorBoard's profile plugin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from imginav_jax.system.errors import first_line
from imginav_jax.system.progress import logger

PLACE = Path("plugins", "profile")  # in the log folder; where the plugin looks


class Trace:
    """Traces the steps from the first to the last, both included, once; close it, or what it has is lost.

    A trace that fails is worth a warning, not a run.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        """`folder` is TensorBoard's of the run; None traces nothing."""
        self._folder, self._steps = folder, steps
        self._traced: list[int] = []  # steps of the trace that is open

    def begin(self, step: int, inputs: Any) -> None:
        """Starts the trace if this step, which is about to be dispatched, is one of its steps.

        The steps before have ended then: the device has made `inputs`.
        """
        if self._steps is None or not self._steps[0] <= step <= self._steps[1]:
            return
        if not self._traced:
            jax.block_until_ready(inputs)
            if not self._try(lambda: jax.profiler.start_trace(self._folder)):
                return
        self._traced.append(step)

    def end(self, step: int, results: Any) -> None:
        """Ends the trace after its last step, when the device has made `results`."""
        if self._traced and self._steps is not None and step == self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what has been traced, if anything."""
        if not self._traced:
            return
        steps, self._traced = self._traced, []
        if self._try(jax.profiler.stop_trace):
            logger.info("%-12s steps %d to %d, in %s", "Profile", steps[0], steps[-1], self._folder / PLACE)

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # whatever the profiler or the file system came up with
            self._steps = None
            logger.warning("The steps cannot be traced: %s. The run goes on without.", first_line(error))
            return False
        return True
