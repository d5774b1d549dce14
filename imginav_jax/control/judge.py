"""Compares what was drawn with what was demanded."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import jax
import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.control.latents import Latents
from imginav_jax.report.measurement import demand, fidelity, realism
from imginav_jax.runs.results.control_file import Counts

_SNAP = jax.jit(fidelity.snap)
_NEAR = jax.jit(lambda images: fidelity.near_palette(images).mean((1, 2)))
_AT_ONCE = 8  # pictures that are snapped


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Pictures as class maps.

    Attributes:
      classes: of the nearest palette colour.
      palette_share: of the pixels that need no snapping, a picture.
    """

    classes: UInt8[np.ndarray, "n h w"]
    palette_share: Float[np.ndarray, " n"]


def snap(images: UInt8[np.ndarray, "n h w 3"]) -> Drawing:
    """Returns the pictures' class maps."""
    parts = [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
    classes, shares = (np.concatenate([np.asarray(each(part)) for part in parts]) for each in (_SNAP, _NEAR))
    return Drawing(classes, shares)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Counts of drawings on one latent, against the demands of held-out layouts.

    Attributes:
      demanded: the layouts' classes.
      pool: that counts.
    """

    latents: Latents
    demanded: UInt8[np.ndarray, "n h w"]
    pool: Executor

    def __call__(self, drawn: Float[np.ndarray, "n h w c"]) -> Counts:
        """Returns the counts of normalised latents, a layout a row."""
        return self.count(snap(self.latents.decode(drawn)))

    def count(self, drawing: Drawing, order: Sequence[int] | None = None) -> Counts:
        """Returns the counts of a drawing; `order`: whose demand each picture is compared with, None for its own."""
        demanded = self.demanded if order is None else self.demanded[list(order)]
        rows = list(self.pool.map(demand.count_demand, demanded, drawing.classes, chunksize=4))
        counts = _stack(rows)
        counts["palette_fidelity"], counts["pictures"] = drawing.palette_share, np.ones(len(rows))
        return counts

    def features(self, drawing: Drawing) -> Float[np.ndarray, "n features"]:
        """Returns the statistics of a drawing, by which its realism is judged."""
        return np.stack(list(self.pool.map(realism.features, drawing.classes, chunksize=4)))


def _stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([np.asarray(row[name], np.float64) for row in rows]) for name in rows[0]}


def other_scene(scenes: Sequence[str]) -> list[int]:
    """Returns for each layout one of another scene, and every layout for one: what is demanded is all the same.

    With the layouts scene by scene, each takes the one that is as many places on as the largest scene has layouts.  A
    scene of more than half of all has to take some of its own.
    """
    by_scene = sorted(range(len(scenes)), key=lambda index: scenes[index])
    step = max(collections.Counter(scenes).values())
    order = dict(zip(by_scene, by_scene[step:] + by_scene[:step], strict=True))
    return [order[index] for index in range(len(scenes))]
