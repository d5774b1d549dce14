"""Shapes, parameter counts and initial distribution are the experiment's; all forms of a convolution are one sum."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY, reconstruct
from imginav_jax.devices import target
from imginav_jax.models import convolutions, network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.cpu import winograd


@pytest.mark.parametrize(
    ("steps", "latent", "count"),
    [
        (3, 16, 786_143),
        (4, 16, 3_119_455),
        (5, 16, 12_406_367),
        (3, 8, 775_895),
        (4, 8, 3_098_967),
        (5, 8, 12_365_399),
    ],
)
def test_parameter_counts_and_latent_shapes(steps, latent, count):
    config = AutoencoderConfig(latent, 32, steps)
    params = jax.eval_shape(lambda: network.init(config, jax.random.key(0)))
    assert network.parameter_count(params) == count
    images = jax.ShapeDtypeStruct((2, 512, 512, 3), jnp.float32)
    latents = jax.eval_shape(lambda params, x: network.encode(config, params, x), params, images)
    side = 512 // 2**steps
    assert latents.shape == (2, side, side, latent)
    assert config.latent_shape(512) == latents.shape[1:]
    outputs = jax.eval_shape(lambda params, z: network.decode(config, params, z), params, latents)
    assert [each.shape for each in outputs] == [(2, 512, 512, 3), (2, 512, 512, 10), (2, 2)]
    assert all(each.dtype == jnp.float32 for each in outputs)


def brute_force_transposed(x, kernel):
    """Every input pixel adds its 4x4 patch at twice its position, less one: PyTorch's padding 1."""
    b, h, w, _ = x.shape
    y = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    flipped = kernel[::-1, ::-1]
    for i in range(h):
        for j in range(w):
            y[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("bc,klco->bklo", x[:, i, j], flipped)
    return y[:, 1:-1, 1:-1]


def brute_force_strided(x, kernel):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), (1, 2))[:, ::2, ::2]
    return np.einsum("bhwckl,klco->bhwo", windows, kernel)


def brute_force_same(x, kernel):
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
    return np.einsum("bhwckl,klco->bhwo", windows, kernel)


UPSAMPLE = convolutions.upsample_conv, brute_force_transposed, 4
DOWNSAMPLE = convolutions.downsample_conv, brute_force_strided, 4
SAME = convolutions.conv, brute_force_same, 3
POINTWISE = convolutions.conv, brute_force_same, 1


