"""The steps: loss, gradient descent, and evaluation without a trace of batches and padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY, make_batch, random_batch, random_layout, reconstruct
from imginav_jax.datasets import palette, pictures, synthetic
from imginav_jax.devices import target
from imginav_jax.devices.mesh import batch_sharding
from imginav_jax.models import inference, losses, metrics, normalization
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.training import evaluate, steps
from imginav_jax.training.compiled import compile_steps
from imginav_jax.training.state import (
    GROWTH_INTERVAL,
    INITIAL_SCALE,
    LossScale,
    TrainState,
    create_state,
    make_optimizer,
)


def test_scaling_is_exact_at_the_ends_and_undone():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    scaled = inference.scale_images(jnp.asarray(images))
    assert (scaled.min(), scaled.max()) == (-1, 1)
    np.testing.assert_array_equal(inference.unscale_images(scaled), images)


def plain_bias_norm_act(x, conv_bias, scale, bias, groups, activation):
    """As `normalization.bias_norm_act` defines it, without its gradient."""
    grouped = (x + conv_bias[None, None, None]).reshape(*x.shape[:3], groups, -1)
    mean, variance = (function(grouped, axis=(1, 2, 4), keepdims=True) for function in (jnp.mean, jnp.var))
    normal = ((grouped - mean) / jnp.sqrt(variance + normalization.NORM_EPSILON)).reshape(x.shape)
    return activation(normal * scale[None, None, None] + bias[None, None, None])


@pytest.mark.slow
def test_the_losses_of_50_steps_are_those_of_the_plain_form(monkeypatch):
    optimizer = make_optimizer(1e-3, 0.01)
    batches = [make_batch([random_layout(64, 2 * n), random_layout(64, 2 * n + 1)], [0, 1]) for n in range(5)]

    def train():
        state = jax.jit(lambda key: create_state(key, TINY, optimizer))(jax.random.key(0))
        step = functools.partial(steps.train_step, config=TINY, weights=losses.LossWeights(), optimizer=optimizer)
        step, found = jax.jit(step, compiler_options=target.compiler_options()), []
        for number in range(50):
            state, measured = step(state, batches[number % len(batches)])
            found.append(measured.loss)
        return np.array(found)

    ours = train()
    with target.compile_for("gpu"):
        of_cards = train()
    monkeypatch.setattr(normalization, "bias_norm_act", plain_bias_norm_act)
    with target.compile_for("gpu"):  # XLA's own convolutions, and no options
        plain = train()
    assert plain[-1] < 0.7 * plain[0]
    np.testing.assert_allclose(ours, plain, rtol=1e-4)
    np.testing.assert_allclose(of_cards, plain, rtol=1e-4)
    assert not np.array_equal(ours, plain)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    batch = random_batch(4)
    optimizer = make_optimizer(1e-3, 0.01)
    state = jax.jit(lambda key: create_state(key, TINY, optimizer))(jax.random.key(0))
    weights = losses.LossWeights(1.0, 0.05, 0.01)
    step = jax.jit(functools.partial(steps.train_step, config=TINY, weights=weights, optimizer=optimizer))
    after, found = step(state, batch)
    outputs = jax.jit(lambda params, x: reconstruct(TINY, params, x))(state.params, batch.image / 127.5 - 1)
    labels = jnp.asarray((batch.image[..., None, :] == palette.COLORS).all(-1))
    terms = [
        losses.mse_rgb(outputs.rgb, batch.image / 127.5 - 1).mean(),
        0.05 * losses.cross_entropy_segmentation(outputs.segmentation_logits, labels).mean(),
        0.01 * losses.cross_entropy_classification(outputs.room_scene_logits, batch.type).mean(),
    ]
    np.testing.assert_allclose(found[1:4], terms, rtol=1e-4)
    assert found.skipped == 0
    np.testing.assert_allclose(found.loss, sum(terms), rtol=1e-4)
    assert after.step == 1
    assert found.grad_norm > 0


def half_state(scale, good_steps=0):
    config = dataclasses.replace(TINY, compute_dtype="float16")
    optimizer = make_optimizer(1e-3, 0.01)
    state = jax.jit(lambda key: create_state(key, config, optimizer))(jax.random.key(0))
    step = jax.jit(
        functools.partial(steps.train_step, config=config, weights=losses.LossWeights(), optimizer=optimizer)
    )
    return state._replace(loss_scale=LossScale(jnp.float32(scale), jnp.int32(good_steps))), step


def test_float16_trains_as_float32_does():
    half, half_step = half_state(INITIAL_SCALE)
    optimizer = make_optimizer(1e-3, 0.01)
    whole = TrainState(half.step, half.params, optimizer.init(half.params))
    step = jax.jit(functools.partial(steps.train_step, config=TINY, weights=losses.LossWeights(), optimizer=optimizer))
    for _ in range(5):
        batch = random_batch(4)
        half, found = half_step(half, batch)
        whole, expected = step(whole, batch)
        assert found.skipped == 0
        np.testing.assert_allclose(found.loss, expected.loss, rtol=5e-3)
        np.testing.assert_allclose(found.grad_norm, expected.grad_norm, rtol=2e-2)
    assert half.loss_scale == (INITIAL_SCALE, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype(np.float32)}


def test_an_overflow_changes_nothing_but_the_scale():
    before, step = half_state(2.0**24)
    after, found = step(before, random_batch(4))
    assert found.skipped == 1
    assert after.step == before.step + 1
    for a, b in zip(*(jax.tree.leaves((state.params, state.opt_state)) for state in (before, after)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert after.loss_scale == (2.0**23, 0)
    while found.skipped:
        after, found = step(after, random_batch(4))
    assert np.isfinite(found.grad_norm)


def test_the_scale_doubles_after_many_good_steps():
    before, step = half_state(1024.0, GROWTH_INTERVAL - 1)
    after, _ = step(before, random_batch(4))
    assert after.loss_scale == (2048.0, 0)


def test_adamw_decays_every_parameter_as_pytorch_does():
    # One step: the update is -lr * (sign of the gradient, as mhat / sqrt(vhat) is 1) - lr * decay * parameter.
    optimizer = make_optimizer(0.1, 0.5)
    params = {"kernel": jnp.array([2.0, -3.0]), "bias": jnp.array([1.0])}
    updates, _ = optimizer.update(
        {"kernel": jnp.array([0.3, -0.2]), "bias": jnp.array([5.0])}, optimizer.init(params), params
    )
    np.testing.assert_allclose(updates["kernel"], [-0.1 - 0.1, 0.1 + 0.15], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [-0.1 - 0.05], rtol=1e-5)


def test_evaluation_equals_the_mean_over_single_images(tiny_params):
    images = [random_layout(16, seed) for seed in range(7)]
    types = np.arange(7) % 2
    for image in images[:3]:
        image[:2] = 7  # some pixels without a label
    step = jax.jit(functools.partial(steps.eval_step, config=TINY))

    def batches(size):
        for start in range(0, 7, size):
            picked = list(range(start, min(start + size, 7)))
            padded = picked + [0] * (size - len(picked))
            mask = np.arange(size) < len(picked)
            yield make_batch([images[i] for i in padded], types[padded], mask)

    single = evaluate.evaluate(step, tiny_params, batches(1))
    for size in (2, 4, 7, 16):
        found = evaluate.evaluate(step, tiny_params, batches(size))
        np.testing.assert_allclose(jax.tree.leaves(found.losses), jax.tree.leaves(single.losses), rtol=1e-6)
        np.testing.assert_array_equal(found.confusion, single.confusion)
        assert found.room_scene_accuracy == single.room_scene_accuracy
    assert single.confusion.sum() == 7 * 256 - 3 * 32
    columns = single.columns()
    assert columns["val_PSNR"] == pytest.approx(metrics.psnr(single.losses.mse_rgb))
    assert len([name for name in columns if name.startswith("val_IoU_")]) == 10
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate.evaluate(step, tiny_params, [])


def test_compiled_steps_train_and_refuse_another_shape():
    optimizer = make_optimizer(1e-3, 0.01)
    create = functools.partial(create_state, config=TINY, optimizer=optimizer)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    by_batch = batch_sharding(mesh)
    compiled = compile_steps(TINY, losses.LossWeights(), optimizer, create, (4, 16), mesh)
    state = compiled.create(jax.random.key(0))
    batch = jax.device_put(random_batch(4), by_batch)
    first = state.params
    seen = []
    for _ in range(3):
        state, found = compiled.train(state, batch)
        seen.append(float(found.loss))
    assert seen == sorted(seen, reverse=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first)), "the state is donated"
    assert compiled.train_memory_mib > 0
    with pytest.raises(TypeError):
        compiled.train(state, jax.device_put(random_batch(2), by_batch))


def test_pictures_show_the_true_and_the_predicted_side_by_side():
    left, right = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 9, np.uint8)
    grid = np.asarray(pictures.side_by_side(left, right, ("a", "b"), ["title"]))
    assert grid.shape == (28 + 8 + 4 + 8, 8 + 4 + 8, 3)
    assert (grid[28:36, :8] == 0).all()
    assert (grid[28:36, 12:] == 9).all()
    image = random_layout(8)[None]
    image[0, 0, 0] = 7
    truth = pictures.true_classes_in_color(image)
    assert truth[0, 0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(truth[0, 1:], image[0, 1:])
    np.testing.assert_array_equal(pictures.color_classes(np.array([[[0, 9]]])), [[[[228, 26, 28], [240, 240, 240]]]])
    assert pictures.spread_indices(100, 3) == [0, 50, 99]
    assert pictures.spread_indices(2, 8) == [0, 1]


@pytest.mark.slow
def test_one_batch_can_be_learnt_by_heart():
    """Every loss falls towards its floor: nothing in the loss, the labels or the model holds it up."""
    layouts = [layout for index in range(3) for layout in synthetic.generate_scene(42, index, 128)][:8]
    batch = make_batch([layout.image for layout in layouts], [layout.type == "scene" for layout in layouts])
    config = AutoencoderConfig(latent_channels=16, base_channels=32, downsampling_steps=3)
    optimizer = make_optimizer(1e-3, 0.01)  # with 2e-3 the losses leap; when, depends on the CPU
    state = jax.jit(lambda key: create_state(key, config, optimizer))(jax.random.key(42))
    step = jax.jit(
        functools.partial(steps.train_step, config=config, weights=losses.LossWeights(), optimizer=optimizer),
        donate_argnums=0,
    )
    for _ in range(800):
        state, _ = step(state, batch)
    found = evaluate.evaluate(jax.jit(functools.partial(steps.eval_step, config=config)), state.params, [batch])
    assert found.losses.ce_segmentation < 0.05
    assert metrics.pixel_accuracy(found.confusion) > 0.98
    assert found.losses.mse_rgb < 0.005
    assert found.losses.ce_classification < 0.05
