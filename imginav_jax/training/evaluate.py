"""Evaluation over a whole split, and pictures of what the model makes of a few layouts."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from imginav_jax.datasets import palette
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.models import metrics
from imginav_jax.models.losses import Losses, sum_losses
from imginav_jax.models.network import Params
from imginav_jax.models.posterior import ACTIVE
from imginav_jax.training.steps import EvalMetrics


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Means over every image of a split, each counted once."""

    losses: Losses
    room_scene_accuracy: float  # NaN without a classification head
    confusion: Int[np.ndarray, "classes classes"]  # pixels by [true, predicted]
    not_finite: list[int]  # images, by position in the split, of which a loss is infinite or NaN
    kl_by_channel: Float[np.ndarray, " c"] | None = None  # nats; of a variational model

    @property
    def active_channels(self) -> int | None:
        """Returns how many channels of the latent have a KL divergence above 0.01 nats; None where there is none."""
        return None if self.kl_by_channel is None else int((self.kl_by_channel > ACTIVE).sum())

    def columns(self) -> dict[str, float]:
        """Returns the metrics of an epoch's row, by column name; NaN for a class neither present nor predicted."""
        iou = metrics.iou_per_class(self.confusion)
        return {
            "val_PSNR": metrics.psnr(self.losses.mse_rgb),
            "val_mIoU": metrics.mean_iou(self.confusion),
            "val_pixel_accuracy": metrics.pixel_accuracy(self.confusion),
            "val_room_scene_accuracy": self.room_scene_accuracy,
            **{f"val_IoU_{name}": float(value) for name, value in zip(palette.CLASS_NAMES, iou, strict=True)},
        }


def evaluate(eval_step: Callable[[Params, Batch], EvalMetrics], params: Params, batches: Iterable[Batch]) -> Evaluation:
    """Returns the mean losses, the confusion matrix and the accuracy over all images.

    Sums over images on the host in float64 and divides once, so batches and padding leave no trace.

    Raises:
      ValueError: there is no image.
    """
    results: list[EvalMetrics] = []
    pending = None
    for batch in batches:
        running = eval_step(params, batch)
        if pending is not None:  # fetched a batch late: the device never waits, and never holds many batches
            results.append(jax.device_get(pending))
        pending = running
    if pending is None:
        raise ValueError("an evaluation needs at least one batch")
    results.append(jax.device_get(pending))

    def kept(values: Sequence[Any]) -> np.ndarray:
        return np.concatenate([value[each.mask] for value, each in zip(values, results, strict=True)])

    def mean(values: Sequence[Any]) -> Any:
        """Over images; None of a term that the model does not have."""
        return None if values[0] is None else kept(values).astype(np.float64).mean(0)

    has_room_scene = results[0].room_scene_correct is not None
    return Evaluation(
        jax.tree.map(float, Losses(*(mean(values) for values in zip(*(each.losses for each in results), strict=True)))),
        float(mean([each.room_scene_correct for each in results])) if has_room_scene else math.nan,
        np.stack([each.confusion for each in results]).sum(0, dtype=np.int64),
        np.flatnonzero(~np.isfinite(kept([sum_losses(each.losses) for each in results]))).tolist(),
        mean([each.kl_by_channel for each in results]),
    )
