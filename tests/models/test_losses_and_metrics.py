"""Hand-computed expectations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imginav_jax.devices import target
from imginav_jax.models import losses, metrics


def labels_of(classes, num_classes):
    return jnp.asarray(np.asarray(classes)[..., None] == np.arange(num_classes))


def test_mse_is_one_value_an_image():
    rgb = jnp.stack([jnp.zeros((2, 2, 3)), jnp.ones((2, 2, 3))])
    expected = rgb.at[0, 0, 0, 0].set(1.0).at[1].set(-1.0)
    np.testing.assert_allclose(losses.mse_rgb(rgb, expected), [1 / 12, 4])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_cross_entropy_of_the_segmentation_takes_logits_and_ignores_unlabelled_pixels(platform):
    logits = jnp.log(jnp.array([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]], [[[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]]])) + 5
    labels = labels_of([[[0, 2]], [[1, -1]]], 3)  # -1 is no class
    expected = [-(math.log(0.7) + math.log(0.8)) / 2, -math.log(0.25)]
    with target.compile_for(platform):
        np.testing.assert_allclose(losses.cross_entropy_segmentation(logits, labels), expected, rtol=1e-5)
        assert losses.cross_entropy_segmentation(logits, jnp.zeros_like(labels)).tolist() == [0, 0]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_gradient_of_the_segmentation_is_what_is_expected_less_what_is_there(platform):
    logits = jnp.log(jnp.array([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]]]))
    labels = labels_of([[[0, 1, -1]]], 3)
    with target.compile_for(platform):
        found = jax.grad(lambda each: losses.cross_entropy_segmentation(each, labels).sum())(logits)
    np.testing.assert_allclose(found[0, 0], [[-0.15, 0.1, 0.05], [0.05, -0.45, 0.4], [0, 0, 0]], atol=1e-6)


def test_a_sure_and_right_segmentation_costs_nothing():
    # A softmax before the cross-entropy would keep ten classes at log(1 + 9 / e) = 1.46 or more.
    labels = labels_of(np.arange(10).reshape(1, 2, 5), 10)
    assert losses.cross_entropy_segmentation(100.0 * labels, labels)[0] < 1e-6


def test_cross_entropy_of_the_room_type():
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.4, 0.6]]))
    expected = [-math.log(0.9), -math.log(0.4)]
    np.testing.assert_allclose(losses.cross_entropy_classification(logits, jnp.array([0, 0])), expected, rtol=1e-5)


def test_psnr():
    assert metrics.psnr(4.0) == 0
    assert metrics.psnr(0.04) == pytest.approx(20)
    assert metrics.psnr(0.000838) == pytest.approx(36.788, abs=1e-3)  # the original's R1
    assert metrics.psnr(0) == math.inf


CONFUSION = np.array([[3, 1, 0, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])  # the last class occurs nowhere


def test_iou_and_accuracy_by_hand():
    np.testing.assert_allclose(metrics.iou_per_class(CONFUSION), [3 / 6, 2 / 3, 0, np.nan])
    assert metrics.mean_iou(CONFUSION) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert metrics.pixel_accuracy(CONFUSION) == pytest.approx(5 / 8)
    assert math.isnan(metrics.mean_iou(np.zeros((3, 3), int)))
    assert math.isnan(metrics.pixel_accuracy(np.zeros((3, 3), int)))


@given(st.integers(0, 2**32 - 1))
def test_the_confusion_matrix_counts_like_a_loop(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 4, 5, 4)).astype(np.float32)
    classes = rng.integers(-1, 4, (3, 4, 5))
    mask = rng.random(3) < 0.7
    expected = np.zeros((4, 4), int)
    for image in np.flatnonzero(mask):
        for y in range(4):
            for x in range(5):
                if classes[image, y, x] >= 0:
                    expected[classes[image, y, x], logits[image, y, x].argmax()] += 1
    counted = metrics.confusion_matrix(jnp.asarray(logits), labels_of(classes, 4), jnp.asarray(mask))
    np.testing.assert_array_equal(counted, expected)
