"""Metrics of reconstruction, segmentation and room/scene classification."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

PEAK_TO_PEAK = 2.0  # of pixels in [-1, 1]


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]: 10 log10(4 / MSE); infinite for MSE 0."""
    return math.inf if mse == 0 else 10 * math.log10(PEAK_TO_PEAK**2 / mse)


def confusion_matrix(
    logits: Float[Array, "b h w classes"], labels: Bool[Array, "b h w classes"], mask: Bool[Array, " b"]
) -> Int32[Array, "classes classes"]:
    """Pixels counted by [true class, predicted class]; ignored pixels and masked images count nowhere.

    Counted an image at a time in float32 (exact up to 2**24 pixels), then summed as integers.
    """
    classes = jnp.arange(logits.shape[-1]).reshape(1, 1, 1, -1)
    predicted = logits.argmax(-1)[..., None] == classes
    counts = jnp.einsum("bhwt,bhwp->btp", labels.astype(jnp.float32), predicted.astype(jnp.float32))
    return jnp.where(mask[:, None, None], counts, 0).astype(jnp.int32).sum(0)


def iou_per_class(confusion: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, " classes"]:
    """Intersection over union (Jaccard index) a class; NaN for a class neither present nor predicted."""
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return np.divide(intersection, union, out=np.full_like(intersection, np.nan), where=union > 0)


def mean_iou(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Mean of `iou_per_class` over the classes that are present or predicted; NaN when there are none."""
    iou = iou_per_class(confusion)
    return float(iou[~np.isnan(iou)].mean()) if not np.isnan(iou).all() else math.nan


def pixel_accuracy(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Share of the labelled pixels that are predicted right; NaN when there are none."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan
