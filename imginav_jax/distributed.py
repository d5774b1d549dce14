"""Several processes in one run: how they find each other, and how they agree on when to save and stop."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax.errors import UserError
from imginav_jax.signals import Stop

_COORDINATOR = "IMGINAV_COORDINATOR"  # host:port of process 0
_COUNT, _INDEX = "IMGINAV_PROCESSES", "IMGINAV_PROCESS"


def initialize(stop: Stop) -> None:
    """Joins the run's other processes where the environment names a coordinator; before anything else of JAX.

    Raises:
      UserError: the environment names a coordinator, but not which of how many processes this is.
    """
    coordinator = os.environ.get(_COORDINATOR)
    if not coordinator:
        return
    count, index = (os.environ.get(name, "") for name in (_COUNT, _INDEX))
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(f"{_COUNT} is {count!r} and {_INDEX} {index!r}, expected a count and a smaller number from 0")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, int(count), int(index))
    stop.listen()  # JAX has put a handler of its own into the place
    stop.defer()  # one process alone must not leave the others waiting


def is_primary() -> bool:
    """Whether this process writes what a run leaves."""
    return jax.process_index() == 0


class Agreement:
    """What one process wants all do, after the same step; with several processes a step later than it is wanted."""

    def __init__(self, stop: Stop, mesh: Mesh):
        self.is_stopping = False
        self._has_saved = False  # the wishes that are still on their way are fulfilled
        self._stop, self._mesh, self._pending = stop, mesh, None
        self._most = jax.jit(lambda wishes: wishes.max(0), out_shardings=NamedSharding(mesh, PartitionSpec()))

    @property
    def is_wanted(self) -> bool:
        """Whether a signal has come to this process."""
        return self._stop.requested

    def settle(self, wants_save: bool) -> bool:
        """Called by every process after the same step: whether to save now; `is_stopping` is the same for all too."""
        if jax.process_count() == 1:
            self.is_stopping = self._stop.requested
            return wants_save
        pending, self._pending = self._pending, self._ask(wants_save)
        if pending is None:
            return False
        signal, save = np.asarray(jax.device_get(pending)).tolist()
        if signal:
            self._stop.adopt(signal)
            self.is_stopping = True
        self._has_saved = bool(save) and not self._has_saved
        return self._has_saved

    def _ask(self, wants_save: bool) -> Any:
        """Dispatches the question and does not wait for the answer."""
        local = [device for device in self._mesh.devices.flat if device.process_index == jax.process_index()]
        wishes = np.array([[self._stop.number, wants_save]] * len(local), np.int32)
        sharding = NamedSharding(self._mesh, PartitionSpec(*self._mesh.axis_names))
        return self._most(jax.make_array_from_process_local_data(sharding, wishes))
