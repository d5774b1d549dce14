"""What the runs cost, card by card: speeds of unlike cards are never brought together."""

import dataclasses
from collections.abc import Sequence
from statistics import median

from imginav_jax.report.runs import Run


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """Medians over the epochs that a run trained on one card."""

    run: str
    device: str  # number and kind
    precision: str
    epochs: int
    images_per_second: float
    epoch_seconds: float  # validation included
    peak_memory_mib: float  # of one device; on the CPU the compiler's estimate


def training_costs(runs: Sequence[Run]) -> list[TrainingCost]:
    """One a run and card, since a run may go on elsewhere; epochs that trained nothing do not count."""
    costs = []
    for run in runs:
        rows = [row for row in run.rows if row.get("device") and row.get("images_per_second") not in (None, "", "nan")]
        for device in dict.fromkeys(row["device"] for row in rows):
            there = [row for row in rows if row["device"] == device]
            columns = "images_per_second", "epoch_seconds", "peak_memory_mib"
            medians = [median(float(row[column]) for row in there) for column in columns]
            costs.append(TrainingCost(run.name, device, run.config.precision, len(there), *medians))
    return costs
