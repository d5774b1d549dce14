"""The platform that a program is compiled for: the current backend's, or one that is not here."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """As `jax.default_backend` calls it, "cpu" or "gpu"; asked while a program is traced, which must be for this."""
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def compile_for(name: str) -> Iterator[None]:
    """What is inside traces and compiles for the platform `name`, whatever the current backend is."""
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
