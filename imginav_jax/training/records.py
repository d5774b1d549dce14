"""What a run leaves for people: CSV rows, TensorBoard, pictures, the summary; in the workdir and the phase folder."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imginav_jax.datasets.pictures import (
    color_classes,
    picture_grid,
    side_by_side,
    true_classes_in_color,
    write_picture,
)
from imginav_jax.models.inference import Reconstruction
from imginav_jax.models.losses import LossWeights, sum_losses, weigh_losses
from imginav_jax.runs import event_files, metrics_csv
from imginav_jax.runs.outputs import Outputs
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import read_json, write_json
from imginav_jax.training.evaluate import Evaluation
from imginav_jax.training.steps import TrainMetrics
from imginav_jax.training.writers import OptionalWriter

EpochRow = dict[str, Any]  # one epoch, by column name
_KINDS = {"train": event_files.TRAIN, "val": ""}  # folders of TensorBoard's files in the workdir


class EpochCosts(NamedTuple):
    images_per_second: float  # of the training steps
    epoch_seconds: float  # validation included
    peak_memory_mib: float  # of one device


@dataclasses.dataclass(frozen=True)
class Records:
    outputs: Outputs
    writer: OptionalWriter
    data_kind: str  # synthetic or manifest
    is_primary: bool  # of the processes of a run one writes

    def write_start(self, config: Mapping[str, Any], model: Mapping[str, Any], step: int) -> None:
        """Writes the config to TensorBoard and its like, as hyper-parameters and as text.

        Args:
          config: nested, as it was given.
          model: what follows from it: the run's name, the latent's shape, the number of parameters.
          step: after which the run goes on; not -1 where an earlier start may have written this.
        """
        if step >= 0 and self.outputs.has_events():
            return
        self.writer.write_start(flatten(config) | {"data": self.data_kind} | dict(model))

    def write_step(self, step: int, values: Mapping[str, float]) -> None:
        self.writer.write_scalars(step, {f"step/{name}": value for name, value in values.items()})

    def write_csv(self, rows: list[EpochRow]) -> None:
        """Writes these rows and no others, in both folders."""
        if not self.is_primary:
            return
        for folder in self.outputs.folders:
            metrics_csv.write_rows(self.outputs.metrics_csv(folder), rows)

    def write_epoch(self, rows: list[EpochRow]) -> None:
        """Writes all rows to the CSV files, the last one to TensorBoard too."""
        self.write_csv(rows)
        by_folder: dict[str, dict[str, float]] = {}
        for name, value in rows[-1].items():
            if isinstance(value, float) and math.isfinite(value):
                folder, tag = _place(name)
                by_folder.setdefault(folder, {})[tag] = value
        for folder, scalars in by_folder.items():
            self.writer.write_scalars(rows[-1]["step"], scalars, folder)
        self.writer.flush()

    def write_samples(self, step: int, moment: str, images: np.ndarray, made: Reconstruction) -> None:
        """Writes pictures; `moment` is epoch_005 or best; `images` are what `made` was made from."""
        if not self.is_primary:
            return
        title = [self.outputs.name, moment.replace("_", " ")]
        if self.data_kind == "synthetic":
            title.append("SYNTHETIC LAYOUTS")
        pictures = {}
        if made.images is not None:
            captions = "input", "reconstruction"
            pictures["comparison"] = side_by_side(images, made.images, captions, title)
        if made.classes is not None:
            true, predicted = true_classes_in_color(images), color_classes(made.classes)
            captions = "true classes", "predicted classes"
            pictures["segmentation"] = side_by_side(true, predicted, captions, title)
        for kind, picture in pictures.items():
            for folder in self.outputs.folders:
                write_picture(self.outputs.sample(folder, moment, kind), picture)
        self.writer.write_images(step, _layout_pictures(moment.split("_")[0], images, made))

    def write_not_finite(self, step: int, found: Mapping[str, Any]) -> Path:
        path = self.outputs.not_finite_json(step)
        if self.is_primary:
            write_json(path, dict(found))
        return path

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        if not self.is_primary:
            return
        for folder in self.outputs.folders:
            write_json(self.outputs.summary_json(folder), dict(summary))


def summarize(rows: Sequence[EpochRow], best_epoch: int, num_epochs: int) -> dict[str, Any]:
    """Returns what the end of a run says of its epochs; `num_epochs`: that it was to train."""
    epochs = rows[-1]["epoch"]
    best = next(row for row in rows if row["epoch"] == best_epoch)
    return {"epochs": epochs, "stopped_early": epochs < num_epochs, "best_epoch": best}


def are_recorded(outputs: Outputs, rows: Sequence[EpochRow], summary: Mapping[str, Any]) -> bool:
    """Returns whether both folders hold the CSV of these rows and a summary that says this."""
    text = json.dumps(summary, sort_keys=True)  # NaN is equal to itself in it
    for folder in outputs.folders:
        try:
            found = read_json(outputs.summary_json(folder))
            table = outputs.metrics_csv(folder).read_bytes()
        except (UserError, OSError):
            return False
        stored = json.dumps({key: found.get(key) for key in summary}, sort_keys=True)
        if table != metrics_csv.render(rows) or stored != text:
            return False
    return True


def make_row(
    epoch: int, step: int, train: TrainMetrics, evaluation: Evaluation, weights: LossWeights, costs: EpochCosts
) -> EpochRow:
    """Returns a row: the original's columns first, loss terms by their weights; `train` holds the epoch's means."""
    terms = weigh_losses(evaluation.losses, weights)
    return {
        "epoch": epoch,
        "train_loss": train.loss,
        "train_MSE_rgb": train.mse_rgb,
        "train_CE_segmentation": train.ce_segmentation,
        "train_CE_classification": train.ce_classification,
        "val_loss": sum_losses(terms),
        "val_MSE_rgb": terms.mse_rgb,
        "val_CE_segmentation": terms.ce_segmentation,
        "val_CE_classification": terms.ce_classification,
        **_make_kl_columns(train, evaluation, terms.kld),
        **evaluation.columns(),
        "grad_norm": train.grad_norm,
        **costs._asdict(),
        "step": step,
    }


def _make_kl_columns(train: TrainMetrics, evaluation: Evaluation, kld: float | None) -> EpochRow:
    """The KL divergence, weighted, and how many channels carry something; none where the model is not variational."""
    active = evaluation.active_channels
    return {} if active is None else {"train_KLD": train.kld, "val_KLD": kld, "val_active_channels": float(active)}


def _place(column: str) -> tuple[str, str]:
    """Returns folder and tag of a column in TensorBoard.

    What training and validation share has one tag, and so one chart; training's lies in a folder of its own.
    """
    kind, _, quantity = column.partition("_")
    if kind in _KINDS:
        return _KINDS[kind], f"epoch/{quantity}"
    return "", f"cost/{column}" if column in EpochCosts._fields else f"epoch/{column}"


def _layout_pictures(group: str, images: np.ndarray, made: Reconstruction) -> dict[str, np.ndarray]:
    """Returns one picture a layout, by tag: the input, what the heads make of it, and its true classes."""
    columns = {"input": images}
    if made.images is not None:
        columns["reconstruction"] = made.images
    if made.classes is not None:
        columns |= {"true classes": true_classes_in_color(images), "predicted classes": color_classes(made.classes)}
    return {
        f"{group}/layout_{row + 1}": np.asarray(
            picture_grid([each[row : row + 1] for each in columns.values()], list(columns))
        )
        for row in range(len(images))
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Joins nested keys by dots; numbers and flags as they are, everything else as text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float)) else str(value)
    return flat