@pytest.mark.parametrize(
    ("operation", "size", "channels"),
    [
        # Below and above the size from which the kernel's gradient is taken from one tall image.
        (UPSAMPLE, (6, 8), (3, 5)),
        (UPSAMPLE, (32, 6), (3, 5)),
        (DOWNSAMPLE, (6, 8), (3, 5)),
        (DOWNSAMPLE, (64, 6), (3, 5)),
        # One, two and four columns of the result at once, for the gradient too; a width that no pair divides.
        (SAME, (6, 8), (20, 30)),
        (SAME, (6, 8), (5, 6)),
        (SAME, (6, 8), (6, 3)),
        (SAME, (6, 7), (6, 3)),
        (SAME, (32, 6), (3, 5)),
        (SAME, (32, 6), (5, 3)),
        (POINTWISE, (32, 6), (3, 5)),
        (POINTWISE, (6, 8), (5, 3)),
        # Enough channels and tiles for Winograd's form.
        (UPSAMPLE, (16, 32), (128, 129)),
        (DOWNSAMPLE, (32, 64), (129, 128)),
        (SAME, (32, 16), (64, 66)),
    ],
)
def test_the_platforms_forms_agree_with_a_plain_sum_in_value_and_gradient(operation, size, channels):
    operation, reference, kernel_size = operation
    cin, cout = channels
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, cin))
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, cin, cout)) / kernel_size / cin**0.5
    expected = reference(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    weights = jax.random.normal(keys[2], expected.shape)
    gradients = []
    for platform in ("cpu", "gpu"):
        with target.compile_for(platform):
            np.testing.assert_allclose(operation(x, kernel), expected, rtol=1e-5, atol=1e-5)
            gradients.append(jax.grad(lambda *args: (operation(*args) * weights).sum(), (0, 1))(x, kernel))
    for of_the_cpu, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(of_the_cpu, plain, rtol=1e-4, atol=1e-5 * jnp.abs(plain).max())


@pytest.mark.parametrize(
    ("form", "reference", "kernel_size", "multiple"),
    [
        (winograd.conv, brute_force_same, 3, 2),
        (winograd.downsample, brute_force_strided, 4, 4),
        (winograd.upsample, brute_force_transposed, 4, 2),
    ],
)
def test_winograds_form_is_the_plain_sum(form, reference, kernel_size, multiple):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, multiple, 3 * multiple, 3))
    kernel = random.normal(size=(kernel_size, kernel_size, 3, 5))
    ours = form(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(ours, reference(x, kernel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("operation", "shape", "kernel_shape", "is_winograd"),
    [
        (convolutions.conv, (1, 32, 32, 64), (3, 3, 64, 64), True),
        (convolutions.conv, (1, 32, 32, 64), (3, 3, 64, 63), False),
        (convolutions.conv, (1, 32, 30, 64), (3, 3, 64, 64), False),  # too few tiles
        (convolutions.conv, (1, 33, 32, 64), (3, 3, 64, 64), False),  # no whole tiles
        (convolutions.conv, (1, 32, 32, 64), (1, 1, 64, 64), False),
        (convolutions.downsample_conv, (1, 64, 64, 128), (4, 4, 128, 128), True),
        (convolutions.downsample_conv, (1, 64, 64, 128), (4, 4, 128, 127), False),
        (convolutions.downsample_conv, (2, 66, 64, 128), (4, 4, 128, 128), False),
        (convolutions.upsample_conv, (1, 32, 32, 128), (4, 4, 128, 128), True),
        (convolutions.upsample_conv, (2, 31, 32, 128), (4, 4, 128, 128), False),
    ],
)
def test_winograds_form_is_taken_where_it_pays_and_only_without_gradients(operation, shape, kernel_shape, is_winograd):
    def products(function, dtype=jnp.float32):
        arguments = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(kernel_shape, dtype)
        return str(jax.make_jaxpr(function)(*arguments)).count("conv_general_dilated[")

    assert (products(operation) > 1) == is_winograd
    assert products(operation, jnp.bfloat16) == 1
    assert products(lambda x, kernel: jax.vjp(operation, x, kernel)[0]) == 1


def test_initial_parameters_have_pytorchs_bounds():
    config = AutoencoderConfig(16, 32, 3)
    params = jax.jit(lambda key: network.init(config, key))(jax.random.key(0))
    encoder, decoder = params["encoder"], params["decoder"]
    fans = [
        (encoder["stages"][0][0], 3 * 9),
        (encoder["stages"][2][2], 128 * 16),
        (encoder["to_latent"], 128),
        (decoder["stages"][1][0], 64 * 16),  # transposed: PyTorch takes the outputs for the fan-in
        (decoder["rgb"]["layers"][2], 16 * 9),
        (decoder["classification"], 16),
    ]
    for layer, fan_in in fans:
        bound = fan_in**-0.5
        values = np.asarray(layer["kernel"]).ravel()
        assert np.abs(values).max() <= bound
        assert np.abs(layer["bias"]).max() <= bound
        if values.size > 500:
            assert np.abs(values).max() > 0.98 * bound
            assert abs(values.std() - bound / 3**0.5) < 0.05 * bound
    assert (params["encoder"]["stages"][0][1]["scale"] == 1).all()
    assert (params["encoder"]["stages"][0][1]["bias"] == 0).all()


def test_each_image_is_encoded_and_decoded_alone(tiny_params):
    images = jax.random.uniform(jax.random.key(1), (3, 16, 16, 3), minval=-1, maxval=1)
    apply = jax.jit(lambda params, x: reconstruct(TINY, params, x))
    whole, alone = apply(tiny_params, images), apply(tiny_params, images[1:2])
    for a, b in zip(whole, alone, strict=True):
        np.testing.assert_allclose(a[1:2], b, rtol=1e-4, atol=1e-5)
    assert (jnp.abs(whole.rgb) <= 1).all()


def test_remat_and_bfloat16(tiny_params):
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1, maxval=1)

    def gradient(config):
        loss = jax.jit(jax.grad(lambda params: jnp.square(reconstruct(config, params, images).rgb).mean()))
        return loss(tiny_params)

    plain = gradient(TINY)
    for a, b in zip(*map(jax.tree.leaves, (plain, gradient(dataclasses.replace(TINY, remat=True)))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    half = gradient(dataclasses.replace(TINY, compute_dtype="bfloat16"))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    kernels = [tree["encoder"]["stages"][0][0]["kernel"] for tree in (plain, half)]
    assert jnp.linalg.norm(kernels[0] - kernels[1]) < 0.1 * jnp.linalg.norm(kernels[0])
