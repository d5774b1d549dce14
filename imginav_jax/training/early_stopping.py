"""When the best epoch was, and when to stop waiting for a better one."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_REMEMBERED = ("best_loss", "best_epoch", "best_step", "reference_loss", "waited")


@dataclasses.dataclass
class EarlyStopping:
    """Two questions kept apart: any fall of the loss is a new best, only one by `min_delta` ends the waiting."""

    patience: int  # epochs
    min_delta: float
    best_loss: float = math.inf
    best_epoch: int = 0
    best_step: int = 0
    reference_loss: float = math.inf  # what the next epoch must beat by min_delta
    waited: int = 0  # epochs since it did

    def update(self, loss: float, epoch: int, step: int) -> bool:
        """Takes an epoch's validation loss and returns whether it is the lowest so far."""
        if loss < self.reference_loss - self.min_delta:
            self.reference_loss, self.waited = loss, 0
        else:
            self.waited += 1
        if loss >= self.best_loss:
            return False
        self.best_loss, self.best_epoch, self.best_step = loss, epoch, step
        return True

    def replace_best(self, loss: float = math.inf, epoch: int = 0, step: int = 0) -> None:
        """Replaces best weights that are lost; without arguments the next epoch's will be the best."""
        self.best_loss, self.best_epoch, self.best_step = loss, epoch, step

    def dump(self) -> dict[str, Any]:
        """Returns what `load` takes back: all but the limits, which may change between two parts of a run."""
        return {name: getattr(self, name) for name in _REMEMBERED}

    def load(self, dumped: Mapping[str, Any]) -> None:
        for name in _REMEMBERED:
            setattr(self, name, dumped[name])

    @property
    def should_stop(self) -> bool:
        return self.waited >= self.patience
