"""Several processes in one run: how they find each other, and how they agree on when to save and stop."""

import atexit
import os
import sys
import threading
import time
import types
from collections.abc import MutableMapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax.system.errors import RunError, UserError, first_line
from imginav_jax.system.signals import Stop

_COORDINATOR = "IMGINAV_COORDINATOR"  # host:port of process 0
_COUNT, _INDEX = "IMGINAV_PROCESSES", "IMGINAV_PROCESS"
_JOIN_SECONDS = 180  # for all to meet: a node may have to start its driver first
_LAST_SECONDS = 5  # that process 0 stays after an error, since the others end at once with it
_LOST = ("Gloo", "NCCL", "coordination service", "UNAVAILABLE", "DEADLINE_EXCEEDED")  # in the error of a lost process


def initialize(stop: Stop) -> None:
    """Joins the run's other processes where the environment names a coordinator; before anything else of JAX.

    Proxies of the environment are not for them.  From then on an error ends this process at once, where JAX would wait
    minutes for the others.

    Raises:
      UserError: the environment names a coordinator, but not which of how many processes this is.
      RunError: the others cannot be reached; where they do not come, the process ends with the same line.
    """
    coordinator = os.environ.get(_COORDINATOR)
    if not coordinator:
        return
    count, index = (os.environ.get(name, "") for name in (_COUNT, _INDEX))
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(f"{_COUNT} is {count!r} and {_INDEX} {index!r}, expected a count and a smaller number from 0")
    exempt_from_proxies(coordinator)
    jax.config.update("jax_check_proxy_envs", False)  # its warning is about what is mended here
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    failure = f"process {index} of {count} has not met the others at {coordinator}"
    # JAX itself would abort with a stack trace, so this comes first.
    waiting = threading.Timer(_JOIN_SECONDS, _give_up, (f"{failure} within {_JOIN_SECONDS} seconds",))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(coordinator, int(count), int(index), initialization_timeout=2 * _JOIN_SECONDS)
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"{failure}: {first_line(error)}") from None
    finally:
        waiting.cancel()
    sys.excepthook = _end_by
    stop.listen()  # JAX has put a handler of its own into the place
    stop.defer()  # one process alone must not leave the others waiting


def exempt_from_proxies(coordinator: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds the coordinator's host and the job's to the hosts that no proxy is used for; gRPC would use one."""
    hosts = [coordinator.rpartition(":")[0].strip("[]"), *environment.get("LSB_MCPU_HOSTS", "").split()[::2]]
    either = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    known = {"no_proxy": either, "NO_PROXY": environment.get("NO_PROXY") or either}
    if own := environment.get("no_grpc_proxy"):  # gRPC prefers it
        known["no_grpc_proxy"] = own
    for name, value in known.items():
        named = [host.strip() for host in value.split(",") if host.strip()]
        environment[name] = ",".join(dict.fromkeys([*named, *hosts]))


def leave() -> None:
    """Lets this process end by an error without waiting for the others, which may be waiting for it."""
    if sys.excepthook is _end_by:  # it has met the others
        atexit.register(_end)  # the last that is registered is the first that is called: before JAX's


def _give_up(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    _exit()


def _end_by(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """In the place of sys.excepthook: an error that only says that another process has gone is one line."""
    # JAX makes a ValueError of some of XLA's.
    if isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and any(word in str(error) for word in _LOST):
        sys.stderr.write(f"error: another process of the run has ended: {first_line(error)}\n")
    else:
        sys.__excepthook__(kind, error, trace)
    _end()


def _end() -> None:
    if os.environ.get(_INDEX) == "0":
        time.sleep(_LAST_SECONDS)
    _exit()


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def is_primary() -> bool:
    """Returns whether this process is the one that writes the files of a run."""
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
        """Returns whether to save now, the same in every process, and sets `is_stopping` likewise.

        Every process calls it after the same step.
        """
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
