"""Statistics of latents over a whole split: summaries of single images, merged into those of all of them.

A summary holds central moments in float64, and any number of summaries merge into one in a single pass (Chan, Golub
and LeVeque 1979 for second moments; Pebay 2008, SAND2008-6212, for third and fourth).  One image is one summary, so
the result does not depend on batches, devices, processes or interruptions.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from imginav_jax.models.metrics import divide

FILE_NAME = "latent_statistics.json"
DEAD_SHARE = 0.01  # of the median standard deviation: a channel below it is dead
EQUAL_CORRELATION = 0.999  # absolute value; channels above it are equal up to a factor
HIGH_FREQUENCY = 0.25  # cycles a cell, half the Nyquist frequency

DEFINITIONS = {
    "std": "population standard deviation: squares divided by the number of cells",
    "kurtosis": "fourth central moment over the squared variance; 3 for a normal distribution",
    "correlation": "Pearson's, between channels over all cells",
    "dead_channels": f"standard deviation below {DEAD_SHARE:.0%} of the median channel's",
    "equal_channels": f"pairs whose correlation is at least {EQUAL_CORRELATION} or at most -{EQUAL_CORRELATION}",
    "scale_factor": "1 / standard deviation of all values about their common mean (Rombach et al. 2022, appendix G)",
    "normalization": "(latent - shift) / scale, a channel; scale is 1 for a channel that never changes",
    "autocorrelation": "Pearson's, between cells and their lower (vertical) or right (horizontal) neighbours",
    "high_frequency_share": "share of the spectral energy, each image's mean removed, at radial frequencies above "
    f"{HIGH_FREQUENCY} cycles a cell (two-dimensional discrete Fourier transform)",
}


class Pairs(NamedTuple):
    """Neighbouring cells along one axis; `first` and `second` of every pair."""

    count: Any  # of pairs
    mean: Float[Any, "2 c"]  # of first and second
    moment: Float[Any, "3 c"]  # sums about the means of first², second² and first·second


class Summary(NamedTuple):
    """Sums over the cells of some latents, about their mean; float64, or of many latents with a leading axis."""

    count: Any  # of cells
    mean: Float[Any, " c"]
    third: Float[Any, " c"]
    fourth: Float[Any, " c"]
    comoment: Float[Any, "c c"]  # second moments on the diagonal
    minimum: Float[Any, " c"]
    maximum: Float[Any, " c"]
    vertical: Pairs
    horizontal: Pairs
    energy: Float[Any, " c"]  # of the spectrum without frequency zero
    high_energy: Float[Any, " c"]


def summarize(latents: Float[Array, "b h w c"]) -> Summary:
    """Returns a summary for each image, computed where the latents are; call it under `jax.enable_x64(True)`."""
    x = latents.astype(jnp.float64)
    b, h, w, c = x.shape
    mean = x.mean((1, 2))
    d = x - mean[:, None, None, :]
    cells = d.reshape(b, h * w, c)
    fy, fx = jnp.fft.fftfreq(h)[:, None], jnp.fft.fftfreq(w)[None, :]
    is_high = jnp.hypot(fy, fx) > HIGH_FREQUENCY
    spectrum = jnp.square(jnp.abs(jnp.fft.fft2(d, axes=(1, 2))))
    return Summary(
        count=jnp.full(b, float(h * w)),
        mean=mean,
        third=(cells**3).sum(1),
        fourth=(cells**4).sum(1),
        comoment=jnp.einsum("bnc,bnd->bcd", cells, cells, precision="highest"),
        minimum=x.min((1, 2)),
        maximum=x.max((1, 2)),
        vertical=_pair(x[:, :-1], x[:, 1:]),
        horizontal=_pair(x[:, :, :-1], x[:, :, 1:]),
        energy=spectrum.sum((1, 2)),
        high_energy=jnp.where(is_high[None, :, :, None], spectrum, 0).sum((1, 2)),
    )


def _pair(first: Float[Array, "b h w c"], second: Float[Array, "b h w c"]) -> Pairs:
    b, h, w, c = first.shape
    if h * w == 0:  # a latent of one row or column has no neighbours
        return Pairs(jnp.zeros(b), jnp.zeros((b, 2, c)), jnp.zeros((b, 3, c)))
    both = jnp.stack([first, second], 1).reshape(b, 2, h * w, c)
    mean = both.mean(2)
    d, e = jnp.moveaxis(both - mean[:, :, None], 1, 0)
    return Pairs(jnp.full(b, float(h * w)), mean, jnp.stack([d * d, e * e, d * e], 1).sum(2))


def merge(parts: Summary) -> Summary:
    """Merges summaries into one of all; every array of `parts` has a leading axis over them (on the host)."""
    n = parts.count[:, None]
    mean = _weighted_mean(parts.count, parts.mean)
    d = parts.mean - mean
    second = np.diagonal(parts.comoment, axis1=1, axis2=2)
    return Summary(
        count=parts.count.sum(),
        mean=mean,
        third=(parts.third + 3 * d * second + n * d**3).sum(0),
        fourth=(parts.fourth + 4 * d * parts.third + 6 * d**2 * second + n * d**4).sum(0),
        comoment=parts.comoment.sum(0) + (n * d).T @ d,
        minimum=parts.minimum.min(0),
        maximum=parts.maximum.max(0),
        vertical=_merge_pairs(parts.vertical),
        horizontal=_merge_pairs(parts.horizontal),
        energy=parts.energy.sum(0),
        high_energy=parts.high_energy.sum(0),
    )


def _merge_pairs(parts: Pairs) -> Pairs:
    mean = _weighted_mean(parts.count, parts.mean)
    d, e = np.moveaxis(parts.mean - mean, 1, 0)
    between = np.stack([d * d, e * e, d * e], 1) * parts.count[:, None, None]
    return Pairs(parts.count.sum(), mean, (parts.moment + between).sum(0))


def _weighted_mean(count: Float[np.ndarray, " k"], values: np.ndarray) -> np.ndarray:
    """Returns the mean of `values` over the leading axis, weighted by `count`."""
    weights = count / max(count.sum(), 1)
    return np.tensordot(weights, values, 1)


def stack(parts: Sequence[Summary]) -> Summary:
    """Gives summaries a leading axis over them and returns them as one, for `merge`."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def concatenate(parts: Sequence[Summary]) -> Summary:
    """Joins summaries along the leading axis that they have and returns them as one, for `merge`."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def select(parts: Summary, mask: Bool[np.ndarray, " k"]) -> Summary:
    """Returns the summaries that `mask` keeps, of such with a leading axis."""
    return jax.tree.map(lambda leaf: leaf[mask], parts)


def dump_summary(summary: Summary) -> list[Any]:
    """Returns JSON that `load_summary` turns into the very same numbers."""
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(summary)]


def load_summary(leaves: Sequence[Any]) -> Summary:
    """Returns the summary of which `dump_summary` made this JSON."""
    pairs = Pairs(0, 0, 0)
    structure = jax.tree.structure(
        Summary(0, 0, 0, 0, 0, 0, 0, vertical=pairs, horizontal=pairs, energy=0, high_energy=0)
    )
    return jax.tree.unflatten(structure, [np.asarray(leaf, np.float64) for leaf in leaves])


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """What `DEFINITIONS` says, a channel, over all cells of a split; NaN where a value is undefined.

    Attributes:
      cells: how many there were.
      origin: JSON that says of which weights and of which data they are.
    """

    cells: int
    mean: Float[np.ndarray, " c"]
    std: Float[np.ndarray, " c"]
    min: Float[np.ndarray, " c"]
    max: Float[np.ndarray, " c"]
    kurtosis: Float[np.ndarray, " c"]
    correlation: Float[np.ndarray, "c c"]
    scale_factor: float
    autocorrelation_vertical: Float[np.ndarray, " c"]
    autocorrelation_horizontal: Float[np.ndarray, " c"]
    high_frequency_share: Float[np.ndarray, " c"]
    origin: Mapping[str, Any]

    @property
    def scale(self) -> Float[np.ndarray, " c"]:
        """Returns what normalisation divides by: the standard deviation, 1 for a channel that never changes."""
        return np.where(self.std > 0, self.std, 1.0)

    @property
    def dead_channels(self) -> list[str]:
        """Returns the names of the channels below DEAD_SHARE of the median standard deviation."""
        return [_name(index) for index in np.flatnonzero(self.std < DEAD_SHARE * np.median(self.std))]

    @property
    def equal_channels(self) -> list[tuple[str, str]]:
        """Returns the pairs of channels that are equal up to a factor, by EQUAL_CORRELATION."""
        first, second = np.nonzero(np.triu(np.abs(self.correlation) >= EQUAL_CORRELATION, 1))
        return [(_name(i), _name(j)) for i, j in zip(first, second, strict=True)]

    def dump(self) -> dict[str, Any]:
        """Returns the statistics as JSON, with the definitions."""
        stored = {field.name: _to_json(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {
            **stored,
            "channels": [_name(index) for index in range(len(self.mean))],
            "dead_channels": self.dead_channels,
            "equal_channels": self.equal_channels,
            "normalization": {"shift": self.mean.tolist(), "scale": self.scale.tolist()},
            "definitions": DEFINITIONS,
        }

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "LatentStatistics":
        """Returns the statistics of which `dump` made this JSON.

        Raises:
          KeyError, TypeError, ValueError: it did not.
        """
        plain = ("cells", "scale_factor", "origin")
        values = {field.name: stored[field.name] for field in dataclasses.fields(cls)}
        arrays = {name: np.array(value, np.float64) for name, value in values.items() if name not in plain}
        return cls(**{**values, **arrays})


def compute(summary: Summary, origin: Mapping[str, Any]) -> LatentStatistics:
    """Returns the statistics of what was summarised; `origin` says of which weights and data, as JSON."""
    count, second = summary.count, np.diagonal(summary.comoment)
    overall = (second + count * np.square(summary.mean - summary.mean.mean())).sum() / (count * len(second))
    root = np.sqrt(second)
    return LatentStatistics(
        cells=int(count),
        mean=summary.mean,
        std=np.sqrt(second / count),
        min=summary.minimum,
        max=summary.maximum,
        kurtosis=divide(count * summary.fourth, second**2),
        correlation=divide(summary.comoment, root[:, None] * root[None, :]),
        scale_factor=1 / math.sqrt(overall) if overall > 0 else 1.0,
        autocorrelation_vertical=_correlation(summary.vertical),
        autocorrelation_horizontal=_correlation(summary.horizontal),
        high_frequency_share=divide(summary.high_energy, summary.energy),
        origin=dict(origin),
    )


def _correlation(pairs: Pairs) -> Float[np.ndarray, " c"]:
    first, second, product = pairs.moment
    return divide(product, np.sqrt(first * second))


def _name(index: Any) -> str:
    """Returns a channel's name; they are counted from 0, as arrays are."""
    return f"channel {index}"


def _to_json(value: Any) -> Any:
    """Returns lists for arrays and None for NaN, which JSON lacks."""
    if isinstance(value, np.ndarray):
        return [_to_json(each) for each in value.tolist()]
    if isinstance(value, list):
        return [_to_json(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
