"""How well a decoded picture matches the true one: counts an image (JAX), and metrics of their sums (NumPy).

Counts of several images add up; they are means over the pixels of an image where float32 sums of them would lose
digits.  Summed counts are float64 and may have any leading axes (resamples, runs), which the metrics keep.  A metric is
NaN where it is undefined.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8

from imginav_jax.datasets import palette
from imginav_jax.models.metrics import PEAK_TO_PEAK
from imginav_jax.report.measurement.counts import Counts, divide

UNITS = 255 / PEAK_TO_PEAK  # of uint8 a unit of the [-1, 1] scale
BAND_EDGES = (8, 16, 32, 64, 128)  # cycles an image; below the first and above the last lie two more bands
BAND_NAMES = tuple(f"{low}_{high}" for low, high in zip((0, *BAND_EDGES), (*BAND_EDGES, "up"), strict=True))
PALETTE_MARGIN = 2  # of 255, each channel
SSIM_SIGMA = 1.5  # px
SSIM_REACH = 5  # px, of the 11x11 window
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def count(true: UInt8[Array, "b h w 3"], predicted: UInt8[Array, "b h w 3"]) -> dict[str, Float[Array, "b ..."]]:
    """The counts of each image in float32; sums of them over images are what the metrics take.

    `pictures` [b] is 1; `squared_error`, `ssim`, `palette_fidelity` [b] and `band_error`, `band_energy` [b bands] are
    the image's own values; `class_pixels`, `class_squared_error`, `class_ssim` [b classes] are sums over the pixels
    whose true colour is exactly the class's.  Squared errors are means of the channels on the [-1, 1] scale.
    """
    classes = palette.one_hot(true)
    difference = predicted.astype(jnp.int32) - true.astype(jnp.int32)
    squared_error = jnp.square(difference).sum(-1).astype(jnp.float32) / (3 * UNITS**2)
    similarity = structural_similarity(true, predicted)
    inner = similarity[:, SSIM_REACH:-SSIM_REACH, SSIM_REACH:-SSIM_REACH]
    return {
        "pictures": jnp.ones(len(true)),
        "squared_error": squared_error.mean((1, 2)),
        "ssim": inner.mean((1, 2)),
        "palette_fidelity": near_palette(predicted).astype(jnp.float32).mean((1, 2)),
        "class_pixels": classes.sum((1, 2)).astype(jnp.float32),
        "class_squared_error": _sum_by(classes, squared_error),
        "class_ssim": _sum_by(classes, similarity),
        "band_error": band_energies(difference / UNITS, with_mean=True),
        "band_energy": band_energies(_without_offset(true), with_mean=False),
    }


def _sum_by(masks: Bool[Array, "#b h w groups"], values: Float[Array, "b h w"]) -> Float[Array, "b groups"]:
    """Rows first, for precision."""
    return jnp.where(masks, values[..., None], 0).sum(2).sum(1)


def structural_similarity(true: UInt8[Array, "b h w 3"], predicted: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """The map of SSIM, mean of the channels, in [-1, 1] (Wang et al. 2004, IEEE TIP 13(4)).

    Gaussian window of 11x11 px and sigma 1.5, K1 0.01, K2 0.03, range 255, population covariance; images are mirrored
    at their borders, edge pixels included.
    """
    planes = [jnp.moveaxis(each, -1, 0).astype(jnp.float32) for each in (true, predicted)]
    # A channel at a time: three times as fast on a CPU as all at once, in a quarter of the memory.
    return jax.lax.map(lambda pair: _plane_similarity(*pair), planes).mean(0)


def _plane_similarity(x: Float[Array, "b h w"], y: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Moments of the window's columns first, then of the window from theirs (law of total variance).

    Both are taken about the middle pixel: in float32 E[x²] - E[x]² would lose the small variances of flat areas.
    """
    xx = yy = xy = jnp.zeros(x.shape)
    for axis in (1, 2):
        dx, dy = [each - x for each in _shifts(x, axis)], [each - y for each in _shifts(y, axis)]
        mean_dx, mean_dy = _window_mean(dx), _window_mean(dy)
        xx = _window_mean(_shifts(xx, axis)) + _window_mean([d * d for d in dx]) - mean_dx * mean_dx
        yy = _window_mean(_shifts(yy, axis)) + _window_mean([d * d for d in dy]) - mean_dy * mean_dy
        products = [d * e for d, e in zip(dx, dy, strict=True)]
        xy = _window_mean(_shifts(xy, axis)) + _window_mean(products) - mean_dx * mean_dy
        x, y = x + mean_dx, y + mean_dy
    luminance = (2 * x * y + SSIM_C1) / (x * x + y * y + SSIM_C1)
    return luminance * (2 * xy + SSIM_C2) / (xx + yy + SSIM_C2)


def _shifts(values: Float[Array, "b h w"], axis: int) -> list[Float[Array, "b h w"]]:
    """The neighbours of every pixel along the axis, from -SSIM_REACH to SSIM_REACH."""
    padding = [(SSIM_REACH, SSIM_REACH) if each == axis else (0, 0) for each in range(values.ndim)]
    padded = jnp.pad(values, padding, mode="symmetric")
    length = values.shape[axis]
    return [jax.lax.slice_in_dim(padded, start, start + length, axis=axis) for start in range(2 * SSIM_REACH + 1)]


def _window_mean(shifts: Sequence[Float[Array, "b h w"]]) -> Float[Array, "b h w"]:
    weights = np.exp(-(np.arange(-SSIM_REACH, SSIM_REACH + 1) ** 2) / (2 * SSIM_SIGMA**2))
    terms = [weight * each for weight, each in zip((weights / weights.sum()).tolist(), shifts, strict=True)]
    return functools.reduce(operator.add, terms)


