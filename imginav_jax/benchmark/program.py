"""A program compiled ahead of time, and what it needs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from imginav_jax.devices import target
from imginav_jax.devices.mesh import memory_mib
from imginav_jax.traffic.floor import count_flops


class Program(NamedTuple):
    run: Callable[..., Any]
    compile_seconds: float
    memory_mib: float  # the compiler's estimate: arguments, results and temporaries
    flops: int  # of a call, as `count_flops` counts
    bytes_accessed: float  # of a call, as XLA counts: what each of the program's operations reads and writes


class Stepper:
    """A training step whose state, which it donates, goes from call to call."""

    def __init__(self, step: Callable[..., tuple[Any, Any]], state: Any, *inputs: Any):
        self._step, self._state, self._inputs = step, state, inputs

    def __call__(self) -> Any:
        self._state, measured = self._step(self._state, *self._inputs)
        return self._state, measured


def compile_program(
    function: Callable[..., Any],
    *arguments: Any,
    donates_first: bool = False,
    keep_barriers: bool = False,
) -> Program:
    """Compiles for arguments like these, on their device; `keep_barriers` as in `target.compiler_options`."""
    start = time.monotonic()
    options = target.compiler_options(keep_barriers=keep_barriers)
    donated = (0,) if donates_first else ()
    compiled = jax.jit(function, donate_argnums=donated, compiler_options=options).lower(*arguments).compile()
    seconds = time.monotonic() - start
    memory = memory_mib(compiled.memory_analysis())
    analysis: Any = compiled.cost_analysis()
    with target.compile_for("gpu"):  # the plain convolutions: some forms for the CPU multiply by zeros
        plain = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
    return Program(compiled, seconds, memory, count_flops(plain.jaxpr), analysis["bytes accessed"])
