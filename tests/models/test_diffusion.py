"""The small diffusion model and its ControlNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import FAST
from imginav_jax.models.diffusion import flow_matching, steps
from imginav_jax.models.diffusion import unet as models
from imginav_jax.models.diffusion.steps import Recipe
from imginav_jax.models.diffusion.unet import Demand, DemandShape

SHAPE = (4, 4, 4)
CELLS = DemandShape(3, 0)  # what is asked of three channels a cell
jit = functools.partial(jax.jit, compiler_options=FAST)


@pytest.fixture(scope="module")
def unet():
    """A U-Net whose output is not zero, as that of a fresh one is."""
    abstract = jax.eval_shape(lambda: models.init_unet(SHAPE, jax.random.key(0)))
    random = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), abstract)


@pytest.fixture(scope="module")
def inputs():
    """Latents, times and a condition of three channels."""
    random = np.random.default_rng(0)
    latents, condition = random.standard_normal((2, 2, *SHAPE), np.float32)
    return latents, np.array([0.2, 0.9], np.float32), condition[..., :3]


def test_a_fresh_controlnet_changes_nothing_and_another_one_does(unet, inputs):
    latents, times, condition = inputs
    controlnet = models.init_controlnet(unet, SHAPE, CELLS)
    expected = jit(models.velocity)(unet, latents, times)
    assert expected.shape == (2, *SHAPE)
    assert float(jnp.abs(expected).max()) > 0.1
    steer = jit(functools.partial(models.controlled_velocity, unet))
    np.testing.assert_allclose(
        steer(controlnet, latents, times, Demand(condition, None)), expected, rtol=1e-5, atol=1e-6
    )
    moved = jax.tree.map(lambda leaf: leaf + 0.01, controlnet)
    steered, otherwise = (steer(moved, latents, times, Demand(each, None)) for each in (condition, condition + 1))
    assert float(jnp.abs(steered - expected).max()) > 1e-3
    assert float(jnp.abs(steered - otherwise).max()) > 1e-4


def test_a_controlnet_begins_with_the_unets_own_inward_half(unet):
    controlnet = models.init_controlnet(unet, SHAPE, CELLS)
    jax.tree.map(np.testing.assert_array_equal, controlnet.pop("encoder"), unet["encoder"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(controlnet))


def test_a_step_trains_the_controlnet_on_a_frozen_unet(unet, inputs):
    latents, _, condition = inputs
    state = steps.create_state(models.init_controlnet(unet, SHAPE, CELLS), Recipe())
    before = jax.tree.map(np.array, (unet, state.params))
    step = jit(functools.partial(steps.controlnet_step, recipe=Recipe()))
    for number in (1, 2, 3):  # the first rate is 0; behind zeros, the inward half has a gradient one step later
        state, loss = step(state, unet, latents, Demand(condition, None), jax.random.key(0))
        assert (int(state.step), bool(jnp.isfinite(loss))) == (number, True)
    jax.tree.map(np.testing.assert_array_equal, unet, before[0])
    changed = jax.tree.map(lambda new, old: bool((new != old).any()), state.params, before[1])
    assert all(changed[name][kind] for name in ("condition", "middle") for kind in ("kernel", "bias"))
    assert changed["encoder"]["inward"]["kernel"]


def test_half_precision_is_only_what_the_unet_computes_in(unet, inputs):
    latents, times, _ = inputs
    exact = jit(models.velocity)(unet, latents, times)
    half = jit(functools.partial(models.velocity, dtype="bfloat16"))(unet, latents, times)
    assert exact.dtype == half.dtype == jnp.float32
    assert 0 < float(jnp.abs(half - exact).max()) < 0.1 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("shape", [(1, 1, 4), (2, 6, 4), (8, 4, 4)])
def test_small_and_odd_latents_are_halved_as_often_as_they_can_be(shape):
    params = jax.eval_shape(lambda: models.init_unet(shape, jax.random.key(0)))
    latents, times = jax.ShapeDtypeStruct((2, *shape), np.float32), jax.ShapeDtypeStruct((2,), np.float32)
    assert jax.eval_shape(models.velocity, params, latents, times).shape == (2, *shape)


def test_the_loss_of_a_perfect_velocity_is_zero():
    latents = np.random.default_rng(1).standard_normal((3, 2, 2, 1), np.float32)

    def perfect(x, time):  # on the straight path x = (1 - t) latents + t noise
        noise = (x - latents) / time[:, None, None, None] + latents
        return noise - latents

    key = jax.random.key(0)
    assert float(flow_matching.loss(perfect, latents, key)) == pytest.approx(0, abs=1e-9)
    found = flow_matching.loss(lambda x, time: perfect(x, time) + 2, latents, key)
    assert float(found) == pytest.approx(4, rel=1e-5)


def test_contents_reach_every_cell_through_the_time(unet, inputs):
    latents, times, _ = inputs
    contents = np.array([[1, 0], [0, 2]], np.float32)
    controlnet = models.init_controlnet(unet, SHAPE, DemandShape(0, 2))
    steer = jit(functools.partial(models.controlled_velocity, unet))
    moved = jax.tree.map(lambda leaf: leaf + 0.01, controlnet)
    one, other = (steer(moved, latents, times, Demand(None, each)) for each in (contents, contents[::-1]))
    assert (jnp.abs(one - other).max((1, 2, 3)) > 1e-4).all()


def test_a_fresh_controlnet_is_the_unconditional_model_bit_for_bit(unet, inputs):
    """Operation by operation: two compiled programs may add in another order."""
    latents, times, condition = inputs
    demand = Demand(condition, np.ones((2, 5), np.float32))
    controlnet = models.init_controlnet(unet, SHAPE, DemandShape(3, 5))
    found = models.controlled_velocity(unet, controlnet, latents, times, demand)
    np.testing.assert_array_equal(found, models.velocity(unet, latents, times))


def test_widths_grow_with_the_channels_of_a_latent():
    assert models.Widths.of(16) == models.Widths.of(64) == (64, 128, 256)
    assert models.Widths.of(65) == (72, 144, 288)
    params = jax.eval_shape(lambda: models.init_unet((2, 2, 256), jax.random.key(0)))
    assert params["encoder"]["inward"]["kernel"].shape == (3, 3, 256, 256)


@pytest.mark.parametrize(("shape", "shift"), [((64, 64, 16), 4), ((32, 32, 16), 2), ((16, 16, 16), 1)])
def test_times_are_shifted_by_the_number_of_values(shape, shift):
    assert flow_matching.shift_of(shape) == shift
    times = jnp.array([0, 0.25, 0.5, 1])
    # s t / (1 + (s - 1) t), by hand for s = 4: 1 / 1.75 and 2 / 2.5
    expected = {4: [0, 4 / 7, 0.8, 1], 2: [0, 0.4, 2 / 3, 1], 1: [0, 0.25, 0.5, 1]}[shift]
    np.testing.assert_allclose(flow_matching.shift_times(times, shift), expected, rtol=1e-6)


@pytest.mark.parametrize("shift", [1, 0.25, 4])
def test_a_straight_path_is_drawn_exactly_whatever_the_times(shift):
    """Its velocity is constant, so that Heun's method makes no error."""
    aim = np.random.default_rng(0).standard_normal((2, 2, 2, 3), np.float32)
    noise = np.random.default_rng(1).standard_normal((2, 2, 2, 3), np.float32)
    drawn = flow_matching.draw(lambda x, time: jnp.asarray(noise - aim), noise, 3, shift)
    np.testing.assert_allclose(drawn, aim, atol=1e-6)


def test_float16_leaves_out_a_step_that_overflows():
    params = {"weight": jnp.ones(3)}
    recipe = Recipe(dtype="float16", warmup=0)
    state = steps.create_state(params, recipe)
    optimizer = recipe.optimizer()
    updates, _ = optimizer.update({"weight": jnp.array([1.0, np.inf, 1.0])}, state.opt_state, params)
    np.testing.assert_array_equal(updates["weight"], 0)
