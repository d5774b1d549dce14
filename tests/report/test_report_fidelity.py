"""Metrics of pictures, and the table of all: by hand, against independent implementations, orderings that must hold."""

import math

import jax
import numpy as np
import pytest
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from imginav_jax.datasets import palette
from imginav_jax.models import inference, metrics
from imginav_jax.report.decision.metrics import METRICS, definition
from imginav_jax.report.measurement import fidelity, structure

HEIGHT, WIDTH = 40, 48
COUNT, SNAP = jax.jit(fidelity.count), jax.jit(fidelity.snap)
BAND_ENERGIES = jax.jit(fidelity.band_energies, static_argnames="with_mean")


def layouts(seed, number=2, shape=(HEIGHT, WIDTH)):
    """Palette colours in 8x8 blocks, all classes, with one pixel off the palette."""
    rng = np.random.default_rng(seed)
    blocks = rng.permuted(np.arange(number * shape[0] * shape[1] // 64) % 10).reshape(
        number, shape[0] // 8, shape[1] // 8
    )
    images = palette.COLORS[np.kron(blocks, np.ones((1, 8, 8), int))]
    images[:, 3, 5] = (1, 2, 3)
    return images


def degrade(images, seed=0, sigma=0.7, noise=6.0):
    blurred = ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0))
    blurred += np.random.default_rng(seed).normal(0, noise, images.shape)
    return blurred.round().clip(0, 255).astype(np.uint8)


def count(true, predicted):
    return {name: np.asarray(value, np.float64) for name, value in COUNT(true, predicted).items()}


def count_all(true, predicted):
    """Of both sides, an image a row."""
    each = [
        structure.count(structure.prepare(*structure.class_map(image)), np.asarray(classes))
        for image, classes in zip(true, SNAP(predicted), strict=True)
    ]
    return {**count(true, predicted), **{name: np.stack([counts[name] for counts in each]) for name in each[0]}}


def total(counts):
    return {name: value.sum(0) for name, value in counts.items()}


def scaled(images):
    return images.astype(np.float64) / 127.5 - 1


def test_squared_errors_in_float64():
    true = layouts(0)
    predicted = degrade(true)
    counts = count(true, predicted)
    squared = (scaled(predicted) - scaled(true)) ** 2
    np.testing.assert_allclose(counts["squared_error"], squared.mean((1, 2, 3)), rtol=1e-5)
    classes = palette.one_hot(true)
    np.testing.assert_array_equal(counts["class_pixels"], classes.sum((1, 2)))
    assert counts["class_pixels"].sum() == true[..., 0].size - 2
    expected = np.einsum("bhwc,bhw->bc", classes, squared.mean(-1))
    np.testing.assert_allclose(counts["class_squared_error"], expected, rtol=1e-5)
    summed = total(counts)
    assert fidelity.mse(summed) == pytest.approx(squared.mean(), rel=1e-5)  # pictures of one size
    assert fidelity.psnr(summed) == pytest.approx(metrics.psnr(squared.mean()), rel=1e-5)
    for index in range(10):
        mse = squared[classes[..., index]].mean()
        assert fidelity.class_mse(summed)[index] == pytest.approx(mse, rel=1e-5)
        assert fidelity.class_psnr(summed)[index] == pytest.approx(metrics.psnr(mse), rel=1e-5)


def test_errors_by_hand():
    true = np.full((1, HEIGHT, WIDTH, 3), 240, np.uint8)
    true[0, 0, 0] = palette.COLORS[palette.CLASS_NAMES.index("wall")]
    predicted = true.copy()
    predicted[0, 0, 0, 1] += 51  # 0.4 on the scale
    counts = total(count(true, predicted))
    assert fidelity.mse(counts) == pytest.approx(0.16 / 3 / (HEIGHT * WIDTH), rel=1e-6)
    by_class = dict(zip(palette.CLASS_NAMES, fidelity.class_psnr(counts), strict=True))
    assert by_class["wall"] == pytest.approx(10 * math.log10(4 / (0.16 / 3)))
    assert by_class["background"] == math.inf
    assert np.isnan(by_class["bed"])
    assert fidelity.palette_fidelity(counts) == pytest.approx(1 - 1 / (HEIGHT * WIDTH))


def nearly_flat(rng):
    """Where float32 is worst: variances of 1 on squares of 60,000."""
    return rng.integers(244, 246, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)


SSIM_PAIRS = {
    "blurred and noisy": lambda rng: (layouts(1, 1), degrade(layouts(1, 1))),
    "faint": lambda rng: (layouts(2, 1), degrade(layouts(2, 1), noise=0.5, sigma=0.1)),
    "nearly flat": lambda rng: (nearly_flat(rng), nearly_flat(rng)),
    "flat": lambda rng: (np.full((1, HEIGHT, WIDTH, 3), 255, np.uint8), np.full((1, HEIGHT, WIDTH, 3), 250, np.uint8)),
    "noise": lambda rng: tuple(rng.integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), dtype=np.uint8)),
}


