"""What follows a convolution: its bias, GroupNorm and the activation, in as few passes over the image as there can be.

Forward: one pass for the sums, one for the result.  Backward: one for the sums of the gradient, one for the gradient.
Everything else is a handful of numbers an image and channel.  Only the convolution's result is kept in between, and
what the activation does is computed anew.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from imginav_jax.devices import target

NORM_EPSILON = 1e-5

Activation = Callable[[Array], Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def bias_norm_act(
    x: Float[Array, "b h w c"],
    conv_bias: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    activation: Activation,
) -> Float[Array, "b h w c"]:
    """Returns activation(GroupNorm(x + conv_bias) * scale + bias), in x's dtype; statistics are in float32.

    PyTorch's GroupNorm: mean and biased variance over an image's pixels and a group's c / groups channels.
    """
    return _forward(x, conv_bias, scale, bias, groups, activation)[0]


def _forward(x: Array, *arguments: Any) -> tuple[Array, tuple[Any, ...]]:
    *parameters, groups, activation = arguments
    y = x.astype(jnp.float32)
    sums = _sum(y, jnp.square(y))
    small = *(each / (x.shape[1] * x.shape[2]) for each in sums), *parameters
    factor, offset = _coefficients(*small, groups=groups)
    return activation(y * _over_image(factor) + _over_image(offset)).astype(x.dtype), (x, *small)


def _backward(groups: int, activation: Activation, saved: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    x, mean, square, *parameters = saved
    pixels, on_cpu = x.shape[1] * x.shape[2], target.platform() == "cpu"
    if not on_cpu:
        parameters = [jnp.broadcast_to(each, mean.shape) for each in parameters]
    (factor, offset), pull_back = jax.vjp(functools.partial(_coefficients, groups=groups), mean, square, *parameters)
    activate_back = functools.partial(_activate_back, activation, _over_image(factor), _over_image(offset))
    y, inner = activate_back(x, gradient)
    of_mean, of_square, *of_parameters = pull_back(_sum(inner * y, inner))
    of_mean, of_square = of_mean / pixels, 2 / pixels * of_square
    if not on_cpu:
        # Without, XLA finds `inner` in both passes and keeps it in float32, which moves more than computing it twice;
        # and it makes many small kernels of the parameters' gradients instead of two.
        small = jnp.stack([of_mean, of_square, *of_parameters])
        x, gradient, (of_mean, of_square, *of_parameters) = lax.optimization_barrier((x, gradient, small))
        y, inner = activate_back(x, gradient)
        of_parameters = jnp.stack(of_parameters).sum(1)
    x_gradient = inner * _over_image(factor) + y * _over_image(of_square) + _over_image(of_mean)
    return x_gradient.astype(x.dtype), *of_parameters


bias_norm_act.defvjp(_forward, _backward)


def _activate_back(
    activation: Activation, factor: Array, offset: Array, x: Array, gradient: Array
) -> tuple[Array, Array]:
    """Returns x in float32, and the gradient of what the activation is given."""
    y = x.astype(jnp.float32)
    _, pull_back = jax.vjp(activation, y * factor + offset)
    (inner,) = pull_back(gradient.astype(jnp.float32))
    return y, inner


def _sum(first: Float[Array, "b h w c"], second: Float[Array, "b h w c"]) -> tuple[Float[Array, "b c"], ...]:
    """Returns both sums over the image; elsewhere than on CPUs as one of complex numbers.

    XLA estimates what a kernel costs by the expressions of each of its sums.  With two it finds that `inner`, which
    both need, is cheaper kept than computed twice on a V100.
    """
    if target.platform() == "cpu":
        return first.sum((1, 2)), second.sum((1, 2))
    both = lax.complex(first, second).sum((1, 2))
    return both.real, both.imag


def _coefficients(
    mean: Float[Array, "b c"],
    square: Float[Array, "b c"],
    conv_bias: Float[Array, "*b c"],
    scale: Float[Array, "*b c"],
    bias: Float[Array, "*b c"],
    *,
    groups: int,
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """Returns factor and offset that normalise each image's channels; `mean`, `square` are without the bias."""
    b, c = mean.shape
    conv_bias, scale, bias = (each.reshape(-1, c) for each in (conv_bias, scale, bias))
    square = square + conv_bias * (2 * mean + conv_bias)
    mean = mean + conv_bias
    moments = jnp.stack([mean, square]).reshape(2, b, groups, c // groups).mean(-1)
    group_mean, group_square = moments.repeat(c // groups, axis=-1)
    variance = jnp.maximum(group_square - jnp.square(group_mean), 0)
    factor = lax.rsqrt(variance + NORM_EPSILON) * scale
    return factor, bias + (conv_bias - group_mean) * factor


def _over_image(values: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
    return values[:, None, None, :]
