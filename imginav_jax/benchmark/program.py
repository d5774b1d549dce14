"""A program compiled ahead of time, and what it needs."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params

from imginav_jax.devices import target
from imginav_jax.devices.mesh import memory_mib


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


def count_flops(jaxpr: Jaxpr) -> int:
    """Returns the operations of all convolutions and matrix products, a multiplication and an addition being two.

    Counted before compilation: XLA's own analysis of a GPU program leaves out what cuBLAS and cuDNN do.  As there,
    padding and the zeros of a dilated input do not count.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += 2 * _dot_products(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += 2 * _conv_products(equation)
        total += sum(map(count_flops, jaxprs_in_params(equation.params)))
    return total


def _dot_products(equation: Any) -> int:
    contracting, _ = equation.params["dimension_numbers"][0]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return math.prod(out) * math.prod(left[axis] for axis in contracting)


def _conv_products(equation: Any) -> int:
    params, axes = equation.params, equation.params["dimension_numbers"]
    (image, kernel), out = (var.aval.shape for var in equation.invars), equation.outvars[0].aval.shape
    products = out[axes.out_spec[0]] * out[axes.out_spec[1]] * kernel[axes.rhs_spec[1]]  # batch, outputs, inputs
    for number, (low, _) in enumerate(params["padding"]):
        image_size, kernel_size, out_size = (
            shape[spec[2 + number]]
            for shape, spec in ((image, axes.lhs_spec), (kernel, axes.rhs_spec), (out, axes.out_spec))
        )
        dilation = params["lhs_dilation"][number]
        start = np.arange(out_size) * params["window_strides"][number] - low
        place = np.add.outer(start, np.arange(kernel_size) * params["rhs_dilation"][number])
        products *= int(((place >= 0) & (place <= (image_size - 1) * dilation) & (place % dilation == 0)).sum())
    return products
