"""What lies between two latents: the pictures decoded from the middle, and whether they look like layouts.

A diffusion model draws latents that no layout has.  Where the latents are smooth, what lies between two of them decodes
to something like a layout too.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report.measurement import fidelity, realism, structure
from imginav_jax.report.measurement.measure import Counts, open_pool, recall
from imginav_jax.report.measurement.subjects import RGB, Images, Model

_AT_ONCE = 8  # pairs
_near_palette = jax.jit(fidelity.near_palette)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Layouts of two scenes each, by their positions in the split.

    A scene meets one other scene alone, and a layout is in one pair at most: pairs of different groups have nothing in
    common.
    """

    first: list[int]
    second: list[int]
    groups: list[str]  # of each pair, the two scenes

    def __len__(self) -> int:
        return len(self.first)

    def begin(self, count: int) -> "Pairs":
        """Returns the first `count` pairs."""
        return Pairs(self.first[:count], self.second[:count], self.groups[:count])


def choose_pairs(scenes: Sequence[str], count: int, seed: int) -> Pairs:
    """Returns at most `count` pairs of layouts, spread over all scenes, the same ones for the same seed.

    Args:
      scenes: of each layout of the split.
      count: of pairs; fewer where the scenes have not so many.
      seed: of which scene meets which.
    """
    layouts: dict[str, list[int]] = {}
    for index, scene in enumerate(scenes):
        layouts.setdefault(scene, []).append(index)
    order = np.random.default_rng(seed).permutation(sorted(layouts)).tolist()
    meeting = [list(zip(layouts[a], layouts[b], strict=False)) for a, b in zip(order[::2], order[1::2], strict=False)]
    rounds = (
        (*pairs[number], str(group))
        for number in range(max(map(len, meeting), default=0))
        for group, pairs in enumerate(meeting)
        if number < len(pairs)
    )
    chosen = sorted(itertools.islice(rounds, count))
    return Pairs(*map(list, zip(*chosen, strict=True))) if chosen else Pairs([], [], [])


def decode_midpoints(model: Model, pairs: Pairs, source: LayoutSource) -> Images:
    """Returns the pictures that the RGB head makes of the mean of each pair's latents."""
    made = []
    for start in range(0, len(pairs), _AT_ONCE):
        ends = [pairs.first[start : start + _AT_ONCE], pairs.second[start : start + _AT_ONCE]]
        first, second = (model.autoencoder.encode(source.images(each)) for each in ends)
        made.append(model.decode((first + second) / 2)[RGB])
    return np.concatenate(made)


def measure(model: Model, pairs: Pairs, source: LayoutSource, data_key: str, folder: Path) -> Counts:
    """Returns `palette_fidelity` [pairs] and `features` [pairs features] of the midpoints' pictures.

    They are the share of pixels of palette colour and the statistics by which realism is judged, from `folder` where
    they have been measured before.

    Raises:
      OSError: `folder` cannot be written.
    """
    key = {"midpoints": [pairs.first, pairs.second], "run": model.key()}
    return recall(folder, key, data_key, lambda: {RGB: _count(decode_midpoints(model, pairs, source))})[RGB]


def measure_real(pairs: Pairs, source: LayoutSource) -> Float[np.ndarray, "pairs features"]:
    """Returns the statistics of the first layout of each pair."""
    return _features(source.images(pairs.first))


def _count(pictures: Images) -> Counts:
    shares = [np.asarray(_near_palette(each[None])).mean() for each in pictures]
    return {"palette_fidelity": np.array(shares, np.float64), "features": _features(pictures)}


def _features(pictures: Images) -> Float[np.ndarray, "n features"]:
    classes = [structure.class_map(each)[1] for each in pictures]
    with open_pool(len(classes)) as pool:
        return np.stack(list(pool.map(realism.features, classes)))
