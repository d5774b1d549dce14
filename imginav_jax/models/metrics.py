"""Metrics of reconstruction, segmentation and room/scene classification."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

PEAK_TO_PEAK = 2.0  # of pixels in [-1, 1]


def psnr(mse: float) -> float:
    """Returns the peak signal-to-noise ratio of pixels in [-1, 1], 10 log10(4 / MSE) dB; infinite for MSE 0."""
    return math.inf if mse == 0 else 10 * math.log10(PEAK_TO_PEAK**2 / mse)


def confusion_matrix(
    logits: Float[Array, "b h w classes"], labels: Bool[Array, "b h w classes"], mask: Bool[Array, " b"]
) -> Int32[Array, "classes classes"]:
    """Returns the number of pixels by [true class, predicted class], without ignored pixels and masked images.

    Counted a row of pixels at a time, then summed: a GPU would wait for millions of additions to one number.
    """
    counted = labels.any(-1) & mask[:, None, None]
    image, row = jnp.ogrid[: labels.shape[0], : labels.shape[1]]
    counts = jnp.zeros((*labels.shape[:2], labels.shape[-1], logits.shape[-1]), jnp.int32)
    where = image[..., None], row[..., None], labels.argmax(-1), logits.argmax(-1)
    return counts.at[where].add(counted.astype(jnp.int32)).sum((0, 1))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotients of arrays of one shape, float like the numerator; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def iou_per_class(confusion: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, " classes"]:
    """Returns each class's intersection over union (Jaccard index); NaN where it is neither present nor predicted."""
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return divide(intersection, union)


def mean_iou(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Returns the mean of `iou_per_class` over the classes present or predicted; NaN when there are none."""
    iou = iou_per_class(confusion)
    return float(iou[~np.isnan(iou)].mean()) if not np.isnan(iou).all() else math.nan


def pixel_accuracy(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Returns the share of the labelled pixels that are predicted right; NaN when there are none."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan
