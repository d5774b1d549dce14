"""Pictures that a person asks for: reconstructions, paths between layouts, latents as colours, samples."""

import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from configs.phase1_2 import get_config
from helpers import TINY, complaint, random_layout, run
from imginav_jax import autoencoder, interpolate, latent_colors, reconstruct
from imginav_jax.datasets import palette, pictures
from imginav_jax.examples import latent_diffusion
from imginav_jax.latents.encoding import encode
from imginav_jax.models import architecture, metrics, network
from imginav_jax.runs import trained_run, weights
from imginav_jax.system import ownership
from imginav_jax.system.errors import UserError


@pytest.fixture
def checkpoint(tmp_path, tiny_params):
    weights.save(tmp_path / "tiny", TINY, tiny_params, {})
    return tmp_path / "tiny"


@pytest.fixture
def paths(tmp_path):
    for name, seed in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(random_layout(32, seed)).save(tmp_path / name)
    return [tmp_path / "a.png", tmp_path / "b.png"]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_reconstructions_of_several_checkpoints_stand_side_by_side(checkpoint, paths, tmp_path):
    config = architecture.AutoencoderConfig(4, 16, 2, heads=TINY.heads[:1])
    weights.save(tmp_path / "rgb_only", config, jax.jit(lambda key: network.init(config, key))(jax.random.key(1)), {})
    out = tmp_path / "figures" / "out.png"
    checkpoints = "--checkpoint", checkpoint, tmp_path / "rgb_only"
    result = run("reconstruct", *paths, *checkpoints, "--image_size", 32, "--out", out)
    assert result.returncode == 0, result.stderr
    figure, step = pixels(out), 32 + 4
    assert figure.shape == (5 * 14 + step + 32, 5 * step + 32, 3)
    images = np.stack([random_layout(32, seed) for seed in (0, 1)])
    made = autoencoder.load(checkpoint).reconstruct(images)
    error = (4 * np.abs(images.astype(float) - made.images).mean(-1)).clip(0, 255).astype(np.uint8)
    other = autoencoder.load(tmp_path / "rgb_only").reconstruct(images).images
    columns = images, made.images, palette.COLORS[made.classes], np.stack([error] * 3, -1), other
    for row, top in enumerate((70, 70 + step)):
        for column, expected in enumerate(columns):
            found = figure[top : top + 32, column * step : column * step + 32]
            np.testing.assert_array_equal(found, expected[row])
    psnr = metrics.psnr(float(((made.images[1] / 127.5 - images[1] / 127.5) ** 2).mean()))
    accuracy = (palette.COLORS[made.classes[1]] == images[1]).all(-1).mean()
    assert f"b.png, tiny: {psnr:.2f} dB, pixel accuracy {accuracy:.4f}\n" in result.stdout


def test_a_path_begins_and_ends_at_the_reconstructions(checkpoint, paths, tmp_path):
    images = np.stack([pixels(path) for path in paths])
    found = autoencoder.load(checkpoint)
    made, latents = found.reconstruct(images).images, found.encode(images)
    path = interpolate.interpolate(found, images, np.linspace(0, 1, 5))
    np.testing.assert_array_equal(path[[0, -1]], made)
    np.testing.assert_array_equal(path[2], found.decode(latents.mean(0, keepdims=True))[0])
    arguments = [*paths, "--checkpoint", checkpoint, "--image_size", 32, "--pictures", 3]
    for name in ("strip.png", "path.gif"):
        result = run("interpolate", *arguments, "--out", tmp_path / name)
        assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(pixels(tmp_path / "strip.png")[28:, 36 : 36 + 32], made[0])
    with Image.open(tmp_path / "path.gif") as animation:
        assert (animation.format, animation.n_frames, animation.size) == ("GIF", 4, (32, 32))


