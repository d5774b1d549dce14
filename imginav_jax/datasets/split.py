"""The train/validation split: by scene, with exact duplicates on one side."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from imginav_jax.system.errors import UserError


def validation_mask(
    scenes: Sequence[str], digests: Sequence[str], fraction: float, seed: int
) -> Bool[np.ndarray, " layouts"]:
    """Splits the layouts and returns True for those of the validation split.

    Layouts that share a scene or a pixel digest, directly or through others, form a group that is never divided.
    Groups are shuffled and taken while they fit, so validation holds at most `fraction` of the layouts (at least
    one group, though), and falls short of it by less than the largest group.

    Args:
      scenes: the scene id of each layout.
      digests: the pixel digest of each layout.
      fraction: the share of layouts to validate on, in (0, 1).
      seed: of the shuffle.

    Raises:
      UserError: there is only one group, so nothing can be held out.
    """
    groups = _group(scenes, digests)
    ids, sizes = np.unique(groups, return_counts=True)
    if len(ids) < 2:
        raise UserError(f"{len(groups)} layouts cannot be split: they share one scene or are duplicates of each other")
    target = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    order = np.random.default_rng(seed).permutation(len(ids))
    chosen, taken = [], 0
    for group in order:
        if taken + sizes[group] <= target:
            chosen.append(group)
            taken += sizes[group]
    if not chosen:
        chosen = [order[np.argmin(sizes[order])]]
    return np.isin(groups, ids[chosen])


def _group(scenes: Sequence[str], digests: Sequence[str]) -> np.ndarray:
    """Returns for each layout the position of the first one in its group, by union-find over scenes and digests."""
    parent = list(range(len(scenes)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first: dict[tuple[str, str], int] = {}
    for layout, keys in enumerate(zip(scenes, digests, strict=True)):
        for key in zip(("scene", "digest"), keys, strict=True):
            a, b = root(first.setdefault(key, layout)), root(layout)
            parent[max(a, b)] = min(a, b)
    return np.array([root(layout) for layout in range(len(scenes))])
