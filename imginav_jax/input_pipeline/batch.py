"""What one batch holds on its way from the input pipeline to the device."""

from typing import Any, NamedTuple

from jaxtyping import Bool, Int32, UInt8


class Batch(NamedTuple):
    """NumPy arrays on the host, JAX arrays on the device."""

    image: UInt8[Any, "b size size 3"]  # RGB as stored
    type: Int32[Any, " b"]  # 0 room, 1 scene
    index: Int32[Any, " b"]  # position in the split, to name a layout; negative where the row only pads

    @property
    def mask(self) -> Bool[Any, " b"]:
        """Returns False for the rows that only pad."""
        return self.index >= 0
