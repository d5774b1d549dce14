"""Whether drawn layouts look like real ones: their statistics, compared without a network.

Everything is of class maps, and runs on the host.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from skimage import morphology

from imginav_jax.datasets import palette
from imginav_jax.report.measurement.structure import IS_FURNITURE, WALL, count_closed_spaces, label_objects

_DRAWS = 1000  # of who is who, for an interval
_GRID = 64  # pixels along a side on which layouts are compared for copies
_FARTHEST = 5.0  # deviations
COPIED = 0.02  # share of these pixels that differ at most


class Mmd(NamedTuple):
    """A squared maximum mean discrepancy and its interval; 0 is no difference, and the estimate may lie below."""

    value: float
    low: float
    high: float


def features(classes: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, " features"]:
    """Returns the statistics of a layout by which realism is judged.

    Of each class its share of the picture; of each class of furniture its number of objects and their mean area (share
    of the picture, square root); the wall's length (skeleton, in sides of the picture) and thickness (area by length);
    the number of closed spaces; of each pair of classes the length along which they touch (sides of the picture).
    Counts and lengths as the logarithm of one more.
    """
    side, area = classes.shape[0], classes.size
    shares = np.bincount(classes.ravel(), minlength=palette.NUM_CLASSES) / area
    objects = label_objects(classes)
    areas = np.bincount(objects.ravel())
    class_of = np.zeros(len(areas), np.intp)
    class_of[objects] = classes
    numbers = np.bincount(class_of[1:], minlength=palette.NUM_CLASSES)
    total = np.bincount(class_of[1:], areas[1:], palette.NUM_CLASSES)
    sizes = np.sqrt(total / area / np.maximum(numbers, 1))
    wall = classes == WALL
    length = morphology.skeletonize(wall).sum()
    thickness = wall.sum() / max(1, length) / side
    of_walls = [np.log1p(length / side), thickness, np.log1p(count_closed_spaces(wall))]
    return np.concatenate(
        [shares, np.log1p(numbers[IS_FURNITURE]), sizes[IS_FURNITURE], of_walls, np.log1p(_touching(classes) / side)]
    )


def _touching(classes: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, " pairs"]:
    """The pixel edges between each two classes."""
    pairs = np.zeros(palette.NUM_CLASSES**2)
    for first, second in ((classes[1:], classes[:-1]), (classes[:, 1:], classes[:, :-1])):
        codes = first.astype(np.intp) * palette.NUM_CLASSES + second
        pairs += np.bincount(codes.ravel(), minlength=len(pairs))
    both = pairs.reshape(palette.NUM_CLASSES, -1)
    return (both + both.T)[np.triu_indices(palette.NUM_CLASSES, 1)]


def standardize(
    values: Float[np.ndarray, "n features"], reference: Float[np.ndarray, "m features"]
) -> Float[np.ndarray, "n features"]:
    """Returns features less their means over a reference, by their deviations there; 0 where that has none.

    What lies more than 5 deviations off is set to 5, or a feature that hardly varies would be all that counts.
    """
    deviation = reference.std(0)
    scaled = np.where(deviation > 0, (values - reference.mean(0)) / np.where(deviation > 0, deviation, 1), 0)
    return np.clip(scaled, -_FARTHEST, _FARTHEST)


def mmd(
    drawn: Float[np.ndarray, "n features"],
    real: Float[np.ndarray, "n features"],
    groups: Sequence[str],
    confidence: float,
    seed: int = 0,
) -> Mmd:
    """Returns the unbiased squared MMD of a cubic kernel, (x.y / features + 1)^3 (Binkowski et al. 2018,
    arXiv:1801.01401), in the form for pairs (Gretton et al. 2012, JMLR 13, lemma 6).

    Its interval holds 0 as often as `confidence` says where both are of one distribution: it is made of the values that
    come of exchanging, group by group at random, the drawn with the real ones.

    Args:
      drawn: features, standardized.
      real: of the layouts that the drawn ones belong to, one by one.
      groups: of each pair, its scene: pairs of one are exchanged together, and not compared with each other.
      confidence: of the interval, in (0, 1).
      seed: of the exchanges.
    """
    drawn_kernel, real_kernel, mixed = _kernel(drawn, drawn), _kernel(real, real), _kernel(drawn, real)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    apart = group[:, None] != group[None, :]
    paired = np.where(apart, drawn_kernel + real_kernel - mixed - mixed.T, 0) / apart.sum()
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_DRAWS, group.max() + 1))[:, group]
    chance = np.einsum("di,ij,dj->d", signs, paired, signs, optimize=True)
    outside = (1 - confidence) / 2
    low, high = np.quantile(chance, [outside, 1 - outside])
    value = float(paired.sum())
    return Mmd(value, value - float(high), value - float(low))


def compare_mmd(
    first: Float[np.ndarray, "n features"],
    second: Float[np.ndarray, "n features"],
    real: Float[np.ndarray, "n features"],
    groups: Sequence[str],
    confidence: float,
    seed: int = 0,
) -> Mmd:
    """Returns by how much the first drawings' squared MMD from real ones is larger than the second's.

    Each is that of `mmd`.  The interval is made of the values that come of exchanging, group by group at random, first
    drawings with second ones: it holds 0 as often as `confidence` says where both are of one distribution.  The
    difference is linear in these exchanges: what they do to two drawings together cancels.

    Args:
      first: features, standardized.
      second: of the same layouts, one by one.
      real: of the layouts themselves.
      groups: of each layout, its scene.
      confidence: of the interval, in (0, 1).
      seed: of the exchanges.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    apart = group[:, None] != group[None, :]
    mixed = _kernel(first, second)
    gains = _kernel(first, first) - _kernel(second, second) + mixed - mixed.T
    gains -= 2 * (_kernel(first, real) - _kernel(second, real))
    by_group = np.bincount(group, np.where(apart, gains, 0).sum(1) / apart.sum())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_DRAWS, len(by_group)))
    outside = (1 - confidence) / 2
    low, high = np.quantile(signs @ by_group, [outside, 1 - outside])
    value = float(by_group.sum())
    return Mmd(value, value - float(high), value - float(low))


def _kernel(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "n m"]:
    return (first @ second.T / first.shape[1] + 1) ** 3


def shrink(classes: UInt8[np.ndarray, "*n h w"]) -> UInt8[np.ndarray, "*n pixels"]:
    """Returns the pixels by which copies are found: 64 along a side, or all of a smaller picture."""
    rows, columns = (np.arange(size) if size <= _GRID else (np.arange(_GRID) + 0.5) * size // _GRID
                     for size in classes.shape[-2:])  # fmt: skip
    shrunk = classes[..., rows.astype(int), :][..., columns.astype(int)]
    return shrunk.reshape(*shrunk.shape[:-2], -1)


def is_copied(drawn: UInt8[np.ndarray, "n pixels"], training: UInt8[np.ndarray, "m pixels"]) -> Bool[np.ndarray, " n"]:
    """Returns whether of a picture's nearest training layout at most 2 % of the pixels differ; both of `shrink`."""
    nearest = np.array([(training != each).mean(-1).min() for each in drawn])
    return nearest <= COPIED
