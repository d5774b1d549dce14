"""Yardsticks without training and the linear probe, by hand."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from imginav_jax.datasets import palette
from imginav_jax.report.measurement import baselines, probe
from imginav_jax.report.measurement.probe import Settings

BED, SOFA, WALL, BACKGROUND = (palette.CLASS_NAMES.index(name) for name in ("bed", "sofa", "wall", "background"))


def picture(classes):
    return palette.COLORS[np.asarray(classes)][None]


def test_each_cell_takes_the_colour_of_most_of_its_pixels():
    image = picture([[BED, BED, WALL, SOFA], [SOFA, BED, SOFA, WALL]])
    found = baselines.majority_color(image, 2)
    np.testing.assert_array_equal(found, picture([[BED, BED, SOFA, SOFA], [BED, BED, SOFA, SOFA]]))
    off = image.copy()
    off[0, 0, 0] += np.array([3, 0, 0], np.uint8)  # nearest is bed still
    np.testing.assert_array_equal(baselines.majority_color(off, 2), found)


def test_area_means_are_repeated_or_interpolated():
    image = np.zeros((1, 2, 4, 3), np.uint8)
    image[0, :, 2:] = 100
    image[0, 0, 0] = 40
    np.testing.assert_array_equal(baselines.area_nearest(image, 2)[0, :, :, 0], [[10, 10, 100, 100]] * 2)
    # Centres of the cells lie at 0.5 and 2.5: between them linear, beyond them flat.
    np.testing.assert_array_equal(baselines.area_bilinear(image, 2)[0, 0, :, 0], [10, 32, 78, 100])


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_cells_of_one_colour_come_through_unchanged(factor):
    classes = np.kron(np.random.default_rng(0).integers(0, 10, (4, 4)), np.ones((4, 4), int))
    for method in (baselines.majority_color, baselines.area_nearest):
        np.testing.assert_array_equal(method(picture(classes), factor), picture(classes))


def test_unshuffling_puts_the_cells_of_a_square_into_one():
    latents = np.arange(16.0).reshape(1, 4, 4, 1)
    found = baselines.unshuffle(latents, 2)
    np.testing.assert_array_equal(found[0], [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]])
    np.testing.assert_array_equal(baselines.shuffle(found, 2), latents)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_shuffling_is_the_inverse(b, cells, channels, factor):
    latents = np.random.default_rng(0).normal(size=(b, cells * factor, cells * factor, channels))
    wide = baselines.unshuffle(latents, factor)
    assert wide.shape == (b, cells, cells, channels * factor**2)
    np.testing.assert_array_equal(baselines.shuffle(wide, factor), latents)


def test_the_projection_keeps_what_principal_components_keep():
    rng = np.random.default_rng(1)
    latents = (rng.normal(size=(5, 4, 4, 3)) * [5, 1, 0.1] + 7).astype(np.float32)
    cells = baselines.unshuffle(latents, 2).reshape(-1, 12)
    _, values, vectors = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
    for channels in (4, 12):
        projection = baselines.Projection.fit(latents, 2, channels)
        assert projection.project(latents).shape == (5, 2, 2, channels)
        restored = projection.restore(projection.project(latents))
        kept = (cells - cells.mean(0)) @ vectors[:channels].T @ vectors[:channels] + cells.mean(0)
        np.testing.assert_allclose(restored, baselines.shuffle(kept.reshape(5, 2, 2, 12), 2), atol=1e-4)
        error = np.square(restored - latents).sum()
        assert error == pytest.approx(np.square(values[channels:]).sum(), rel=1e-3, abs=1e-6)


def test_a_cell_has_the_labels_of_the_pixels_it_covers():
    cells, labels = probe.to_cells(np.arange(4.0).reshape(1, 2, 2, 1), np.arange(16, dtype=np.uint8).reshape(1, 4, 4))
    np.testing.assert_array_equal(cells[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(labels, [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])


def test_the_probe_reads_what_a_cell_says_in_place():
    """Two classes side by side in a cell of 2x2 pixels, told by the sign of a channel."""
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (12, 3, 3))
    labels = np.where(np.kron(signs, [[1, -1], [1, -1]]) > 0, SOFA, WALL).astype(np.uint8)
    latents = np.stack([signs, np.zeros_like(signs)], -1).astype(np.float32)  # a dead channel does no harm
    fitted = probe.fit(latents, labels, Settings(steps=200, batch_pixels=216, penalty=1e-4, learning_rate=0.1, seed=0))
    assert fitted.factor == 2
    np.testing.assert_array_equal(probe.predict(fitted, latents), labels)


def test_a_latent_that_says_nothing_gives_the_most_frequent_class():
    rng = np.random.default_rng(3)
    latents = np.ones((20, 2, 2, 3), np.float32)
    labels = np.where(rng.random((20, 4, 4)) < 0.8, BACKGROUND, BED).astype(np.uint8)
    fitted = probe.fit(latents, labels, Settings(200, 320, 1e-3, 0.1, 0))
    assert (np.asarray(probe.predict(fitted, latents)) == BACKGROUND).all()


def test_the_probe_comes_to_the_optimum_that_scipy_finds():
    """Four pixels a cell, so that the penalty counts a quarter of their weights each."""
    rng = np.random.default_rng(4)
    latents = rng.normal(size=(30, 2, 2, 2)) @ np.array([[3.0, 2.9], [0.0, 0.4]]) + 2  # almost equal channels
    noisy = np.kron(latents.sum(-1), np.ones((2, 2))) + 4 * rng.normal(size=(30, 4, 4))
    labels = np.where(noisy > 4, SOFA, np.where(noisy > 0, WALL, BED)).astype(np.uint8)
    labels[0] = 255  # is passed over
    penalty = 0.05
    settings = Settings(steps=2000, batch_pixels=4000, penalty=penalty, learning_rate=0.1, seed=0)
    fitted = probe.fit(latents.astype(np.float32), labels, settings)

    cells = latents.reshape(-1, 2)
    values, vectors = np.linalg.eigh(np.cov(cells.T, bias=True))
    whitened = ((cells - cells.mean(0)) @ vectors / np.sqrt(values))[4:]
    classes = labels[1:].reshape(29, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)

    def loss(weights):
        kernel, bias = weights[:80].reshape(2, 4, 10), weights[80:].reshape(4, 10)
        logits = np.einsum("nc,cpk->npk", whitened, kernel) + bias
        picked = np.take_along_axis(logits, classes[..., None].astype(int), -1)[..., 0]
        return (np.log(np.exp(logits).sum(-1)) - picked).mean() + penalty / 2 * np.square(kernel).sum() / 4

    best = optimize.minimize(loss, np.zeros(120), method="L-BFGS-B", options={"maxiter": 500, "maxfun": 10**6}).fun
    every_cell = probe.to_cells(latents.astype(np.float32), labels)
    found = float(probe.objective(fitted, *every_cell, penalty))
    assert found == pytest.approx(best, abs=2e-3)
    assert found > float(probe.cross_entropy(fitted, *every_cell))


def test_the_same_seed_gives_the_same_probe():
    rng = np.random.default_rng(5)
    latents, labels = rng.normal(size=(8, 2, 2, 3)).astype(np.float32), rng.integers(0, 10, (8, 4, 4), dtype=np.uint8)
    first, second = (probe.fit(latents, labels, Settings(5, 64, 1e-3, 0.1, 7)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
