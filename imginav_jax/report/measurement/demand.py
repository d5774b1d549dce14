"""How well a drawn layout follows what was demanded of it: counts a layout, and metrics of their sums.

As in `structure.py` counts add up over layouts, may have any leading axes, and a metric is NaN where it is undefined.
What is demanded is read off a layout's class map: where walls are, and what is there.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from imginav_jax.datasets import palette
from imginav_jax.report.measurement.counts import Counts, divide
from imginav_jax.report.measurement.structure import (
    IS_FURNITURE,
    WALL,
    count_closed_spaces,
    f_measure,
    label,
    label_objects,
)

TOLERANCES = (1, 2, 4)  # px, between a wall that is demanded and one that is drawn
BACKGROUND = palette.CLASS_NAMES.index("background")
FURNITURE = np.flatnonzero(IS_FURNITURE)  # classes
_GAP = (0.02, 0.16)  # of the picture's side: how wide a door gap is
_BESIDE = 0.025  # likewise: how long the wall on either side of it is at least


def wall_mask(classes: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns where walls are."""
    return classes == WALL


def outer_boundary(classes: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of the layout's own outline.

    Outside is background that is 4-connected to the picture's border; the outline are the pixels not outside that have
    one of their 4 neighbours outside, or none beyond the border.
    """
    outside = label(np.pad(classes == BACKGROUND, 1, constant_values=True).astype(np.uint8), 1)
    outside = outside == outside[0, 0]  # the padding joins all that touches the border
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return beside & ~outside[1:-1, 1:-1]


def contents(classes: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, " v"]:
    """Returns what is there: of each class of furniture 1 or 0, and the logarithm of one more than its objects."""
    objects = _count_objects(classes)
    return np.concatenate([objects > 0, np.log1p(objects)])


def _count_objects(classes: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, " furniture"]:
    """Returns the number of 8-connected components of each class of furniture."""
    objects = label_objects(classes)
    class_of = np.zeros(objects.max() + 1, np.intp)
    class_of[objects] = classes
    return np.bincount(class_of[1:], minlength=palette.NUM_CLASSES)[FURNITURE]


class _Gaps(NamedTuple):
    """Door gaps: openings in walls along rows, and along columns."""

    labels: Int[np.ndarray, "2 h w"]  # the number of the gap, 0 for none
    count: int


def _find_gaps(wall: Bool[np.ndarray, "h w"]) -> _Gaps:
    along_rows = label(_runs_between_walls(wall), 2)
    along_columns = label(_runs_between_walls(wall.T).T, 2)
    rows, columns = int(along_rows.max()), int(along_columns.max())
    return _Gaps(np.stack([along_rows, np.where(along_columns > 0, along_columns + rows, 0)]), rows + columns)


def _runs_between_walls(wall: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of runs along rows that are as long as a door is wide, between walls that go on along them."""
    height, width = wall.shape
    padded = np.pad(wall, ((0, 0), (1, 1))).astype(np.int8)  # a run ends with its row
    flat = np.concatenate([padded.ravel(), [1 - padded[-1, -1]]])
    ends = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths, is_wall = ends - starts, flat[starts] == 1
    narrowest, widest = (share * width for share in _GAP)
    is_long = is_wall & (lengths >= _BESIDE * width)
    between = np.zeros(len(starts), bool)
    between[1:-1] = ~is_wall[1:-1] & is_long[:-2] & is_long[2:]
    between &= (lengths >= narrowest) & (lengths <= widest)
    found = np.repeat(between, lengths).reshape(height, width + 2)
    return found[:, 1:-1]


def count_demand(
    demanded: UInt8[np.ndarray, "h w"], drawn: UInt8[np.ndarray, "h w"]
) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the counts of one drawing, which add up over layouts; both are class maps in which every pixel has one.

    `layouts` [] is 1; with one value a tolerance, or a class of furniture; the others are scalars.
    """
    walls, lines = wall_mask(demanded), wall_mask(drawn)
    asked, made = _count_objects(demanded), _count_objects(drawn)
    gaps, others = _find_gaps(walls), _find_gaps(lines)
    is_kept = np.zeros(gaps.count + 1, bool)
    is_kept[gaps.labels[others.labels > 0]] = True
    counts = {
        "layouts": 1,
        "walls_demanded": walls.sum(),
        "walls_demanded_found": _count_near(walls, lines),
        "walls_drawn": lines.sum(),
        "walls_drawn_right": _count_near(lines, walls),
        "present_demanded": asked > 0,
        "present_drawn": made > 0,
        "present_both": (asked > 0) & (made > 0),
        "objects_demanded": asked,
        "objects_error": abs(asked - made),
        "closed_spaces_error": abs(count_closed_spaces(walls) - count_closed_spaces(lines)),
        "door_gaps": gaps.count,
        "door_gaps_kept": is_kept[1:].sum(),
        "door_gaps_error": abs(gaps.count - others.count),
    }
    return {name: np.asarray(value, np.float64) for name, value in counts.items()}


def _count_near(mask: Bool[np.ndarray, "h w"], other: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, " tolerances"]:
    """Returns how many pixels of a mask have one of the other within each tolerance (Euclid)."""
    if not other.any():
        return np.zeros(len(TOLERANCES), int)
    distance = np.asarray(ndimage.distance_transform_edt(~other))[mask]
    return np.array([(distance <= tolerance).sum() for tolerance in TOLERANCES])


def wall_recall(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Share of the demanded wall pixels within the tolerance (px, Euclid) of a drawn one, in [0, 1]."""
    return divide(counts["walls_demanded_found"][..., TOLERANCES.index(tolerance)], counts["walls_demanded"])


def wall_precision(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Share of the drawn wall pixels within the tolerance (px, Euclid) of a demanded one, in [0, 1]."""
    return divide(counts["walls_drawn_right"][..., TOLERANCES.index(tolerance)], counts["walls_drawn"])


def wall_f(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Agreement of demanded and drawn walls: harmonic mean of recall and precision at the tolerance (px), in [0, 1].

    Of all layouts together; the matching is that of Martin et al. 2004, PAMI 26(5), one pixel may match several.
    """
    return f_measure(wall_precision(counts, tolerance), wall_recall(counts, tolerance))


def presence_f1(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """F1 of which classes of furniture are there, in [0, 1], all classes and layouts together."""
    both = counts["present_both"].sum(-1)
    precision, recall = (divide(both, counts[f"present_{side}"].sum(-1)) for side in ("drawn", "demanded"))
    return f_measure(precision, recall)


def object_count_error(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Absolute difference in the number of objects (8-connected) of each class of furniture, their sum a layout."""
    return divide(counts["objects_error"].sum(-1), counts["layouts"])


def closed_spaces_error(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Absolute difference in the number of spaces that walls close in (`wall_holes_error`), a layout."""
    return divide(counts["closed_spaces_error"], counts["layouts"])


def door_gaps_error(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Absolute difference in the number of door gaps, a layout.

    A door gap is an opening of 2 to 16 % of the picture's side along a row or a column, in a wall that goes on along it
    for at least 2.5 % on either side; openings of neighbouring rows or columns are one.  This project's own measure.
    """
    return divide(counts["door_gaps_error"], counts["layouts"])


def doors_kept(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Share of the demanded door gaps (`door_gaps_error`) that a drawn one overlaps, in [0, 1]."""
    return divide(counts["door_gaps_kept"], counts["door_gaps"])
