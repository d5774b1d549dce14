"""Statistics of latents against NumPy's and SciPy's in float64, whatever the batches they came in."""

import json

import numpy as np
import pytest
import scipy.stats

from helpers import statistics_of
from imginav_jax.models.latent_statistics import LatentStatistics


def make_latents(shape=(7, 6, 8, 5), seed=0):
    """Correlated, skewed, far from zero mean; float32."""
    random = np.random.default_rng(seed)
    raw = random.gamma(2.0, size=shape) + random.normal(size=(shape[0], 1, 1, shape[3]))
    mixed = raw @ random.normal(size=(shape[3], shape[3]))
    return (mixed * 10.0 ** np.linspace(-3, 2, shape[3]) + np.linspace(-50, 1000, shape[3])).astype(np.float32)


def neighbour_correlation(first, second):
    pairs = zip(np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0), strict=True)
    return [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]


@pytest.mark.parametrize("sizes", [None, [1] * 7, [3, 4], [6, 1]])
def test_they_are_those_of_float64_in_any_batches(sizes):
    latents = make_latents()
    found, x = statistics_of(latents, sizes), latents.astype(np.float64)
    cells = x.reshape(-1, x.shape[-1])
    expected = {
        "mean": cells.mean(0),
        "std": cells.std(0),
        "min": cells.min(0),
        "max": cells.max(0),
        "kurtosis": scipy.stats.kurtosis(cells, fisher=False),
        "correlation": np.corrcoef(cells.T),
        "autocorrelation_vertical": neighbour_correlation(x[:, :-1], x[:, 1:]),
        "autocorrelation_horizontal": neighbour_correlation(x[:, :, :-1], x[:, :, 1:]),
        "scale_factor": 1 / cells.std(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, err_msg=name)
    assert found.cells == 7 * 6 * 8
    normalised = (cells - found.mean) / found.scale
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(normalised.std(0), 1, atol=1e-9)


def test_a_small_deviation_from_a_large_mean_keeps_its_digits():
    latents = np.random.default_rng(0).normal(4096, 1e-2, (5, 8, 8, 2)).astype(np.float32)
    cells = latents.astype(np.float64).reshape(-1, 2)
    found = statistics_of(latents, [2, 3])
    np.testing.assert_allclose(found.std, cells.std(0), rtol=1e-6)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(cells, fisher=False), rtol=1e-6)


def test_high_frequency_share_of_waves():
    x = np.arange(16)
    slow, fast = np.cos(2 * np.pi * x / 8), np.cos(np.pi * x)  # energies a cell: 1/2 and 1
    rows = np.stack([slow, fast, 3 * slow + 2 * fast + 7, np.ones(16)], -1)
    latents = np.broadcast_to(rows, (2, 16, 16, 4)).astype(np.float32)
    found = statistics_of(latents)
    np.testing.assert_allclose(found.high_frequency_share, [0, 1, 4 / (9 / 2 + 4), np.nan], atol=1e-6)
    np.testing.assert_allclose(found.autocorrelation_vertical[:3], 1)
    assert found.autocorrelation_horizontal[1] == pytest.approx(-1)
    turned = statistics_of(np.swapaxes(latents, 1, 2))
    np.testing.assert_allclose(turned.autocorrelation_vertical, found.autocorrelation_horizontal)


def test_planted_dead_and_equal_channels_are_found():
    latents = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype(np.float32)
    latents[..., 1] *= 0.005  # half a per cent of the median
    latents[..., 3] = 2.5
    latents[..., 5] = 4 - 2 * latents[..., 0]
    found = statistics_of(latents, [1, 3])
    assert found.dead_channels == ["channel 1", "channel 3"]
    assert found.equal_channels == [("channel 0", "channel 5")]
    assert found.scale[3] == 1
    text = json.dumps(found.dump(), allow_nan=False)
    stored = json.loads(text)
    assert stored["kurtosis"][3] is stored["correlation"][3][3] is None
    assert stored["normalization"] == {"shift": found.mean.tolist(), "scale": found.scale.tolist()}
    again = LatentStatistics.load(stored)
    assert again.origin == {"digest": "a"}
    for name in ("mean", "std", "kurtosis", "correlation", "high_frequency_share"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_a_latent_of_one_row_has_no_vertical_neighbours():
    found = statistics_of(make_latents((3, 1, 8, 2)), [1, 2])
    assert np.isnan(found.autocorrelation_vertical).all()
    assert np.isfinite(found.autocorrelation_horizontal).all()
    assert np.isfinite(found.std).all()
