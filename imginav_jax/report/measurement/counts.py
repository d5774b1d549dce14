"""What metrics are made of: sums over layouts, by name, with any leading axes."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

Counts = Mapping[str, Float[np.ndarray, "..."]]


def divide(numerator: np.ndarray, denominator: np.ndarray) -> Float[np.ndarray, "*shape"]:
    """Returns the quotient, NaN where the denominator is 0."""
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)
