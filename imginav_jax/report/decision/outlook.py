"""How far training got: what a run gained by the last doubling of its training, and what one more could change.

A learning curve is concave against the logarithm of its steps: a doubling gains no more than the one before (Hestness
et al. 2017, arXiv:1712.00409, have power laws).  So a difference is firm if it stands where each run gains once more
what it gained last.
"""

import dataclasses
from collections.abc import Mapping

from imginav_jax.report.decision.bootstrap import Estimate


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A run as it was at an earlier checkpoint.

    Attributes:
      detail: the estimate of each detail metric then.
      doublings: of its steps from then to the checkpoint that is compared; above 0.
    """

    detail: Mapping[str, Estimate]
    doublings: float

    def gain(self, then: Estimate, now: Estimate) -> Estimate:
        """Returns what a metric gained by one doubling of the steps."""
        gained = now.minus(then)
        return Estimate(gained.value / self.doublings, gained.samples / self.doublings, gained.num_scenes)


def fall_after_more(fall: Estimate, own: Estimate, finest: Estimate) -> Estimate:
    """Returns a fall below the finest run where both runs gain once more, paired draw by draw.

    Args:
      fall: the finest run's metric less the candidate's, as measured.
      own: the candidate's gain by its last doubling.
      finest: the finest run's.
    """
    return fall.minus(own.minus(finest))
