"""What a latent's shape is known to hold without training it, beside what the trained run makes of that shape."""

import dataclasses
from collections.abc import Mapping

from imginav_jax.report.decision.bootstrap import Estimate


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """A latent that was not trained for its shape.

    Attributes:
      label: what it is called.
      detail: the estimate of each detail metric that was measured of it; a method without a latent has no probe.
    """

    label: str
    detail: Mapping[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Held:
    """The best yardstick of a candidate's shape.

    Attributes:
      label: of the yardstick.
      score: its detail score, by the metrics that it has.
      run_score: the trained run's, by the same metrics.
      low, high: the interval of the difference.
    """

    label: str
    score: float
    run_score: float
    low: float
    high: float

    @property
    def beats_run(self) -> bool:
        """Whether the yardstick is better than the trained run, beyond the interval."""
        return self.low > 0

    def describe(self, run: str) -> str:
        """Returns the comparison in words."""
        numbers = [f"{100 * number:.1f}" for number in (self.score, self.run_score, self.low, self.high)]
        return (
            f"{self.label} reaches a detail score of {numbers[0]} without training for it, {run} {numbers[1]} "
            f"(difference {numbers[2]} to {numbers[3]} points)"
        )
