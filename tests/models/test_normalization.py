"""Bias, GroupNorm and activation in one: against NumPy in float64, and against autodiff of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imginav_jax.devices import target
from imginav_jax.models.architecture import ACTIVATIONS
from imginav_jax.models.normalization import bias_norm_act

GROUPS = 4


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def platform(request):
    """Every test is of both forms, which are computed here."""
    with target.compile_for(request.param):
        yield


def random_arguments(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    x = 3 + 2 * jax.random.normal(keys[0], (2, 5, 3, 8))
    conv_bias, scale, bias = (jax.random.normal(key, (8,)) for key in keys[1:4])
    return (x.astype(dtype), conv_bias, scale, bias), jax.random.normal(keys[4], x.shape)


def plain(x, conv_bias, scale, bias, activation):
    """As torch.nn.functional.group_norm is defined."""
    grouped = (x + conv_bias[None, None, None]).reshape(2, 5, 3, GROUPS, 2)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = ((grouped - mean) ** 2).mean((1, 2, 4), keepdims=True)
    normal = ((grouped - mean) / (variance + 1e-5) ** 0.5).reshape(x.shape)
    return activation(normal * scale[None, None, None] + bias[None, None, None])


def test_value_is_numpys():
    arguments, _ = random_arguments()
    expected = plain(*(np.asarray(each, np.float64) for each in arguments), lambda y: y / (1 + np.exp(-y)))
    found = bias_norm_act(*arguments, GROUPS, jax.nn.silu)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SiLU", "ReLU", "Tanh", "Identity"])
def test_gradients_are_those_of_the_plain_formula(name):
    arguments, weights = random_arguments()
    activation = ACTIVATIONS[name]

    def gradients(function):
        return jax.grad(lambda *args: (function(*args) * weights).sum(), (0, 1, 2, 3))(*arguments)

    fused = gradients(lambda *args: bias_norm_act(*args, GROUPS, activation))
    for found, expected in zip(fused, gradients(lambda *args: plain(*args, activation)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_16_bit_images_have_statistics_and_parameter_gradients_of_32_bits():
    (x, *parameters), weights = random_arguments(jnp.bfloat16)

    def gradients(x):
        loss = lambda *args: (bias_norm_act(*args, GROUPS, jax.nn.silu).astype(jnp.float32) * weights).sum()  # noqa: E731
        return jax.grad(loss, (0, 1, 2, 3))(x, *parameters)

    half, whole = gradients(x), gradients(x.astype(jnp.float32))
    assert [each.dtype for each in half] == [jnp.bfloat16, jnp.float32, jnp.float32, jnp.float32]
    for found, expected in zip(half[1:], whole[1:], strict=True):
        assert jnp.linalg.norm(found - expected) < 0.01 * jnp.linalg.norm(expected)
