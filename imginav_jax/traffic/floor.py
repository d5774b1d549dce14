"""The least that a program must move and multiply, read off what JAX has traced, before any compiler has touched it."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params

from imginav_jax.traffic import kinds


class Pass(NamedTuple):
    """One walk over memory that cannot be left out."""

    kind: str  # of kinds.KINDS
    moved: int  # bytes


def passes(jaxpr: Jaxpr) -> list[Pass]:
    """Returns the passes of convolutions, matrix products, and norms with their activations.

    A convolution or product reads its operands and writes its result once, in the types that it has: forward, for the
    gradient of its input, and for that of its kernel, as far as they are asked for.  A norm passes over its image three
    times forward (sums; reading and writing) and five times backward (sums of image and gradient; reading both, writing
    one), in the type of the convolutions.
    """
    found, size = [], _smallest_type(jaxpr)
    image = 0  # values of what was last summed up: a norm's image, where the root of a variance follows
    for equation in _equations(jaxpr):
        name, stack = equation.primitive.name, str(equation.source_info.name_stack)
        if name == "conv_general_dilated":
            found.append(Pass(_kind_of_convolution(equation, stack), _moved(equation)))
        elif name == "dot_general":
            found.append(Pass(kinds.PRODUCTS, _moved(equation)))
        elif name == "reduce_sum":
            image = max(image, math.prod(equation.invars[0].aval.shape))
        elif name == "rsqrt" and "transpose" not in stack:
            times = (1, 2, 2, 3) if "jvp" in stack else (1, 2)
            found.extend(Pass(kinds.NORMS, each * image * size) for each in times)
            image = 0
    return found


def conversions(params: Any, size: int) -> list[Pass]:
    """Returns what it takes to make kernels of `size` bytes a value from float32 ones; nothing where they have 4."""
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    return [Pass(kinds.COPIES, leaf.size * (4 + size)) for leaf in kernels] if size < 4 else []


def updates(params: Any, size: int, has_ema: bool = False) -> list[Pass]:
    """Returns AdamW's passes over each parameter: it reads the gradient, of `size` bytes a value, for the norm and for
    the update, and reads and writes the parameter and both averages in float32, and a moving average of the weights."""
    in_float32 = 8 if has_ema else 6
    return [Pass(kinds.OPTIMIZER, leaf.size * (2 * size + in_float32 * 4)) for leaf in jax.tree.leaves(params)]


def count_flops(jaxpr: Jaxpr) -> int:
    """Returns the operations of all convolutions and matrix products, a multiplication and an addition being two.

    Counted before compilation: XLA's own analysis of a GPU program leaves out what cuBLAS and cuDNN do.  As there,
    padding and the zeros of a dilated input do not count.
    """
    products = {"dot_general": _dot_products, "conv_general_dilated": _conv_products}
    counted = (each for each in _equations(jaxpr) if each.primitive.name in products)
    return sum(2 * products[each.primitive.name](each) for each in counted)


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Yields all equations in order, those of inner functions in their place, those of a loop as often as it runs."""
    for equation in jaxpr.eqns:
        yield equation
        for _ in range(equation.params.get("length", 1) if equation.primitive.name == "scan" else 1):
            for inner in jaxprs_in_params(equation.params):
                yield from _equations(inner)


def _smallest_type(jaxpr: Jaxpr) -> int:
    """Returns the bytes of a value of the convolutions, of all products where there is none."""
    sizes = [
        equation.invars[0].aval.dtype.itemsize
        for equation in _equations(jaxpr)
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
    ]
    return min(sizes, default=4)


def _moved(equation: Any) -> int:
    return sum(var.aval.size * var.aval.dtype.itemsize for var in (*equation.invars, *equation.outvars))


def _kind_of_convolution(equation: Any, stack: str) -> str:
    """JAX makes a kernel's gradient a convolution whose batch is the channels."""
    if equation.params["dimension_numbers"].lhs_spec[0] != 0:
        return kinds.KERNEL_GRADIENT
    return kinds.INPUT_GRADIENT if "transpose(jvp" in stack else kinds.FORWARD


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
