"""Structural counts and metrics: by hand, against independent implementations, and orderings that must hold."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from imginav_jax.datasets import palette
from imginav_jax.models import metrics
from imginav_jax.report.measurement import structure

BED, CABINET, CHAIR, TABLE = (
    palette.CLASS_NAMES.index(name) for name in ("bed", "cabinet_shelf_desk", "chair", "table")
)
WALL, BACKGROUND = structure.WALL, palette.CLASS_NAMES.index("background")
EIGHT = np.ones((3, 3))


def blank(height, width):
    return np.full((height, width), BACKGROUND, np.uint8)


def plan():
    """Three rooms of 4 px walls; doors of 4, 8 and 12 px; a bed that is not small, a table and two chairs that are."""
    classes = blank(100, 100)
    classes[8:92, 8:92] = WALL
    for room in (np.s_[12:48, 12:88], np.s_[52:88, 12:48], np.s_[52:88, 52:88]):
        classes[room] = BACKGROUND
    classes[48:52, 24:28] = classes[48:52, 66:74] = classes[62:74, 48:52] = BACKGROUND
    classes[13:47, 52:86] = BED
    classes[60:70, 60:70] = TABLE
    classes[62:67, 72:78] = classes[20:26, 20:25] = CHAIR
    return classes


def count(true, predicted):
    return structure.count(structure.prepare(true, true), predicted)


def add(*counts):
    return {name: np.sum([each[name] for each in counts], 0) for name in counts[0]}


def random_classes(rng, num_classes, shape=(12, 15)):
    """Blocks of 3x3 with some single pixels off, of few classes so that they touch and recur."""
    choice = rng.permutation(palette.NUM_CLASSES)[:num_classes].astype(np.uint8)
    blocks = np.kron(rng.integers(0, num_classes, (shape[0] // 3, shape[1] // 3)), np.ones((3, 3), int))
    noise = rng.integers(0, num_classes, shape)
    return choice[np.where(rng.random(shape) < 0.1, noise, blocks)]


def some_pair(seed, num_classes):
    rng = np.random.default_rng(seed)
    true = random_classes(rng, num_classes)
    other = random_classes(rng, num_classes)
    return true, np.where(rng.random(true.shape) < 0.7, true, other)


pairs = st.builds(some_pair, st.integers(0, 2**32 - 1), st.integers(1, 4))

RATIOS = {
    "mean_iou": structure.mean_iou,
    "pixel_accuracy": structure.pixel_accuracy,
    **{
        f"{function.__name__}_{pixels}": lambda counts, f=function, p=pixels: f(counts, p)
        for function in (
            structure.boundary_f,
            structure.boundary_precision,
            structure.boundary_recall,
            structure.wall_boundary_f,
        )
        for pixels in structure.TOLERANCES
    },
    "boundary_iou_2": lambda counts: structure.boundary_iou(counts, 2),
    "boundary_iou_4": lambda counts: structure.boundary_iou(counts, 4),
    "wall_skeleton_recall": structure.wall_skeleton_recall,
    "wall_skeleton_precision": structure.wall_skeleton_precision,
    "wall_cldice": structure.wall_cldice,
    "small_object_recall": structure.small_object_recall,
}
ERRORS = {
    "wall_components_error": structure.wall_components_error,
    "wall_holes_error": structure.wall_holes_error,
}


def test_class_map_takes_the_exact_colour_or_the_nearest():
    image = np.array([[palette.COLORS[BED], (230, 30, 30), (221, 220, 219), (219, 220, 220)]], np.uint8)
    labels, nearest = structure.class_map(image)
    assert labels.tolist() == [[BED, structure.UNLABELLED, structure.UNLABELLED, structure.UNLABELLED]]
    assert nearest.tolist() == [[BED, BED, WALL, WALL]]  # (221, 220, 219) is equally far from wall and background


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=8))
def test_class_map_is_a_search_of_the_palette(colors):
    labels, nearest = structure.class_map(np.array([colors], np.uint8))
    for color, label, near in zip(colors, labels[0], nearest[0], strict=True):
        distances = [math.dist(color, each) for each in palette.COLORS.tolist()]
        assert distances[near] == min(distances)
        assert label == (near if min(distances) == 0 else structure.UNLABELLED)


@given(pairs, st.integers(0, 2**32 - 1))
def test_pixel_metrics_leave_out_unlabelled_pixels(pair, seed):
    true, predicted = pair
    labels = np.where(np.random.default_rng(seed).random(true.shape) < 0.2, structure.UNLABELLED, true).astype(np.uint8)
    is_labelled = labels != structure.UNLABELLED
    expected = sklearn.metrics.confusion_matrix(labels[is_labelled], predicted[is_labelled], labels=range(10))
    counts = structure.count(structure.prepare(labels, true), predicted)
    np.testing.assert_array_equal(counts["confusion"], expected)
    np.testing.assert_array_equal(structure.class_iou(counts), metrics.iou_per_class(expected))
    assert structure.mean_iou(counts) == pytest.approx(metrics.mean_iou(expected))
    assert structure.pixel_accuracy(counts) == pytest.approx(metrics.pixel_accuracy(expected))


def test_boundaries_by_hand():
    true, predicted = blank(20, 20), blank(20, 20)
    true[8, 0:20] = WALL  # a line: all 20 px are boundary, and so are the 40 of background beside it
    predicted[10, 0:10] = WALL
    predicted[11, 10:15] = WALL
    counts = count(true, predicted)
    assert counts["boundary_true"][WALL] == 20
    assert counts["boundary_true"][BACKGROUND] == 40
    assert counts["boundary_predicted"][WALL] == 15
    assert counts["boundary_predicted_matched"][:, WALL].tolist() == [0, 10, 15]
    # Of the columns 10 to 14 all are 3 px away; 15 sees (11, 14), 16 also, 17 sees no more: 2² + 3² <= 4² < 3² + 3².
    assert counts["boundary_true_matched"][:, WALL].tolist() == [0, 10, 17]
    assert structure.wall_boundary_f(counts, 2) == pytest.approx(2 * (10 / 15) * (10 / 20) / (10 / 15 + 10 / 20))
    assert structure.wall_boundary_f(counts, 1) == 0
    assert structure.wall_boundary_f(counts, 4) == pytest.approx(2 * 1 * 0.85 / 1.85)


def test_boundary_metrics_are_means_of_the_classes_they_are_defined_for():
    counts = {name: np.zeros(10) for name in ("boundary_true", "boundary_predicted")}
    counts |= {f"{name}_matched": np.zeros((3, 10)) for name in counts}
    counts["boundary_true"][[0, 1]] = 10, 6  # class 1 is never predicted, classes 2 to 9 do not occur
    counts["boundary_true_matched"][0, 0] = 5
    counts["boundary_predicted"][0] = counts["boundary_predicted_matched"][0, 0] = 4
    assert structure.boundary_precision(counts, 1) == 1
    assert structure.boundary_recall(counts, 1) == (0.5 + 0) / 2
    assert structure.boundary_f(counts, 1) == pytest.approx((2 / 3 + 0) / 2)


def boundary_pixels(classes, wanted):
    height, width = classes.shape
    return [
        (y, x)
        for y, x in itertools.product(range(height), range(width))
        if classes[y, x] == wanted
        and any(
            0 <= y + dy < height and 0 <= x + dx < width and classes[y + dy, x + dx] != wanted
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        )
    ]


@settings(max_examples=30)
@given(pairs)
def test_boundaries_like_a_loop_over_pixels(pair):
    true, predicted = pair
    counts = count(true, predicted)
    for each in range(palette.NUM_CLASSES):
        sides = {"true": boundary_pixels(true, each), "predicted": boundary_pixels(predicted, each)}
        for side, other in (("true", "predicted"), ("predicted", "true")):
            assert counts[f"boundary_{side}"][each] == len(sides[side])
            distances = [min((math.dist(a, b) for b in sides[other]), default=math.inf) for a in sides[side]]
            expected = [sum(d <= tolerance for d in distances) for tolerance in (1, 2, 4)]
            assert counts[f"boundary_{side}_matched"][:, each].tolist() == expected


@settings(max_examples=50)
@given(pairs)
def test_boundary_iou_like_the_authors_code(pair):
    """Erosion by 3x3 squares, as often as the distance, of a mask in a frame of zeros."""
    counts = count(*pair)
    for place, distance in enumerate((2, 4)):
        for each in range(palette.NUM_CLASSES):
            first, second = [
                mask & ~ndimage.binary_erosion(mask, EIGHT, distance, border_value=0)
                for mask in (classes == each for classes in pair)
            ]
            assert counts["boundary_intersection"][place, each] == (first & second).sum()
            assert counts["boundary_union"][place, each] == (first | second).sum()


def test_skeletons_by_hand():
    true, predicted = blank(21, 40), blank(21, 40)
    true[10, 5:35] = WALL
    predicted[10, 5:20] = WALL
    predicted[3, 5:10] = WALL
    counts = count(true, predicted)
    assert structure.wall_skeleton_recall(counts) == pytest.approx(15 / 30)
    assert structure.wall_skeleton_precision(counts) == pytest.approx(15 / 20)
    assert structure.wall_cldice(counts) == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    predicted[9:12, 4:36] = WALL  # its centre line lies within the true wall but where it sticks out
    assert structure.wall_skeleton_recall(count(true, predicted)) == 1


def test_walls_that_are_never_predicted():
    counts = count(plan(), blank(100, 100))
    assert structure.wall_skeleton_recall(counts) == structure.wall_cldice(counts) == 0
    assert np.isnan(structure.wall_skeleton_precision(counts))
    assert structure.wall_boundary_f(counts, 4) == structure.boundary_recall(counts, 1) == 0


def test_small_objects_by_hand():
    true = plan()
    counts = count(true, true)
    assert counts["small_objects"][[CHAIR, TABLE, BED]].tolist() == [2, 1, 0]  # 34x34 is not small
    assert counts["small_objects"].sum() == 3
    assert structure.small_object_recall(counts) == 1
    lost = true.copy()
    lost[20:26, 20:25] = BACKGROUND
    assert structure.small_object_recall(count(true, lost)) == pytest.approx(2 / 3)
    recoloured = true.copy()
    recoloured[60:70, 60:70] = CABINET
    assert structure.small_object_recall(count(true, recoloured)) == pytest.approx(2 / 3)
    half = true.copy()
    half[60:65, 60:70] = BACKGROUND
    assert structure.small_object_recall(count(true, half)) == 1  # an IoU of exactly 0.5
    half[65, 60] = BACKGROUND
    assert structure.small_object_recall(count(true, half)) == pytest.approx(2 / 3)


def test_an_object_is_small_below_32_squared():
    for height, expected in ((32, 0), (31, 1)):
        classes = blank(40, 40)
        classes[2 : 2 + height, 2:34] = BED
        assert structure.small_objects(classes).sum() == expected * height * 32


@settings(max_examples=50)
@given(pairs)
def test_small_objects_like_a_loop_over_components(pair):
    true, predicted = pair
    counts = count(true, predicted)
    seen = np.zeros(true.shape, bool)
    for each in range(8):
        sides = [ndimage.label(classes == each, EIGHT) for classes in pair]
        objects, guesses = [[labels == number for number in range(1, n + 1)] for labels, n in sides]
        found = [any((a & b).sum() / (a | b).sum() >= 0.5 for b in guesses) for a in objects]
        assert counts["small_objects"][each] == len(objects)  # the picture is smaller than what is not small
        assert counts["small_objects_found"][each] == sum(found)
        seen |= true == each
    np.testing.assert_array_equal(structure.small_objects(true), seen)


@settings(max_examples=50)
@given(pairs)
def test_topology_by_other_libraries(pair):
    counts = count(*pair)
    components = [ndimage.label(classes == WALL, EIGHT)[1] for classes in pair]
    euler = [measure.euler_number(classes == WALL, connectivity=2) for classes in pair]
    holes = [each - number for each, number in zip(components, euler, strict=True)]
    assert counts["wall_components_error"] == abs(components[0] - components[1])
    assert counts["wall_holes_error"] == abs(holes[0] - holes[1])


def test_a_closed_door_makes_a_hole_and_a_cut_wall_another_wall():
    true = plan()
    # All rooms are joined, so there is one hole; the walls are the outer ones and, between the doors, the inner ones.
    closed = true.copy()
    closed[48:52, 24:28] = WALL
    counts = count(true, closed)
    assert structure.wall_holes_error(counts) == 0  # the lower left room is still open to the right
    assert structure.wall_components_error(counts) == 1
    closed[62:74, 48:52] = WALL
    counts = count(true, closed)
    assert structure.wall_holes_error(counts) == 1
    assert structure.wall_components_error(counts) == 1
    cut = true.copy()
    cut[48:52, 12:14] = cut[48:52, 86:88] = BACKGROUND
    assert structure.wall_holes_error(count(true, cut)) == 0
    assert structure.wall_components_error(count(true, cut)) == 2  # both ends of the middle wall come off
    assert structure.wall_holes_error(add(counts, count(true, true))) == 0.5


def test_thicker_walls_lose_skeleton_precision_as_they_close_doors():
    true = plan()
    precisions = []
    for pixels in (0, 3, 5, 7):
        predicted = true.copy()
        predicted[ndimage.binary_dilation(true == WALL, EIGHT, pixels) if pixels else true == WALL] = WALL
        counts = count(true, predicted)
        precisions.append(float(structure.wall_skeleton_precision(counts)))
        assert structure.wall_skeleton_recall(counts) == 1
    assert precisions[0] == 1
    assert all(thin > thick for thin, thick in itertools.pairwise(precisions))


def test_a_shift_of_three_pixels_ruins_only_the_tight_tolerance():
    true = plan()
    counts = count(true, np.roll(true, (3, 3), (0, 1)))
    tight, loose = structure.boundary_f(counts, 1), structure.boundary_f(counts, 4)
    assert tight < 0.25
    assert loose > 0.95
    assert tight <= structure.boundary_f(counts, 2) <= loose


def test_a_plan_against_itself_is_perfect():
    counts = count(plan(), plan())
    assert {float(compute(counts)) for compute in RATIOS.values()} == {1}
    assert {float(compute(counts)) for compute in ERRORS.values()} == {0}


def test_what_is_not_there_is_undefined():
    counts = count(blank(8, 8), blank(8, 8))
    undefined = {name for name, compute in RATIOS.items() if np.isnan(compute(counts))}
    assert undefined == {*RATIOS} - {"mean_iou", "pixel_accuracy", "boundary_iou_2", "boundary_iou_4"}
    nothing = {name: np.zeros_like(value) for name, value in counts.items()}
    assert all(np.isnan(compute(nothing)) for compute in (RATIOS | ERRORS).values())


@given(pairs)
def test_metrics_are_ratios_and_mirror_when_the_sides_swap(pair):
    counts, swapped = count(*pair), count(*pair[::-1])
    for name, compute in RATIOS.items():
        assert np.isnan(compute(counts)) or 0 <= compute(counts) <= 1, name
    for tolerance in structure.TOLERANCES:
        precision, recall = (
            structure.boundary_precision(counts, tolerance),
            structure.boundary_recall(swapped, tolerance),
        )
        np.testing.assert_array_equal(precision, recall)
        np.testing.assert_array_equal(*(structure.boundary_f(each, tolerance) for each in (counts, swapped)))
    np.testing.assert_array_equal(structure.wall_skeleton_precision(counts), structure.wall_skeleton_recall(swapped))
    for compute in (structure.wall_cldice, structure.mean_iou, *ERRORS.values()):
        np.testing.assert_array_equal(compute(counts), compute(swapped))


@settings(max_examples=30)
@given(pairs, pairs)
def test_summed_counts_are_those_of_pictures_side_by_side(first, second):
    """Far enough apart that nothing of one is near the other; distances to the picture's end and topology differ."""
    framed = [[np.pad(each, 8, constant_values=BACKGROUND) for each in pair] for pair in (first, second)]
    together = count(*(np.hstack(sides) for sides in zip(*framed, strict=True)))
    summed = add(*(count(*pair) for pair in framed))
    furniture = np.s_[..., :WALL]
    for name in ("boundary_intersection", "boundary_union"):
        np.testing.assert_array_equal(together[name][furniture], summed[name][furniture])
    for name in set(summed) - {"layouts", "boundary_intersection", "boundary_union", *ERRORS}:
        np.testing.assert_array_equal(together[name], summed[name], name)
    for compute in (structure.mean_iou, structure.wall_cldice, structure.small_object_recall):
        np.testing.assert_array_equal(compute(together), compute(summed))


