"""The model is the original's: the same numbers as PyTorch, forwards, backwards and while it trains."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helpers import random_layout
from imginav_jax.benchmark.pytorch import worker
from imginav_jax.benchmark.pytorch.job import Job
from imginav_jax.datasets import palette
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import inference, losses, network
from imginav_jax.models.architecture import ACTIVATIONS, AutoencoderConfig
from imginav_jax.models.posterior import sample
from imginav_jax.pytorch import architecture, tensors
from imginav_jax.pytorch.twin import HEADS, LOSS_WEIGHTS, Twin, compute_loss, to_torch
from imginav_jax.pytorch.twin import make_optimizer as make_torch_optimizer
from imginav_jax.training import steps
from imginav_jax.training.state import TrainState, make_optimizer

EXPERIMENTS = [pytest.param(3, id="R1"), pytest.param(4, id="R2"), pytest.param(5, id="R3")]


def make_twin(*arguments, **keywords):
    torch.manual_seed(0)
    return Twin(*arguments, **keywords)


def tensors_of(module):
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def ours_of(twin):
    config = dataclasses.replace(architecture.parse_config(twin.config), shortcuts=twin.shortcuts)
    return config, jax.device_put(tensors.to_params(config, tensors_of(twin)))


def batch_of(seed, size, count=2):
    images = np.stack([random_layout(size, seed * count + row) for row in range(count)])
    types = np.arange(count, dtype=np.int32) % 2
    return Batch(images, types, np.arange(count, dtype=np.int32))


def twin_loss(twin, batch, noise=None, kl=0.0):
    classes = torch.from_numpy((batch.image[..., None, :] == palette.COLORS).all(-1).argmax(-1))
    images = to_torch(batch.image)
    if noise is not None:
        noise = torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2)
    types = torch.from_numpy(batch.type).long()
    return compute_loss(twin(images, noise), images, classes, types, (*LOSS_WEIGHTS[:-1], kl))


def channels_last(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def assert_same_outputs(twin, images):
    config, params = ours_of(twin)
    latents = jax.jit(lambda params, x: network.encode(config, params, x))(params, inference.scale_images(images))
    with torch.no_grad():
        expected_latents = twin.encoder(to_torch(images))
        expected = twin(to_torch(images))
    np.testing.assert_allclose(latents, channels_last(expected_latents), rtol=0, atol=1e-4)
    found = jax.jit(lambda params, z: network.decode(config, params, z))(params, latents)
    for name, value in zip(("rgb", "segmentation", "classification"), found, strict=True):
        if value is None:
            assert name not in expected
        else:
            there = expected[name] if value.ndim == 2 else channels_last(expected[name])
            np.testing.assert_allclose(value, there, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("downsampling_steps", "change"),
    [
        pytest.param(3, {}, id="R1"),
        pytest.param(4, {}, id="R2", marks=pytest.mark.slow),
        pytest.param(5, {}, id="R3"),
        pytest.param(3, {"shortcuts": True}, id="R1-shortcuts"),
        pytest.param(4, {"shortcuts": True}, id="R2-shortcuts", marks=pytest.mark.slow),
        pytest.param(5, {"shortcuts": True}, id="R3-shortcuts", marks=pytest.mark.slow),
        pytest.param(3, {"variational": True}, id="R1-variational"),
        pytest.param(3, {"variational": True, "shortcuts": True}, id="R1-variational-shortcuts"),
    ],
)
def test_outputs_loss_and_every_gradient_agree(downsampling_steps, change):
    twin, batch = make_twin(steps=downsampling_steps, **change), batch_of(1, 64)
    noise = np.random.default_rng(0).integers(0, 256, batch.image.shape, np.uint8)
    assert_same_outputs(twin, noise)
    config, params = ours_of(twin)

    kl = 1.0 if config.variational else 0.0  # so that it counts
    epsilon = steps.draw_noise(config, batch.image.shape, 0, jnp.int32(0)) if config.variational else None

    @jax.jit
    def loss_and_gradients(params, batch):
        def loss_fn(params):
            posterior = network.posterior(config, params, inference.scale_images(batch.image))
            outputs = network.decode(config, params, sample(posterior, epsilon))
            terms = jax.tree.map(jnp.mean, steps.compute_losses(outputs, posterior, batch))
            return losses.sum_losses(losses.weigh_losses(terms, losses.LossWeights(kl=kl)))

        return jax.value_and_grad(loss_fn)(params)

    loss, gradients = loss_and_gradients(params, batch)
    expected = twin_loss(twin, batch, epsilon, kl)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    found = tensors.from_params(config, gradients)
    for name, parameter in twin.named_parameters():
        there = parameter.grad.numpy()
        assert np.linalg.norm(found[name] - there) <= 1e-3 * np.linalg.norm(there), name


def test_the_rivals_evaluation_finds_what_ours_does():
    twin, batch = make_twin(base=16), batch_of(1, 32, count=3)
    config, params = ours_of(twin)
    ours = jax.jit(functools.partial(steps.eval_step, config=config))(params, batch)
    job = Job("cpu", "float32", True, 16, 16, 3, 1e-4, 0.01, tuple(losses.LossWeights()))
    works, _, first = worker.make_works(job, {**tensors_of(twin), "images": batch.image, "types": batch.type})
    loss, confusion, correct = works["eval"]()
    terms = losses.weigh_losses(jax.tree.map(jnp.mean, ours.losses), losses.LossWeights())
    assert first == float(loss) == pytest.approx(float(losses.sum_losses(terms)), rel=1e-5)
    moved = np.abs(confusion.numpy().reshape(10, 10) - np.asarray(ours.confusion)).sum() / 2  # by rounding
    assert confusion.sum() == np.asarray(ours.confusion).sum() == batch.image[..., 0].size
    assert moved <= 1e-3 * batch.image[..., 0].size
    assert correct.tolist() == np.asarray(ours.room_scene_correct).tolist()


@pytest.mark.parametrize(
    ("downsampling_steps", "variational"),
    [
        pytest.param(3, False, id="R1"),
        pytest.param(4, False, id="R2", marks=pytest.mark.slow),
        pytest.param(5, False, id="R3", marks=pytest.mark.slow),
        pytest.param(3, True, id="R1-variational"),
    ],
)
def test_ten_steps_of_adamw_keep_the_loss_curves_together(downsampling_steps, variational):
    twin, kl = make_twin(steps=downsampling_steps, variational=variational), 1e-4 if variational else 0.0
    config, params = ours_of(twin)
    there, ours = make_torch_optimizer(twin), make_optimizer(1e-4, 0.01)
    step = jax.jit(
        functools.partial(steps.train_step, config=config, weights=losses.LossWeights(kl=kl), optimizer=ours, seed=5),
        donate_argnums=0,
    )
    state = TrainState(jnp.zeros((), jnp.int32), params, ours.init(params))
    curves = []
    for number in range(10):
        batch = batch_of(number, 64)
        state, metrics = step(state, batch)
        noise = steps.draw_noise(config, batch.image.shape, 5, jnp.int32(number)) if variational else None
        loss = twin_loss(twin, batch, noise, kl)
        there.zero_grad()
        loss.backward()
        there.step()
        curves.append((float(metrics.loss), loss.item()))
    found, expected = np.array(curves).T
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param({"latent": 3, "base": 16, "steps": 1}, id="one step"),
        pytest.param({"latent": 1, "base": 4, "steps": 7, "groups": 2}, id="seven steps, narrow"),
        pytest.param({"latent": 5, "base": 48, "steps": 2, "groups": 4}, id="other widths"),
        pytest.param(
            {"latent": 5, "base": 48, "steps": 2, "groups": 4, "shortcuts": True}, id="other widths, shortcuts"
        ),
        pytest.param({"latent": 5, "base": 48, "steps": 2, "groups": 4, "variational": True}, id="variational"),
        pytest.param({"latent": 4, "base": 16, "steps": 2, "heads": HEADS[:1]}, id="RGB alone"),
        pytest.param({"latent": 4, "base": 16, "steps": 2, "heads": HEADS[:0:-1]}, id="no RGB"),
        pytest.param({"latent": 4, "base": 16, "steps": 2, "heads": HEADS[::-1]}, id="heads in another order"),
        pytest.param({"latent": 4, "base": 16, "steps": 2, "heads": (("segmentation", 7),)}, id="seven classes"),
        *(
            pytest.param({"latent": 2, "base": 16, "steps": 1, "activation": name}, id=name)
            for name in sorted(ACTIVATIONS)
        ),
    ],
)
def test_other_architectures_agree_too(twin):
    size = max(16, 2 ** twin["steps"])
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    assert_same_outputs(make_twin(**twin), noise)


@pytest.mark.parametrize("downsampling_steps", EXPERIMENTS)
def test_fresh_weights_are_distributed_as_pytorchs(downsampling_steps):
    config = AutoencoderConfig(16, 32, downsampling_steps)
    ours = tensors.from_params(config, jax.jit(functools.partial(network.init, config))(jax.random.key(1)))
    theirs = tensors_of(make_twin(steps=downsampling_steps))
    assert list(ours) == list(theirs)
    for name, there in theirs.items():
        here = ours[name]
        assert here.shape == there.shape, name
        if there.std() == 0:  # a norm's scale or bias
            np.testing.assert_array_equal(here, there, err_msg=name)
            continue
        # Both are samples of one uniform distribution: its bound is sqrt(3) standard deviations.
        weight = theirs[name.removesuffix("bias").removesuffix("weight") + "weight"]
        fan_in = np.prod(weight.shape[1:])
        bound, noise = fan_in**-0.5, (here.size / 2) ** -0.5
        assert max(np.abs(here).max(), np.abs(there).max()) <= bound * (1 + 1e-6), name
        assert abs(here.mean() - there.mean()) < 5 * noise * bound / 3**0.5, name
        assert abs(here.std() - there.std()) < 4 * noise * bound / 3**0.5, name
        if here.size > 1000:
            assert np.abs(here).max() > 0.99 * bound, name
            assert here.std() == pytest.approx(bound / 3**0.5, rel=0.05), name
