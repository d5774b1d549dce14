"""How well a predicted class map keeps the structure of the true one: counts an image, and metrics of their sums.

Counts of several images add up, and every metric is a function of summed counts, so that a confidence interval
needs no second look at the images.  The counts may have any leading axes (resamples, runs), which the metrics keep.
A metric is NaN where it is undefined.  Everything runs on the host, in processes that need not import JAX.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from skimage import measure, morphology

from imginav_jax.datasets import palette
from imginav_jax.report.measurement.counts import Counts, divide

UNLABELLED = 255  # a pixel of no class
WALL = palette.CLASS_NAMES.index("wall")
IS_FURNITURE = np.array([name not in ("wall", "background") for name in palette.CLASS_NAMES])
TOLERANCES = (1, 2, 4)  # px, of the boundary F-measure
DISTANCES = (2, 4)  # px, of boundary IoU
SMALL_AREA = 32**2  # px; COCO's small objects have less
FOUND_IOU = 0.5


def class_map(image: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """The class of every pixel, UNLABELLED off the palette; and the same with the class of the nearest colour there."""
    one_hot = palette.one_hot(image)
    nearest = one_hot.argmax(-1).astype(np.uint8)
    off = ~one_hot.any(-1)
    difference = image[off].astype(np.int32)[:, None, :] - palette.COLORS.astype(np.int32)
    nearest[off] = np.square(difference).sum(-1).argmin(-1)
    return np.where(off, np.uint8(UNLABELLED), nearest), nearest


class Shapes(NamedTuple):
    """What the structural counts need to know of one class map."""

    classes: UInt8[np.ndarray, "h w"]
    boundary: UInt8[np.ndarray, "h w"]  # the class at boundary pixels, else UNLABELLED
    bands: UInt8[np.ndarray, "distances h w"]  # the class within DISTANCES of its contour, else UNLABELLED
    wall_skeleton: Bool[np.ndarray, "h w"]
    wall_components: int
    wall_holes: int
    objects: Int[np.ndarray, "h w"]  # the number of the furniture component, 0 for none
    object_areas: Int[np.ndarray, " objects+1"]  # px, by number


class Truth(NamedTuple):
    """What every prediction of one image is compared with."""

    labels: UInt8[np.ndarray, "h w"]
    shapes: Shapes


def prepare(labels: UInt8[np.ndarray, "h w"], nearest: UInt8[np.ndarray, "h w"]) -> Truth:
    """Of the two maps of `class_map`: pixel counts ignore UNLABELLED pixels, structural ones take the nearest class."""
    return Truth(labels, _describe(nearest))


def count(truth: Truth, predicted: UInt8[np.ndarray, "h w"]) -> dict[str, Float[np.ndarray, "..."]]:
    """The counts of one predicted class map, in which every pixel has a class; they add up over images.

    `layouts` [] is 1; `confusion` [true, predicted] counts pixels; the others are named and explained where a metric
    uses them, with one value a class (and before it one a tolerance or distance in px) or a scalar.
    """
    true, guess = truth.shapes, _describe(predicted)
    counts = {
        "layouts": 1,
        "confusion": _confusion(truth.labels, predicted),
        **_count_boundaries(true.boundary, guess.boundary),
        **_count_bands(true.bands, guess.bands),
        "wall_skeleton_true": true.wall_skeleton.sum(),
        "wall_skeleton_true_covered": (true.wall_skeleton & (predicted == WALL)).sum(),
        "wall_skeleton_predicted": guess.wall_skeleton.sum(),
        "wall_skeleton_predicted_covered": (guess.wall_skeleton & (true.classes == WALL)).sum(),
        "wall_components_error": abs(guess.wall_components - true.wall_components),
        "wall_holes_error": abs(guess.wall_holes - true.wall_holes),
        **_count_small_objects(true, guess),
    }
    return {name: np.asarray(value, np.float64) for name, value in counts.items()}


def count_layout(
    image: UInt8[np.ndarray, "h w 3"], predictions: Mapping[str, UInt8[np.ndarray, "h w"]]
) -> dict[str, dict[str, Float[np.ndarray, "..."]]]:
    """`count` of every predicted class map of one image."""
    truth = prepare(*class_map(image))
    return {place: count(truth, predicted) for place, predicted in predictions.items()}


def small_objects(classes: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of the furniture components that `small_object_recall` looks for."""
    objects = label_objects(classes)
    return _is_small(np.bincount(objects.ravel()))[objects]