def test_metrics_keep_leading_axes():
    true = plan()
    predictions = (true, np.roll(true, 2, 0), np.full_like(true, BACKGROUND), np.roll(true, 5, 1))
    each = [count(true, predicted) for predicted in predictions]
    stacked = {
        name: np.stack([counts[name] for counts in each]).reshape(2, 2, *each[0][name].shape) for name in each[0]
    }
    for compute in (*RATIOS.values(), *ERRORS.values(), structure.class_iou):
        expected = np.stack([compute(counts) for counts in each])
        values = compute(stacked)
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, expected.reshape(2, 2, *expected.shape[1:]))


def test_every_prediction_of_a_layout_is_counted_against_the_same_truth():
    true = plan()
    image = palette.COLORS[true]
    image[0, 0] = (1, 2, 3)
    predictions = {("a", "rgb"): true, ("b", "rgb"): np.roll(true, 1, 0)}
    counted = structure.count_layout(image, predictions)
    assert list(counted) == list(predictions)
    for place, predicted in predictions.items():
        expected = structure.count(structure.prepare(*structure.class_map(image)), predicted)
        for name, value in expected.items():
            assert counted[place][name].dtype == np.float64
            np.testing.assert_array_equal(counted[place][name], value)
    assert counted["a", "rgb"]["confusion"].sum() == true.size - 1
