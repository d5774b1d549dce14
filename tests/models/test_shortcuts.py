"""Shortcuts add no parameter, are what their definition says, and carry a gradient past the convolutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import TINY, reconstruct
from imginav_jax.devices import target
from imginav_jax.models import network, shortcuts
from imginav_jax.models.architecture import AutoencoderConfig

WITH = dataclasses.replace(TINY, shortcuts=True)


def images(*shape):
    return jax.random.uniform(jax.random.key(1), shape, minval=-1, maxval=1)


def row(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1, 2, 3, 6), (1.5, 4.5)),
        ((1, 2), (1, 1, 1, 2, 2, 2)),
        ((1, 2, 6), (1.5, 4)),  # the second channel belongs to both
        ((1, 2), (1, 1.5, 2)),
        ((1, 2, 4), (1, 1.5, 3, 4)),
        ((1, 2, 3), (1, 2, 3)),
    ],
)
def test_channels_are_averaged_or_repeated(given, expected):
    np.testing.assert_allclose(shortcuts.resize_channels(row(*given), len(expected)), row(*expected), rtol=1e-6)


def test_pixels_become_channels_and_channels_pixels():
    x = jnp.arange(1.0, 9).reshape(1, 2, 2, 2)  # of the first channel 1 3 / 5 7, of the second 2 4 / 6 8
    np.testing.assert_array_equal(shortcuts.down(x, 8), row(*range(1, 9)))
    np.testing.assert_array_equal(shortcuts.down(x, 4), row(1.5, 3.5, 5.5, 7.5))
    np.testing.assert_array_equal(shortcuts.up(row(*range(1, 9)), 2), x)
    np.testing.assert_array_equal(shortcuts.up(row(1, 2, 3, 4), 2)[0, ..., 1], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(shortcuts.up(row(1, 2), 1)[0, ..., 0], [[1, 1], [2, 2]])


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_there_are_no_parameters_of_their_own(steps):
    with_them, without = (
        network.abstract_params(AutoencoderConfig(16, 32, steps, shortcuts=value)) for value in (True, False)
    )
    assert with_them == without


def brute_force_down(x, channels):
    """As it is written: every pixel of a 2x2 cell and every channel is looked up."""
    b, h, w, c = x.shape
    y = np.zeros((b, h // 2, w // 2, channels))
    for channel in range(channels):
        start, end = channel * 4 * c // channels, -(-(channel + 1) * 4 * c // channels)
        for source in range(start, end):
            pixel, place = divmod(source, c)
            y[..., channel] += x[:, pixel // 2 :: 2, pixel % 2 :: 2, place] / (end - start)
    return y


def brute_force_up(x, channels):
    b, h, w, c = x.shape
    y = np.zeros((b, 2 * h, 2 * w, channels))
    for channel in range(channels):
        for pixel in range(4):
            y[:, pixel // 2 :: 2, pixel % 2 :: 2, channel] = x[..., (pixel * channels + channel) * c // (4 * channels)]
    return y


def test_with_kernels_of_zero_each_stage_is_its_shortcut():
    model = network.Autoencoder(WITH, lambda shape, _: jnp.zeros(shape, jnp.float32))
    encoder, decoder = model.encoder, model.decoder
    x = images(2, 16, 16, 3)
    for stage, channels in zip(encoder.stages, (16, 32), strict=True):
        expected = brute_force_down(np.asarray(x), channels)
        x = stage(x)
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(encoder(images(2, 16, 16, 3)).mean, x.reshape(2, 4, 4, 4, 8).mean(-1))
    z = images(2, 4, 4, 4)
    first, *others = decoder.stages
    x = first(z)
    np.testing.assert_array_equal(x, np.repeat(z, 8, -1))
    for stage, channels in zip(others, (16, 8), strict=True):
        expected = brute_force_up(np.asarray(x), channels)
        x = stage(x)
        np.testing.assert_array_equal(x, expected)


def test_a_stage_adds_its_shortcut_to_what_it_was(tiny_params):
    plain, with_them = (nnx.merge(network._structure(config)[0], nnx.State(tiny_params)) for config in (TINY, WITH))
    x = images(2, 16, 16, 3)
    for without, stage in zip(plain.encoder.stages, with_them.encoder.stages, strict=True):
        c = stage[0].kernel.shape[-1]
        np.testing.assert_allclose(stage(x), without(x) + brute_force_down(np.asarray(x), c), rtol=1e-5, atol=1e-6)
        x = stage(x)


def loss_of(config):
    def loss(arguments):
        outputs = reconstruct(config, *arguments)
        return sum(jnp.square(each).mean() for each in outputs)

    return loss


def test_gradients_are_finite_differences(tiny_params):
    arguments, loss = (tiny_params, images(2, 16, 16, 3)), jax.jit(loss_of(WITH))
    gradient = jax.jit(jax.grad(loss))(arguments)
    random = np.random.default_rng(0)
    anywhere = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), arguments)
    for direction, step in ((gradient, 1e-3), (anywhere, 5e-4)):
        forward, back = (
            loss(jax.tree.map(lambda leaf, change, by=by: leaf + by * change, arguments, direction))
            for by in (step, -step)
        )
        along = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, direction))))
        assert float(along) == pytest.approx(float(forward - back) / (2 * step), rel=5e-3)


@pytest.mark.parametrize("remat", [False, True])
def test_the_platforms_forms_agree_in_value_and_gradient(tiny_params, remat):
    config = dataclasses.replace(WITH, remat=remat)
    arguments, found = (tiny_params, images(2, 16, 16, 3)), []
    for platform in ("cpu", "gpu"):
        with target.compile_for(platform):
            program = jax.jit(lambda arguments: (reconstruct(config, *arguments), jax.grad(loss_of(config))(arguments)))
            found.append(program(arguments))
    # Some gradients are zero but for rounding: of a convolution's bias whose channels have a norm each.
    for of_the_cpu, plain in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(of_the_cpu, plain, rtol=1e-4, atol=1e-6)