def _describe(classes: UInt8[np.ndarray, "h w"]) -> Shapes:
    wall = classes == WALL
    objects = label_objects(classes)
    return Shapes(
        classes=classes,
        boundary=_boundary(classes),
        bands=np.stack([_band(classes, distance) for distance in DISTANCES]),
        wall_skeleton=morphology.skeletonize(wall),
        wall_components=label(wall, 2).max(),
        wall_holes=count_closed_spaces(wall),
        objects=objects,
        object_areas=np.bincount(objects.ravel()),
    )


def count_closed_spaces(wall: Bool[np.ndarray, "h w"]) -> int:
    """The number of 4-connected components of what is not wall that do not touch the outside."""
    return int(label(~np.pad(wall, 1), 1).max()) - 1  # the padding joins all that touches the outside


def label_objects(classes: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Numbers the 8-connected components of furniture of one class from 1; 0 elsewhere."""
    return label(np.where(IS_FURNITURE[classes], classes + 1, 0), 2)


def label(values: Shaped[np.ndarray, "h w"], connectivity: int) -> Int[np.ndarray, "h w"]:
    """Numbers the components of equal values other than 0; of 4-connected pixels (1) or 8-connected ones (2)."""
    return np.asarray(measure.label(values, background=0, connectivity=connectivity))


def _is_small(areas: Int[np.ndarray, " objects+1"]) -> Bool[np.ndarray, " objects+1"]:
    """By number; 0 is no object."""
    return (areas < SMALL_AREA) & (np.arange(len(areas)) > 0)


def _boundary(classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Pixels with one of their 4 neighbours in another class; where the image ends there is no boundary."""
    on_boundary = np.zeros(classes.shape, bool)
    vertical, horizontal = classes[1:] != classes[:-1], classes[:, 1:] != classes[:, :-1]
    for side in (on_boundary[1:], on_boundary[:-1]):
        side |= vertical
    for side in (on_boundary[:, 1:], on_boundary[:, :-1]):
        side |= horizontal
    return np.where(on_boundary, classes, np.uint8(UNLABELLED))


def _band(classes: UInt8[np.ndarray, "h w"], distance: int) -> UInt8[np.ndarray, "h w"]:
    """Pixels that erosion by a square of 2 distance + 1 px takes from their class; outside the image is no class."""
    size = 2 * distance + 1
    low = high = np.pad(classes, distance, constant_values=UNLABELLED)
    for axis in (0, 1):
        low = functools.reduce(np.minimum, _windows(low, size, axis))
        high = functools.reduce(np.maximum, _windows(high, size, axis))
    return np.where(low == high, np.uint8(UNLABELLED), classes)


def _windows(values: UInt8[np.ndarray, "rows columns"], size: int, axis: int) -> list[np.ndarray]:
    """`values` shifted by 0 to size - 1 along the axis, as far as all of them reach."""
    windows = np.lib.stride_tricks.sliding_window_view(values, size, axis)
    return [windows[..., shift] for shift in range(size)]


def _confusion(labels: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "10 10"]:
    is_labelled = labels != UNLABELLED
    pairs = labels[is_labelled] * palette.NUM_CLASSES + predicted[is_labelled]
    return np.bincount(pairs, minlength=palette.NUM_CLASSES**2).reshape(palette.NUM_CLASSES, palette.NUM_CLASSES)


def _per_class(classes: UInt8[np.ndarray, "*shape"]) -> Int[np.ndarray, " classes"]:
    """Pixels of every class; those of none count nowhere."""
    return np.bincount(classes[classes != UNLABELLED], minlength=palette.NUM_CLASSES)


def _count_boundaries(
    true: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"]
) -> dict[str, Int[np.ndarray, "..."]]:
    return {
        "boundary_true": _per_class(true),
        "boundary_true_matched": _matched(true, predicted),
        "boundary_predicted": _per_class(predicted),
        "boundary_predicted_matched": _matched(predicted, true),
    }


def _rings() -> list[list[tuple[int, int]]]:
    """Offsets (dy, dx) within each tolerance and beyond the one before."""
    reach = range(-TOLERANCES[-1], TOLERANCES[-1] + 1)
    return [
        [(dy, dx) for dy in reach for dx in reach if inner < dy**2 + dx**2 <= outer**2]
        for inner, outer in zip((-1, *(each**2 for each in TOLERANCES[:-1])), TOLERANCES, strict=True)
    ]


RINGS = _rings()


def _matched(boundary: UInt8[np.ndarray, "h w"], other: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "tolerances 10"]:
    """Boundary pixels with one of the other boundary and the same class within each tolerance (Euclid)."""
    margin, (h, w) = TOLERANCES[-1], boundary.shape
    padded = np.pad(other, margin, constant_values=UNLABELLED)
    is_matched = np.zeros(boundary.shape, bool)
    matched = []
    for ring in RINGS:
        for dy, dx in ring:
            is_matched |= boundary == padded[margin + dy : margin + dy + h, margin + dx : margin + dx + w]
        matched.append(_per_class(boundary[is_matched]))
    return np.stack(matched)


def _count_bands(
    true: UInt8[np.ndarray, "distances h w"], predicted: UInt8[np.ndarray, "distances h w"]
) -> dict[str, Int[np.ndarray, "distances 10"]]:
    pairs = list(zip(true, predicted, strict=True))
    intersection = np.stack([_per_class(first[first == second]) for first, second in pairs])
    both = np.stack([_per_class(first) + _per_class(second) for first, second in pairs])
    return {"boundary_intersection": intersection, "boundary_union": both - intersection}


def _count_small_objects(true: Shapes, predicted: Shapes) -> dict[str, Int[np.ndarray, " classes"]]:
    is_small = _is_small(true.object_areas)
    number_class = np.zeros(len(is_small), np.uint8)
    number_class[true.objects] = true.classes
    is_shared = (true.objects > 0) & (predicted.objects > 0) & (true.classes == predicted.classes)
    columns = len(predicted.object_areas)
    pairs, overlap = np.unique(true.objects[is_shared] * columns + predicted.objects[is_shared], return_counts=True)
    first, second = np.divmod(pairs, columns)
    union = true.object_areas[first] + predicted.object_areas[second] - overlap
    is_found = np.zeros(len(is_small), bool)
    is_found[first[overlap >= FOUND_IOU * union]] = True
    return {
        "small_objects": _per_class(number_class[is_small]),
        "small_objects_found": _per_class(number_class[is_small & is_found]),
    }


def _mean_where_defined(values: Float[np.ndarray, "*batch classes"]) -> Float[np.ndarray, "*batch"]:
    is_defined = ~np.isnan(values)
    return divide(np.where(is_defined, values, 0).sum(-1), is_defined.sum(-1))


def f_measure(
    precision: Float[np.ndarray, "*shape"], recall: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """The harmonic mean; 0 where only one of the two is undefined, for there is nothing to match."""
    p, r = np.nan_to_num(precision), np.nan_to_num(recall)
    f = np.nan_to_num(divide(2 * p * r, p + r))
    return np.where(np.isnan(precision) & np.isnan(recall), np.nan, f)


def class_iou(counts: Counts) -> Float[np.ndarray, "*batch classes"]:
    """Intersection over union (Jaccard index) of the pixels of each class, in [0, 1], over all pictures together.

    As in PASCAL VOC (Everingham et al. 2010, IJCV 88(2)); pixels whose true colour is off the palette are ignored.
    """
    confusion = counts["confusion"]
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1)
    return divide(intersection, confusion.sum(-1) + confusion.sum(-2) - intersection)


def mean_iou(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Mean of the classes' intersection over union, in [0, 1], over the classes that are present or predicted."""
    return _mean_where_defined(class_iou(counts))


def pixel_accuracy(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Share of the labelled pixels whose class is predicted right, in [0, 1]."""
    confusion = counts["confusion"]
    return divide(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def _class_boundary_share(counts: Counts, side: str, tolerance: int) -> Float[np.ndarray, "*batch classes"]:
    matched = counts[f"boundary_{side}_matched"][..., TOLERANCES.index(tolerance), :]
    return divide(matched, counts[f"boundary_{side}"])


def _class_boundary_f(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch classes"]:
    precision = _class_boundary_share(counts, "predicted", tolerance)
    return f_measure(precision, _class_boundary_share(counts, "true", tolerance))


def boundary_precision(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Share of a class's predicted boundary pixels within the tolerance (px, Euclid) of a true one of the same class.

    In [0, 1]; of all pictures together, then the mean over the classes whose boundary is predicted somewhere.  A
    boundary pixel has one of its 4 neighbours in another class.  The tolerance is Martin et al.'s (2004, PAMI 26(5));
    one pixel may match several, as in Csurka et al. (2013, BMVC).
    """
    return _mean_where_defined(_class_boundary_share(counts, "predicted", tolerance))


def boundary_recall(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Share of a class's true boundary pixels within the tolerance (px, Euclid) of a predicted one of the same class.

    In [0, 1]; of all pictures together, then the mean over the classes that have a true boundary somewhere.
    """
    return _mean_where_defined(_class_boundary_share(counts, "true", tolerance))


def boundary_f(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Boundary F-measure: harmonic mean of a class's boundary precision and recall at the tolerance (px).

    In [0, 1]; of all pictures together, then the mean over the classes with a true or predicted boundary (Csurka et
    al. 2013, BMVC, "What is a good evaluation measure for semantic segmentation?").
    """
    return _mean_where_defined(_class_boundary_f(counts, tolerance))


def wall_boundary_f(counts: Counts, tolerance: int) -> Float[np.ndarray, "*batch"]:
    """Boundary F-measure of the walls alone, in [0, 1], at the tolerance (px)."""
    return _class_boundary_f(counts, tolerance)[..., WALL]


def boundary_iou(counts: Counts, distance: int) -> Float[np.ndarray, "*batch"]:
    """Boundary IoU: intersection over union of the pixels of a class within the distance (px) of their own contour.

    In [0, 1]; of all pictures together, then the mean over the classes that are present or predicted.  Cheng et al.
    2021, CVPR, arXiv:2103.16562; as in the authors' code, the distance is the larger of the two coordinates' and the
    end of the image is a contour.
    """
    place = DISTANCES.index(distance)
    return _mean_where_defined(
        divide(counts["boundary_intersection"][..., place, :], counts["boundary_union"][..., place, :])
    )


def wall_skeleton_recall(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Share of the true walls' skeleton that predicted wall covers, in [0, 1]: topology sensitivity of clDice."""
    return divide(counts["wall_skeleton_true_covered"], counts["wall_skeleton_true"])


def wall_skeleton_precision(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Share of the predicted walls' skeleton that lies in true wall, in [0, 1]: topology precision of clDice."""
    return divide(counts["wall_skeleton_predicted_covered"], counts["wall_skeleton_predicted"])


def wall_cldice(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Centreline Dice of the walls: harmonic mean of skeleton precision and recall over all pictures, in [0, 1].

    Shit et al. 2021, CVPR, arXiv:2003.07311; skeletons by thinning (Zhang and Suen 1984).
    """
    return f_measure(wall_skeleton_precision(counts), wall_skeleton_recall(counts))


def small_object_recall(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Share of the small pieces of furniture that are found, in [0, 1], all classes together.

    A piece is an 8-connected component of a class other than wall and background; small is less than 32² px (COCO's
    definition, Lin et al. 2014); found is an intersection over union of at least 0.5 with a predicted component of
    the same class.
    """
    return divide(counts["small_objects_found"].sum(-1), counts["small_objects"].sum(-1))


def wall_components_error(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Absolute difference in the number of separate walls (8-connected), mean of the layouts.

    The error in Betti number 0, after Hu et al. 2019 (NeurIPS, arXiv:1906.05404), of the whole picture.
    """
    return divide(counts["wall_components_error"], counts["layouts"])


def wall_holes_error(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Absolute difference in the number of spaces that walls close in, mean of the layouts.

    Such a space is a 4-connected component of what is not wall that does not touch the outside: the error in Betti
    number 1, after Hu et al. 2019 (NeurIPS, arXiv:1906.05404), of the whole picture.
    """
    return divide(counts["wall_holes_error"], counts["layouts"])