def band_energies(values: Float[Array, "b h w c"], *, with_mean: bool) -> Float[Array, "b bands"]:
    """Mean square of an image's parts in the bands of radial frequency, mean of the channels.

    The bands are split at BAND_EDGES cycles an image, an edge belonging to the band above it.  With the mean they sum
    to the mean square of the values (Parseval's theorem); without it, to their variance.
    """
    h, w = values.shape[1:3]
    spectrum = jnp.fft.rfft2(values, axes=(1, 2))
    energy = (jnp.square(spectrum.real) + jnp.square(spectrum.imag)).mean(-1) / float(h * w) ** 2
    vertical, horizontal = np.fft.fftfreq(h, 1 / h), np.fft.rfftfreq(w, 1 / w)
    is_paired = (horizontal > 0) & (2 * horizontal < w)  # with the same but negative frequency, which is left out
    energy *= jnp.where(is_paired, 2.0, 1.0)[None, None, :]
    if not with_mean:
        energy = energy.at[:, 0, 0].set(0)
    band = np.digitize(np.hypot(vertical[:, None], horizontal[None, :]), BAND_EDGES)
    return _sum_by(jnp.asarray(band[None, ..., None] == np.arange(len(BAND_NAMES))), energy)


def _without_offset(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """On the [-1, 1] scale, less the first pixel: a flat picture comes out as exact zeros, before and after an FFT."""
    values = images.astype(jnp.int32)
    return (values - values[:, :1, :1]) / UNITS


def near_palette(images: UInt8[Array, "b h w 3"]) -> Bool[Array, "b h w"]:
    """Whether every channel is within PALETTE_MARGIN of one and the same palette colour's."""
    pixels = images.astype(jnp.int32)
    near = [(jnp.abs(pixels - color) <= PALETTE_MARGIN).all(-1) for color in _colors()]
    return functools.reduce(operator.or_, near)


def snap(images: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w"]:
    """The class of the nearest palette colour (Euclid in RGB); of equally near ones the first."""
    pixels = images.astype(jnp.int32)
    shortest = jnp.full(images.shape[:-1], np.iinfo(np.int32).max)
    nearest = jnp.zeros(images.shape[:-1], jnp.uint8)
    # A colour at a time: all ten distances of a batch would be its largest array.
    for index, color in enumerate(_colors()):
        distance = jnp.square(pixels - color).sum(-1)
        nearest = jnp.where(distance < shortest, jnp.uint8(index), nearest)
        shortest = jnp.minimum(distance, shortest)
    return nearest


def _colors() -> Int32[np.ndarray, "classes 1 1 1 3"]:
    return palette.COLORS.astype(np.int32).reshape(-1, 1, 1, 1, 3)


def _to_psnr(mse: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    with np.errstate(divide="ignore"):  # infinite for an error of 0
        return 10 * (np.log10(PEAK_TO_PEAK**2) - np.log10(mse))


def mse(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Mean squared error of pixels on the [-1, 1] scale, mean of pixels, channels and pictures."""
    return divide(counts["squared_error"], counts["pictures"])


def psnr(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Peak signal-to-noise ratio in dB: 10 log10(4 / MSE) of the mean squared error of all pictures together."""
    return _to_psnr(mse(counts))


def class_mse(counts: Counts) -> Float[np.ndarray, "*batch classes"]:
    """Mean squared error on the [-1, 1] scale over the pixels whose true colour is the class's, of all pictures."""
    return divide(counts["class_squared_error"], counts["class_pixels"])


def class_psnr(counts: Counts) -> Float[np.ndarray, "*batch classes"]:
    """Peak signal-to-noise ratio in dB over the pixels whose true colour is the class's: 10 log10(4 / their MSE)."""
    return _to_psnr(class_mse(counts))


def ssim(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Structural similarity, in [-1, 1], mean of the channels and of the pictures.

    Wang et al. 2004, IEEE TIP 13(4): Gaussian window of 11x11 px and sigma 1.5, K1 0.01, K2 0.03; the 5 px at the
    border are left out.
    """
    return divide(counts["ssim"], counts["pictures"])


def class_ssim(counts: Counts) -> Float[np.ndarray, "*batch classes"]:
    """Structural similarity, in [-1, 1], mean over the pixels whose true colour is the class's, all pictures together.

    As `ssim`, but up to the border, at which the pictures are mirrored.
    """
    return divide(counts["class_ssim"], counts["class_pixels"])


def palette_fidelity(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Share of the decoded pixels whose channels are all within 2 (of 255) of one palette colour's, in [0, 1].

    This project's own measure: how much of a picture needs no snapping.
    """
    return divide(counts["palette_fidelity"], counts["pictures"])


def band_error(counts: Counts) -> Float[np.ndarray, "*batch bands"]:
    """Mean squared error on the [-1, 1] scale within a band of radial frequency; the bands sum to the MSE.

    From the two-dimensional discrete Fourier transform of the difference, by Parseval's theorem; frequencies in cycles
    an image.
    """
    return divide(counts["band_error"], counts["pictures"][..., None])


def band_error_share(counts: Counts) -> Float[np.ndarray, "*batch bands"]:
    """Energy of the error over that of the true pictures in a band of radial frequency (cycles an image).

    0 for a band kept as it was, 1 for one lost altogether; the true pictures' means count in no band.  Undefined for
    a band in which they have no energy.
    """
    return divide(counts["band_error"], counts["band_energy"])
