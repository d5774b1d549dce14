"""The report's pictures of layouts and the looks of its charts, on planted ones."""

import numpy as np
import pytest

from imginav_jax.datasets import palette
from imginav_jax.report.measurement.subjects import PROBE, RGB, SEGMENTATION
from imginav_jax.report.page import figures, names, samples

SIDE, LINE, GAP = 128, 14, 4  # a layout's side, a line of text and the gap between pictures, in pixels
COLORS = dict(zip(palette.CLASS_NAMES, palette.COLORS, strict=True))
RED, BLUE = (204, 0, 0), (0, 70, 255)
WALL = slice(20, 30), slice(70, 72)
CHAIR = slice(100, 106), slice(40, 46)


def planted(*, has_wall=True, has_chair=True):
    image = np.tile(np.uint8(COLORS["background"]), (SIDE, SIDE, 1))
    if has_wall:
        image[WALL] = COLORS["wall"]
    if has_chair:
        image[CHAIR] = COLORS["chair"]
    image[5, 5] = COLORS["sofa"]  # a small object that every run has
    return image


def drawn(*made):
    images = {f"R{number + 1}": {RGB: picture[None]} for number, picture in enumerate(made)}
    return samples.draw_layout(0, samples.Samples([0], ["a"], planted()[None], images))


def cell(picture, row, column):
    top, left = 2 * LINE + row * (SIDE + LINE + GAP), column * (SIDE + GAP)
    return np.asarray(picture)[top : top + SIDE, left : left + SIDE]


def frame(pixels, color):
    """First and last row and column of a colour."""
    rows, columns = np.nonzero((pixels == color).all(-1))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_what_is_missed_is_framed_and_enlarged():
    picture, rows = drawn(planted(has_wall=False, has_chair=False), planted(has_chair=False))
    assert rows[2:] == ["red frame, x8: a wall that is missed", "blue frame, x8: a small object that is missed"]
    for column in range(3):
        for color, place in ((RED, WALL), (BLUE, CHAIR)):
            top, bottom, left, right = frame(cell(picture, 0, column), color)
            assert (bottom - top, right - left) == (17, 17), "a frame around 16 x 16 pixels"
            assert top < place[0].start
            assert place[0].stop <= bottom
            assert left < place[1].start
            assert place[1].stop <= right
    shown = [(cell(picture, 3, column) == COLORS["chair"]).all(-1).sum() for column in range(3)]
    assert shown == [36 * 64, 0, 0], "the whole chair, eight times as large"
    assert (cell(picture, 2, 0) == COLORS["wall"]).all(-1).sum() == 20 * 64


def test_of_what_no_run_misses_there_is_no_crop():
    _, rows = drawn(planted(has_chair=False))
    assert rows[2:] == ["blue frame, x8: a small object that is missed"]


def test_errors_are_on_one_scale_that_does_not_saturate():
    faint, strong = planted(), planted()
    faint[0, 0] = np.int64(COLORS["background"]) - 10
    strong[0, :2] = np.int64(COLORS["background"]) - np.array([[160], [40]])
    picture, rows = drawn(faint, strong)
    assert rows[1] == "error, mean of the channels: black 0, middle gray 40, white 160 of 255"
    assert cell(picture, 1, 1)[0, 0].tolist() == [64] * 3, "255 times the square root of 10 / 160"
    assert cell(picture, 1, 2)[0, :3, 0].tolist() == [255, 128, 0]


def test_every_run_looks_different_and_the_first_in_shape_and_colour():
    styles = [figures.run_style(number) for number in range(56)]
    assert len(set(styles)) == 56
    assert len({each.color for each in styles[:7]}) == len({each.marker for each in styles[:7]}) == 7


@pytest.mark.parametrize(
    ("output", "name"),
    [(RGB, "mIoU"), (SEGMENTATION, "mIoU of the segmentation head"), (PROBE, "mIoU of the linear probe")],
)
def test_the_miou_of_one_output_is_not_called_like_that_of_another(output, name):
    assert names.call("mean_iou", output) == name
    assert names.with_unit("mean_iou", output) == f"{name} ↑"
    assert names.with_unit("psnr") == "PSNR, dB ↑"