@pytest.mark.parametrize("kind", SSIM_PAIRS)
def test_ssim_is_that_of_scikit_image(kind):
    true, predicted = SSIM_PAIRS[kind](np.random.default_rng(0))
    mean, full = skimage.metrics.structural_similarity(
        true[0],
        predicted[0],
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
        data_range=255,
        full=True,
    )
    counts = count(true, predicted)
    assert counts["ssim"][0] == pytest.approx(mean, rel=1e-5)
    np.testing.assert_allclose(fidelity.structural_similarity(true, predicted)[0], full.mean(-1), atol=2e-6)
    expected = np.einsum("hwc,hw->c", palette.one_hot(true[0]), full.mean(-1))
    np.testing.assert_allclose(counts["class_ssim"][0], expected, rtol=1e-5)
    is_present = counts["class_pixels"][0] > 0
    np.testing.assert_array_equal(np.isnan(fidelity.class_ssim(total(counts))), ~is_present)


def band_loop(values, with_mean):
    """A frequency at a time, of the full transform."""
    height, width = values.shape[:2]
    spectrum = np.abs(np.fft.fft2(values, axes=(0, 1)) / (height * width)) ** 2
    energies = np.zeros(6)
    for row in range(height):
        for column in range(width):
            cycles = math.hypot(min(row, height - row), min(column, width - column))
            if with_mean or cycles > 0:
                energies[sum(cycles >= edge for edge in (8, 16, 32, 64, 128))] += spectrum[row, column].mean()
    return energies


@pytest.mark.parametrize("shape", [(40, 48), (41, 35), (16, 300)])
def test_bands_like_a_loop_over_frequencies(shape):
    values = np.random.default_rng(0).normal(0.3, 1, (1, *shape, 3)).astype(np.float32)
    with_mean = BAND_ENERGIES(values, with_mean=True)[0]
    np.testing.assert_allclose(with_mean, band_loop(values[0].astype(np.float64), True), rtol=1e-5)
    assert with_mean.sum() == pytest.approx(np.square(values, dtype=np.float64).mean(), rel=1e-5)
    without = BAND_ENERGIES(values, with_mean=False)[0]
    np.testing.assert_allclose(without, band_loop(values[0].astype(np.float64), False), rtol=1e-5)
    variance = values.astype(np.float64).var((1, 2)).mean()
    assert without.sum() == pytest.approx(variance, rel=1e-5)


def test_bands_of_pictures():
    true = layouts(3)
    predicted = degrade(true)
    counts = count(true, predicted)
    for index in range(2):
        errors = band_loop(scaled(predicted[index]) - scaled(true[index]), True)
        np.testing.assert_allclose(counts["band_error"][index], errors, rtol=1e-5)
        energies = band_loop(scaled(true[index]), False)
        np.testing.assert_allclose(counts["band_energy"][index], energies, rtol=1e-5)
    assert fidelity.band_error(total(counts)).sum() == pytest.approx(fidelity.mse(total(counts)), rel=1e-5)


def test_a_wave_is_in_its_band_and_all_lost_when_it_is_flattened():
    x = np.arange(128)
    wave = (128 + 64 * np.cos(2 * np.pi * 20 * x / 128)).round().astype(np.uint8)
    true = np.broadcast_to(wave[None, None, :, None], (1, 128, 128, 3))
    counts = total(count(true, np.full_like(true, 128)))
    errors = fidelity.band_error(counts)
    assert errors[2] == pytest.approx((64 / 127.5) ** 2 / 2, rel=5e-3)  # the wave is rounded
    assert np.delete(errors, 2).sum() < 1e-3 * errors[2]
    assert fidelity.band_error_share(counts)[2] == pytest.approx(1, rel=1e-5)
    assert np.isnan(fidelity.band_error_share(counts)[5])  # beyond the picture's 90.5 cycles
    assert fidelity.band_error(counts)[5] == 0


def test_a_flat_picture_has_no_energy_in_any_band():
    true = np.full((1, 37, 53, 3), 201, np.uint8)  # of a size whose FFT in float32 is not exact
    counts = total(count(true, degrade(true)))
    assert np.isnan(fidelity.band_error_share(counts)).all()
    assert fidelity.band_error(counts)[:3].min() > 0


def test_blur_loses_more_of_the_high_frequencies():
    true = layouts(4)
    shares = fidelity.band_error_share(total(count(true, degrade(true, sigma=1.0, noise=0))))
    low, middle, high = shares[:3]  # all that the picture holds
    assert low < middle < high < 1.1
    stronger = fidelity.band_error_share(total(count(true, degrade(true, sigma=2.0, noise=0))))
    assert (stronger[:3] > shares[:3]).all()


def test_more_noise_is_worse_in_every_metric_of_the_picture():
    true = layouts(5)
    faint, strong = (total(count(true, degrade(true, sigma=0.1, noise=noise))) for noise in (2, 20))
    assert fidelity.mse(faint) < fidelity.mse(strong)
    for compute in (fidelity.psnr, fidelity.ssim, fidelity.palette_fidelity):
        assert compute(faint) > compute(strong)
    assert (fidelity.class_ssim(faint) > fidelity.class_ssim(strong)).all()


