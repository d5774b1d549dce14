"""The platform that a program is compiled for, and what its compiler must be told."""

import contextlib
import contextvars
import logging
import os
from collections.abc import Iterator

import jax

from imginav_jax.system.errors import UserError, first_line
from imginav_jax.system.process import allocator
from imginav_jax.system.progress import logger

_CHOICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "XLA_CLIENT_MEM_FRACTION")  # of devices, and how they start
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def require_devices() -> None:
    """Starts JAX on the devices that the environment names; every command calls it before anything computes.

    Where the allocator keeps freed memory, the thread that calls a program on the CPU starts it too, instead of one
    whose heap may not grow.  A plugin of JAX that cannot be used here is a line of the log, where JAX itself would
    print a traceback.

    Raises:
      UserError: there are none, or JAX cannot use them.
    """
    if allocator.is_keeping_freed_memory():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        with _without_tracebacks() as failures:
            jax.local_devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        named = [f"{name}={os.environ[name]}" for name in _CHOICES if os.environ.get(name)]
        reason = (
            str(error).partition(" (set JAX_PLATFORMS")[0]
            or "there is none of that kind, or JAX is installed without it"
        )
        asked = f"{' '.join(named)} is in the environment, and " if named else ""
        raise UserError(f"{asked}JAX finds no device to compute on: {' '.join(reason.split())}") from None
    for failure in failures:
        logger.warning("Warning      JAX cannot use a kind of device that it is installed for: %s", failure)


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[list[str]]:
    """Collects the first lines of the exceptions that JAX would log while it looks for devices."""
    failures = []

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            failures.append(f"{record.getMessage()}: {first_line(record.exc_info[1])}")
        return not record.exc_info

    log = logging.getLogger("jax._src.xla_bridge")
    log.addFilter(collect)
    try:
        yield failures
    finally:
        log.removeFilter(collect)


def platform() -> str:
    """Returns the platform that programs are compiled for, "cpu" or "gpu", as `jax.default_backend` calls it.

    A program that asks for it while it is traced must be compiled for this platform.
    """
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def compile_for(name: str) -> Iterator[None]:
    """Makes what is inside trace and compile for the platform `name`, whatever the current backend is."""
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def compiler_options(*, keep_barriers: bool = False) -> dict[str, str | bool]:
    """Returns the `compiler_options` for jax.jit with which XLA compiles a model's program as it is meant.

    On the CPU, it gives convolutions to a library that runs those of large images on one core; without, they run on
    all.  And it drops optimization barriers before it merges equal expressions and chooses an order: activations that
    are to be computed twice were then computed once and kept.  On GPUs it drops them last.

    Args:
      keep_barriers: for a model that computes activations twice.
    """
    if platform() != "cpu":
        return {}
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": kinds}
    return {**options, "xla_disable_hlo_passes": "cse_barrier_expander"} if keep_barriers else options
