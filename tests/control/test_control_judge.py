"""What is counted: planted samplers, floors, ceilings, coarser grids and noise."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from imginav_jax.control import demands, noise
from imginav_jax.control.equal_compute import equal_flops_steps
from imginav_jax.control.judge import other_scene, snap
from imginav_jax.report.decision.bootstrap import Resampling
from imginav_jax.report.decision.metrics import DEMAND_METRICS
from imginav_jax.report.measurement import measure
from imginav_jax.report.measurement.subjects import RGB


def estimate(planted, counts):
    chosen = {name: metric.compute for name, metric in DEMAND_METRICS.items()}
    resampling = Resampling(planted.scenes, 500, 0)
    return resampling.estimate([counts], chosen, resampling.draw_seeds(1))


def test_a_perfect_sampler_scores_the_ceiling(planted):
    ceiling = planted.judge.count(snap(planted.latents.reconstruct(planted.images)))
    drawn = planted.judge(planted.latents.encode(planted.images))
    for name, each in estimate(planted, ceiling).items():
        assert estimate(planted, drawn)[name].value == pytest.approx(each.value, rel=1e-6, nan_ok=True)


def test_a_blind_sampler_scores_the_floor(planted):
    """Layouts of the training split, whatever is demanded, and the right ones against another's demands."""
    blind = planted.judge(planted.latents.training[: len(planted.images)].astype(np.float64))
    perfect = snap(planted.latents.reconstruct(planted.images))
    shuffled = planted.judge.count(perfect, other_scene(planted.scenes))
    floor, chance = (estimate(planted, each)["wall_f_2"] for each in (blind, shuffled))
    ceiling = estimate(planted, planted.judge.count(perfect))["wall_f_2"]
    low, high = floor.minus(chance).interval(0.95)
    assert low <= 0 <= high
    assert ceiling.minus(chance).interval(0.95)[0] > 0.2


def test_another_scene_is_another():
    assert other_scene(["a", "a", "b", "c"]) == [2, 3, 0, 1]
    assert other_scene(["b", "a", "c", "a"]) == [1, 0, 3, 2]
    assert other_scene(["a", "a"]) == [0, 1]  # there is none


@hypothesis.given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40))
def test_every_layout_is_demanded_once_more(scenes):
    order = other_scene(scenes)
    assert sorted(order) == list(range(len(scenes)))
    if 2 * max(map(scenes.count, scenes)) <= len(scenes):
        assert all(scenes[mine] != scenes[index] for index, mine in enumerate(order))


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (2, 2)])
def test_no_grid_loses_any_of_the_walls(planted, grid):
    cells = planted.held_out.cells(grid)
    bits = np.unpackbits(cells, axis=-1)
    masks = np.unpackbits(planted.held_out.masks, axis=-1)
    assert bits.sum() == masks.sum()
    # The upper left cell's pixels, as they lie in the layout.
    side = masks.shape[2] // grid[0]
    first = bits[:, 0, 0].reshape(-1, side, side, 2)
    assert (first == masks[:, :, :side, :side].transpose(0, 2, 3, 1)).all()
    assert demands.shape_of("both", grid, masks.shape[2], 8) == (bits.shape[-1], 8)


def test_a_coarser_grid_holds_the_same_latent(planted):
    wide = planted.latents.unshuffled(2)
    assert wide.shape == (2, 2, 4 * planted.latents.shape[2])
    assert wide.training.size == planted.latents.training.size
    both = [each.decode(each.validation.astype(np.float64)) for each in (planted.latents, wide)]
    assert (both[0] == both[1]).all()
    both = [each.decode(each.encode(planted.images)) for each in (planted.latents, wide)]
    assert (both[0] == both[1]).all()


def test_equal_flops_are_more_steps_of_a_cheaper_model():
    flops = {"R1": (8.0, 10.0), "R2": (2.0, 3.0)}
    assert equal_flops_steps(flops, "R1", (100, 60)) == (100, 60)
    assert equal_flops_steps(flops, "R2", (100, 60)) == (400, 200)


def test_without_noise_it_is_what_the_report_measures(planted, tmp_path):
    points = noise.measure(planted.latents, planted.images, "data", tmp_path)
    subject = noise._subject(planted.latents, 0.0, len(planted.images))
    plain = dataclasses.replace(
        subject, key={"other": 1}, open=lambda: lambda images: {RGB: planted.latents.reconstruct(images)}
    )
    expected = measure.measure([plain], noise.HeldOutImages(planted.images), "data", tmp_path)[plain.name][RGB]
    assert [point.sigma for point in points] == [0.0, *noise.SIGMAS]
    for name, values in expected.items():
        np.testing.assert_allclose(points[0].counts[name], values, rtol=1e-5, atol=1e-7)
    accuracy = [np.trace(point.counts["confusion"].sum(0)) for point in points[::4]]
    assert accuracy == sorted(accuracy, reverse=True)
    assert [point.bits for point in points] == sorted((point.bits for point in points), reverse=True)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_noise_through_a_linear_decoder_has_a_closed_form(planted, sigma):
    """Orthonormal components: a pixel's expected squared error is that of a block's channels over its values."""
    codec, latents = planted.latents.autoencoder, planted.latents
    random = np.random.default_rng(0)
    clean = latents.encode(planted.images)
    errors = []
    for _ in range(40):
        own = noise.disturb(clean, sigma, random) * latents.scale + latents.mean
        errors.append(np.square(codec.decode_exactly(own) - planted.images).mean())
    without = np.square(codec.decode_exactly(clean * latents.scale + latents.mean) - planted.images).mean()
    values_of_a_block = codec.basis.shape[1]
    expected = without + sigma**2 * np.square(latents.scale).sum() / values_of_a_block
    assert np.mean(errors) == pytest.approx(expected, rel=0.02)


def test_the_capacity_of_independent_channels_by_hand():
    covariance = noise.channel_covariance(np.array([[[[1.0, 2.0], [-1.0, -2.0]]]]))
    np.testing.assert_allclose(covariance, [[1, 2], [2, 4]])
    # 16 cells; channels of variance 1 and 3 with noise of variance 1: 8 (log2 2 + log2 4).
    assert noise.capacity_bits(np.diag([1.0, 3.0]), 16, 1.0) == pytest.approx(24)
    assert noise.capacity_bits(np.diag([1.0, 3.0]), 16, 0) == np.inf
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = rotation @ np.diag([1.0, 3.0]) @ rotation.T
    assert noise.capacity_bits(turned, 16, 0.5) == pytest.approx(noise.capacity_bits(np.diag([1.0, 3.0]), 16, 0.5))