def test_latents_as_colors_are_their_principal_components(manifest, checkpoint, tmp_path):
    options = {"manifest": str(manifest), "cache_dir": str(tmp_path / "cache"), "image_size": 32, "dtype": "float32"}
    statistics = encode(checkpoint, tmp_path / "latents", **options)
    assert statistics is not None
    stored = latent_colors.StoredLatents(tmp_path / "latents")
    training = np.stack([stored.read("train", index).latent for index in range(8)])
    colors = latent_colors.color_latents(training, statistics) / 127.5 - 1
    cells = training.reshape(-1, 4).astype(np.float64)
    left, values, _ = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
    expected = (left * np.sqrt(len(cells)) / latent_colors._DEVIATIONS)[:, :3].clip(-1, 1)
    assert values[0] > values[2]
    signs = np.sign((expected * colors.reshape(-1, 3)).sum(0))
    np.testing.assert_allclose(colors.reshape(-1, 3), signs * expected, atol=0.005)
    result = run("latent_colors", tmp_path / "latents", "--out", tmp_path / "colors.png", "--count", 1)
    assert result.returncode == 0, result.stderr
    assert pixels(tmp_path / "colors.png").shape == (28 + 32, 68, 3)


def test_an_image_of_another_size_or_mode_is_one_line(checkpoint, paths, tmp_path):
    Image.fromarray(random_layout(32)[:, :, 0]).save(tmp_path / "gray.png")
    (tmp_path / "damaged.png").write_bytes(paths[0].read_bytes()[:-40])
    for name, message in (
        ("gray.png", "gray.png is a PNG with 8-bit gray pixels, expected 8-bit RGB"),
        ("damaged.png", "damaged.png is truncated or damaged"),
        ("nowhere.png", "nowhere.png does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            pictures.read_images([tmp_path / name], 32)
    out = "--out", tmp_path / "out.png"
    line = complaint(run("reconstruct", paths[0], "--checkpoint", checkpoint, *out))
    assert "a.png is 32x32, expected 512x512" in line
    line = complaint(run("interpolate", *paths, "--checkpoint", checkpoint, "--out", tmp_path / "out.jpg"))
    assert "out.jpg, expected a name that ends in .png or .gif" in line
    # What stands beside the weights of a run says what they were trained on.
    weights.save(tmp_path / "run", TINY, weights.load(checkpoint).params, {})
    config = get_config("R1,quick")
    (tmp_path / "run" / "a_experiment.json").write_text(json.dumps({"config": config.to_dict(), "data": {}}))
    directories = checkpoint, tmp_path / "run"
    with pytest.raises(UserError, match=r"images of different sizes .*tiny 512, .*run 128"):
        reconstruct.common_image_size([trained_run.load(directory) for directory in directories])
    assert reconstruct.common_image_size([trained_run.load(directory, 64) for directory in directories]) == 64
    assert not (tmp_path / "out.png").exists()


def test_palette_share_counts_whole_pixels():
    image = np.array([[[228, 26, 28], [236, 18, 28], [237, 26, 28], [200, 200, 209]]], np.uint8)
    assert latent_diffusion.palette_share(image[None]) == 0.5


@pytest.mark.slow
def test_the_example_learns_and_draws(manifest, checkpoint, tmp_path):
    options = {"manifest": str(manifest), "cache_dir": str(tmp_path / "cache"), "image_size": 32}
    encode(checkpoint, tmp_path / "latents", **options)
    arguments = tmp_path / "latents", "--out", tmp_path / "samples.png", "--steps", 10, "--count", 2
    result = run("examples.latent_diffusion", *arguments)
    assert result.returncode == 0, result.stderr
    assert "within 8 of a palette colour" in result.stdout
    assert pixels(tmp_path / "samples.png").shape[1] == 32 + 2 * 36
    encode(checkpoint, tmp_path / "npy", format="npy", **options)
    with ownership.own_output(tmp_path / "samples.png", "it"):
        line = complaint(run("examples.latent_diffusion", tmp_path / "npy", "--out", tmp_path / "samples.png"))
    assert line.startswith(f"error: --out {tmp_path / 'samples.png'} is in use by process {os.getpid()} on ")
    line = complaint(run("examples.latent_diffusion", tmp_path / "npy", "--out", tmp_path / "samples.png"))
    assert "encode with --format array_record" in line
