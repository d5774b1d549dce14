"""The public Python interface: any number of images, one compilation, plain errors."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers import ROOT, TINY, random_layout
from imginav_jax import autoencoder
from imginav_jax.models import architecture, inference, network
from imginav_jax.runs import weights
from imginav_jax.system.errors import UserError


@pytest.fixture
def directory(tmp_path, tiny_params):
    weights.save(tmp_path / "tiny", TINY, tiny_params, {})
    return tmp_path / "tiny"


def test_any_number_of_images_with_one_compilation(directory, tiny_params):
    autoencoder._make_programs.cache_clear()  # models of one architecture share them
    found = autoencoder.load(directory, batch_size=3)
    assert found.config == TINY
    images = np.stack([random_layout(16, seed) for seed in range(7)])
    expected = jax.jit(lambda params, x: network.encode(TINY, params, inference.scale_images(x)))(tiny_params, images)
    for count in (7, 1, 2, 3, 6, 0):
        latents = found.encode(images[:count])
        assert latents.dtype == np.float32
        assert latents.shape == (count, 4, 4, 4)
        np.testing.assert_allclose(latents, expected[:count], rtol=1e-4, atol=1e-5)
        assert found.decode(latents).shape == (count, 16, 16, 3)
    made = found.reconstruct(images)
    np.testing.assert_array_equal(made.images, found.decode(found.encode(images)))
    assert made.images.dtype == made.classes.dtype == np.uint8
    assert made.classes.shape == (7, 16, 16)
    np.testing.assert_allclose(made.room_scene_probabilities.sum(-1), 1, rtol=1e-6)
    assert found._encode._cache_size() == found._decode._cache_size() == 1
    assert found.encode(np.zeros((1, 8, 24, 3), np.uint8)).shape == (1, 2, 6, 4)


def test_wrong_arrays_are_named(directory):
    found = autoencoder.load(directory)
    for images, message in (
        (np.zeros((1, 16, 16, 3)), r"float64 \[1, 16, 16, 3\], expected uint8"),
        (np.zeros((16, 16, 3), np.uint8), "expected uint8 .batch, height, width, 3"),
        (np.zeros((1, 16, 18, 3), np.uint8), "a height and a width that divide by 4"),
        (np.zeros((1, 0, 16, 3), np.uint8), "a height and a width that divide by 4"),
    ):
        with pytest.raises(ValueError, match=message):
            found.encode(images)
    for latents in (np.zeros((1, 4, 4, 5)), np.zeros((4, 4, 4)), np.zeros((1, 4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"expected float \[batch, height, width, 4\]"):
            found.decode(latents)
    with pytest.raises(ValueError, match="batch_size is 0"):
        autoencoder.load(directory, batch_size=0)
    with pytest.raises(UserError, match="nowhere is neither a workdir with a checkpoint nor"):
        autoencoder.load(directory.parent / "nowhere")
    with pytest.raises(UserError, match="has no checkpoint of step 5; there are 0"):
        autoencoder.load(directory, step=5)


def test_missing_heads(tmp_path):
    config = architecture.AutoencoderConfig(4, 16, 2, heads=TINY.heads[2:])
    weights.save(tmp_path / "a", config, jax.jit(lambda key: network.init(config, key))(jax.random.key(0)), {})
    found = autoencoder.load(tmp_path / "a")
    made = found.reconstruct(np.zeros((1, 8, 8, 3), np.uint8))
    assert made.images is None
    assert made.classes is None
    assert made.room_scene_probabilities.shape == (1, 2)
    with pytest.raises(ValueError, match="no RGB head"):
        found.decode(np.zeros((1, 2, 2, 4)))


def test_it_loads_without_tensorflow_and_pytorch(directory):
    program = f"""
import sys
from imginav_jax import autoencoder
autoencoder.load({str(directory)!r})
assert not {{"tensorflow", "torch", "tensorflow_datasets", "grain"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)