def test_palette_fidelity_allows_two_in_every_channel_of_one_colour():
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0] = [
        [(228, 26, 28), (230, 24, 30), (231, 26, 28)],  # bed, 2 off in every channel, 3 off in one
        [(255, 125, 2), (200, 240, 200), (238, 242, 239)],  # a stool; half wall, half background; background
    ]
    expected = [[True, True, False], [True, False, True]]
    assert fidelity.near_palette(image)[0].tolist() == expected


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_snap_on_the_device_is_class_map_on_the_host(seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 8, 16, 3), dtype=np.uint8)
    near = palette.COLORS[rng.integers(0, 10, (2, 8, 8))].astype(int) + rng.integers(-20, 21, (2, 8, 8, 3))
    images[:, :, 8:] = near.clip(0, 255)
    images[0, 0, 0] = (220, 220, 220)  # as far from wall as from background
    snapped = SNAP(images)
    assert snapped.dtype == np.uint8
    np.testing.assert_array_equal(snapped, [structure.class_map(image)[1] for image in images])


def test_the_scale_is_that_of_the_losses():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(np.diff(inference.scale_images(pixels).ravel()), 1 / fidelity.UNITS, atol=1e-6)


def test_the_table_has_every_metric_once_with_its_definition():
    assert {*palette.CLASS_NAMES} == {name.removeprefix("iou_") for name in METRICS if name.startswith("iou_")}
    for prefix in ("psnr", "ssim"):
        assert {f"{prefix}_{name}" for name in palette.CLASS_NAMES} < METRICS.keys()
    for kind in ("band_error", "band_error_share"):
        for band in ("0_8", "8_16", "16_32", "32_64", "64_128", "128_up"):
            assert f"{kind}_{band}" in METRICS
    assert all(name == metric.name and metric.label for name, metric in METRICS.items())
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert definition(METRICS["psnr_bed"]) == fidelity.class_psnr.__doc__
    assert "Csurka" in definition(METRICS["boundary_f_2"])
    assert all(definition(metric)[-1] == "." for metric in METRICS.values())


def test_a_picture_against_itself_is_perfect_in_every_metric():
    true = layouts(6)
    counts = total(count_all(true, true))
    for name, metric in METRICS.items():
        value = metric.compute(counts)
        if name == "palette_fidelity":  # one pixel of each is off the palette
            assert value == pytest.approx(1 - 1 / (HEIGHT * WIDTH))
        elif name in ("band_error_share_32_64", "band_error_share_64_128", "band_error_share_128_up"):
            assert np.isnan(value) or value == 0, name  # 31.2 cycles are the most that the picture holds
        else:
            best = 0 if metric.is_better == "lower" else math.inf if metric.unit == "dB" else 1
            assert value == pytest.approx(best, abs=1e-6), name


def test_a_worse_picture_is_worse_in_every_metric_of_the_whole():
    true = layouts(7)
    mild, strong = (
        total(count_all(true, degrade(true, sigma=sigma, noise=noise))) for sigma, noise in ((0.5, 4), (2.0, 30))
    )
    names = ("mse", "psnr", "ssim", "palette_fidelity", "mean_iou", "pixel_accuracy", "boundary_f_1", "boundary_iou_2")
    for metric in map(METRICS.__getitem__, (*names, "wall_cldice", "iou_wall", "psnr_wall", "band_error_8_16")):
        sign = 1 if metric.is_better == "higher" else -1
        assert sign * metric.compute(mild) > sign * metric.compute(strong), metric.name


def test_metrics_take_leading_axes_and_only_the_counts_of_their_side():
    true = np.concatenate([layouts(8), np.full((2, HEIGHT, WIDTH, 3), 240, np.uint8)])
    predicted = np.concatenate([degrade(true[:1]), true[1:3], degrade(true[3:])])
    counts = count_all(true, predicted)
    pictures = count(true, predicted).keys()
    for metric in METRICS.values():
        side = {name: value for name, value in counts.items() if (name in pictures) == (metric.on == "picture")}
        each = np.array([metric.compute({name: value[index] for name, value in side.items()}) for index in range(4)])
        values = metric.compute({name: value.reshape(2, 2, *value.shape[1:]) for name, value in side.items()})
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, each.reshape(2, 2), metric.name)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_summed_counts_are_those_of_one_long_picture(seed):
    true = layouts(seed)
    predicted = degrade(true, seed)
    parts = total(count(true, predicted))
    whole = total(count(*(images.reshape(1, 2 * HEIGHT, WIDTH, 3) for images in (true, predicted))))
    for compute in (fidelity.mse, fidelity.psnr, fidelity.class_mse, fidelity.class_psnr, fidelity.palette_fidelity):
        np.testing.assert_allclose(compute(parts), compute(whole), rtol=1e-5)
    assert -1 <= fidelity.ssim(parts) <= 1
    assert 0 <= fidelity.palette_fidelity(parts) <= 1
