"""Gradients and norms as GPUs get them: the same numbers in another arrangement."""

import jax
import numpy as np
import pytest

from imginav_jax.devices import target
from imginav_jax.training.norms import settle

SHAPES = {"kernel": (3, 3, 32, 40), "odd": (4099,), "bias": (40,), "head": (16, 2), "scalar": ()}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_no_gradient_changes_and_norms_are_roots_of_sums_of_squares(platform):
    random = np.random.default_rng(0)
    grads, params = (
        {name: random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()} for _ in range(2)
    )

    with target.compile_for(platform):
        settled, *norms = jax.jit(settle)(grads, params)

    assert list(settled) == sorted(SHAPES)
    for name, grad in grads.items():
        np.testing.assert_array_equal(settled[name], grad)
    expected = [
        np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in each.values())) for each in (grads, params)
    ]
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
