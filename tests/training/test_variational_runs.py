"""Runs of a variational autoencoder: what they leave, how they go on, and what does not go together."""

import csv
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import FAST, TINY, random_batch, tiny_config, train_until
from imginav_jax import autoencoder
from imginav_jax.models import inference, network
from imginav_jax.models.losses import LossWeights
from imginav_jax.models.posterior import kl_divergence
from imginav_jax.runs import weights
from imginav_jax.system.errors import UserError
from imginav_jax.training import screen, steps, train
from imginav_jax.training.state import create_state, make_optimizer

NAME = "phase1_2_AE_R1_ds1_quick"
SMALL = {"model.downsampling_steps": 1, "num_epochs": 2}  # quick to compile
VARIATIONAL = {"model.variational": True, "loss.kl": 1e-3}
TINY_VARIATIONAL = TINY.__class__(**{**TINY.__dict__, "variational": True})


def rows_of(workdir):
    with (workdir / f"{NAME}_metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def config_of(folder, **overrides):
    return tiny_config(folder, **{**SMALL, **VARIATIONAL, **overrides})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run's folder and workdir, and those of a deterministic one."""
    folder = tmp_path_factory.mktemp("variational")
    train.train(config_of(folder), str(folder / "work"))
    plain = folder / "plain"
    train.train(tiny_config(plain, **{**SMALL, "data.cache_dir": str(folder / "cache")}), str(plain / "work"))
    return folder, folder / "work", plain / "work"


def test_the_divergence_stands_behind_the_originals_columns(finished):
    folder, work, plain = finished
    rows = rows_of(work)
    columns = list(rows[0])
    assert columns[9:12] == ["train_KLD", "val_KLD", "val_active_channels"]
    assert not {*columns[9:12]} & {*rows_of(plain)[0]}
    for row in rows:
        for split in ("train", "val"):
            terms = ("MSE_rgb", "CE_segmentation", "CE_classification", "KLD")
            total = sum(float(row[f"{split}_{term}"]) for term in terms)
            assert total == pytest.approx(float(row[f"{split}_loss"]), rel=1e-5)
    assert (folder / "phase" / f"{NAME}_metrics.csv").read_bytes() == (work / f"{NAME}_metrics.csv").read_bytes()


def test_the_last_row_is_what_the_kept_weights_say_of_the_validation_split(finished):
    _, work, _ = finished
    loaded = weights.load(work, step=int(rows_of(work)[-1]["step"]))
    config, data = loaded.config, json.loads((work / f"{NAME}_experiment.json").read_text())
    from imginav_jax.datasets import preparation
    from imginav_jax.input_pipeline.source import LayoutSource

    directory = preparation.prepared_directory(work.parent / "cache", data["data"]["key"])
    source = LayoutSource(directory, preparation.VALIDATION)
    images = source.images(range(len(source)))
    posterior = network.posterior(config, loaded.params, inference.scale_images(jnp.asarray(images)))
    by_channel = np.asarray(kl_divergence(posterior)).mean(0)
    row = rows_of(work)[-1]
    assert float(row["val_KLD"]) == pytest.approx(1e-3 * by_channel.mean(), rel=1e-4)
    assert int(float(row["val_active_channels"])) == (by_channel > 0.01).sum()


def test_the_python_interface_takes_the_mean(finished):
    _, work, _ = finished
    model, loaded = autoencoder.load(work), weights.load(work)
    images = np.asarray(random_batch(2, 32).image)
    posterior = network.posterior(loaded.config, loaded.params, inference.scale_images(jnp.asarray(images)))
    np.testing.assert_allclose(model.encode(images), posterior.mean, atol=1e-5)
    np.testing.assert_array_equal(model.encode(images), model.encode(images))


def test_cut_off_within_an_epoch_it_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    folder, work, _ = finished
    config = config_of(tmp_path, **{"data.cache_dir": str(folder / "cache")})
    train_until(4, config, tmp_path / "work", monkeypatch)
    train.train(config, str(tmp_path / "work"))
    first, second = weights.load(work), weights.load(tmp_path / "work")
    assert weights.digest(first) == weights.digest(second)
    timed = {"images_per_second", "epoch_seconds"}
    for there, here in zip(rows_of(work), rows_of(tmp_path / "work"), strict=True):
        assert {**here, **{key: there[key] for key in timed}} == there


def test_parts_of_a_batch_draw_the_same_latents_as_the_whole():
    optimizer = make_optimizer(1e-3, 0.01)
    state = create_state(jax.random.key(0), TINY_VARIATIONAL, optimizer)
    batch, found = random_batch(4), []
    for parts in (1, 2):
        step = functools.partial(steps.train_step, config=TINY_VARIATIONAL, weights=LossWeights(kl=1.0), seed=3)
        step = functools.partial(step, optimizer=optimizer, accumulate_steps=parts)
        _, metrics = jax.jit(step, compiler_options=FAST)(state, batch)
        found.append((metrics.loss, metrics.kld, metrics.grad_norm))
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_noise_follows_from_the_seed_and_the_step():
    draws = [steps.draw_noise(TINY, (2, 16, 16, 3), seed, jnp.int32(step)) for seed, step in ((1, 5), (1, 6), (2, 5))]
    assert draws[0].shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(draws[0], steps.draw_noise(TINY, (2, 16, 16, 3), 1, jnp.int32(5)))
    assert all(np.abs(draws[0] - other).min() > 0 for other in draws[1:])


def test_deterministic_weights_become_the_mean_with_the_log_variance_that_was_named(finished, tmp_path):
    folder, _, plain = finished
    config = config_of(tmp_path, **{"data.cache_dir": str(folder / "cache")})
    config.update(num_epochs=0, init_from=str(plain), init_log_variance=-6.0)
    train.train(config, str(tmp_path / "work"))
    given, images = weights.load(plain), jnp.asarray(random_batch(2, 32).image)
    made = weights.load(tmp_path / "work")
    before, after = (
        network.posterior(each.config, each.params, inference.scale_images(images)) for each in (given, made)
    )
    np.testing.assert_allclose(after.mean, before.mean, atol=1e-6)
    np.testing.assert_array_equal(after.log_variance, np.full(after.mean.shape, -6.0))


def test_what_does_not_go_together_is_named_with_both_values(finished, tmp_path):
    folder, work, plain = finished
    given = weights.load(plain)
    cases = [
        ({"model.variational": False}, "config.loss.kl is 0.001, expected 0 for config.model.variational False"),
        ({"loss.kl": 0.0}, "config.loss.kl is 0.0, expected above 0, .* for config.model.variational True"),
        ({"init_log_variance": -6.0}, "config.init_log_variance is -6.0, expected a config.init_from with it"),
        ({"init_sha256": "a"}, "config.init_sha256 is a, expected a config.init_from with it"),
        ({"init_from": str(plain), "init_sha256": ""}, "config.init_sha256 is , expected 64 hexadecimal digits"),
        ({"init_from": str(plain), "init_step": -3}, "config.init_step is -3, expected 0 or more"),
        ({"init_from": str(plain)}, "has variational False, but config.model.variational is True"),
        (
            {"init_from": str(plain), "model.variational": False, "loss.kl": 0.0, "init_log_variance": -6.0},
            "config.init_log_variance is -6.0, expected a number, for config.model.variational True; it is False",
        ),
        (
            {"init_from": str(plain), "init_sha256": "0" * 64},
            f"config.init_sha256 is {'0' * 64}, but the weights of step {given.step} in config.init_from .* have "
            f"{weights.digest(given)}",
        ),
        (
            {"init_from": str(work), "init_log_variance": -6.0},
            "config.init_log_variance is -6.0, but config.init_from .*work has its own",
        ),
        ({"init_from": str(plain), "init_step": 5}, "config.init_from: .* has no checkpoint of step 5; there are "),
        ({"init_from": str(folder / "gone")}, "config.init_from: .*gone is neither a workdir with a checkpoint"),
        (
            {"init_from": str(work), "model.variational": False, "loss.kl": 0.0},
            "has variational True, but config.model.variational is False",
        ),
    ]
    for overrides, message in cases:
        config = config_of(tmp_path, **{"data.cache_dir": str(folder / "cache"), **overrides})
        with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
            train.train(config, str(tmp_path / "work"))
    assert not list(tmp_path.iterdir())


def test_neither_kind_continues_the_other(finished):
    folder, work, _ = finished
    config = tiny_config(folder, **SMALL)
    expected = r"holds another experiment \(loss.kl 0.001 there, 0.0 here; model.variational True there, False here\)"
    with pytest.raises(UserError, match=expected):
        train.train(config, str(work))


def test_a_collapse_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "imginav_jax"):
        screen.warn_of_collapse({"epoch": 3, "val_active_channels": 8.0}, 16)
        screen.warn_of_collapse({"epoch": 3}, 16)
        assert not caplog.records
        screen.warn_of_collapse({"epoch": 3, "val_active_channels": 0.0}, 16)
    assert "The posterior has collapsed, epoch 3: 0 of 16 channels of the latent have a KL" in caplog.text
