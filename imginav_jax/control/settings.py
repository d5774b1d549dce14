"""How control is measured."""

import dataclasses
from typing import Literal

Condition = Literal["walls", "contents", "both"]
Part = Literal["drawing", "noise"]
PARTS: tuple[Part, ...] = ("drawing", "noise")
CONDITIONS: tuple[Condition, ...] = ("walls", "contents", "both")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the measurement, besides the runs.

    Attributes:
      condition: what the ControlNet is told: where walls are, what is there, or both.
      unet_steps, controlnet_steps: of training, where every latent gets as many.
      batch_size: layouts a step, over all devices.
      num_points: of a curve, after its first one at step 0.
      sampling_steps: of Heun's method.
      held_out: layouts of the validation split that are drawn, at most.
      seeds: trainings a latent.
      shift: of the noise times; None: by the number of the latent's values.
      precision: of convolutions and attention; empty: the device's usual one.
    """

    condition: Condition = "walls"
    unet_steps: int = 20_000
    controlnet_steps: int = 20_000
    batch_size: int = 64
    num_points: int = 8
    sampling_steps: int = 16
    held_out: int = 256
    seeds: int = 1
    shift: float | None = None
    precision: str = ""

    @property
    def memory(self) -> int:
        """Steps over which the average of the weights that draw reaches back: a twentieth of the training."""
        return max(10, self.controlnet_steps // 20)


QUICK = Settings(unet_steps=300, controlnet_steps=300, batch_size=16, sampling_steps=8, held_out=64)
PLANNED_SEEDS = 3  # what a plan counts, unless it is told otherwise
