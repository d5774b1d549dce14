"""Runs that start from given weights: evaluated before the first step, then trained; never mixed with other runs."""

import json

import numpy as np
import pytest
import torch

from helpers import NAME, rows_of, tiny_config
from imginav_jax import autoencoder
from imginav_jax.datasets import preparation
from imginav_jax.export_torch import export_checkpoint
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.pytorch.twin import HEADS, Twin, to_torch
from imginav_jax.runs import experiment
from imginav_jax.system.errors import UserError
from imginav_jax.training import train


def import_twin(folder, seed=0, **keywords):
    torch.manual_seed(seed)
    twin = Twin(**{"latent": 16, "base": 16, "steps": 3, **keywords})
    torch.save(twin.checkpoint(), folder / f"twin{seed}.pt")
    import_checkpoint(folder / f"twin{seed}.pt", folder / f"given{seed}")
    return twin, str(folder / f"given{seed}")


@torch.no_grad()
def validation_mse(twin, config):
    exp = experiment.from_config(config)
    source = LayoutSource(preparation.prepare(exp.data, exp.cache_dir).directory, preparation.VALIDATION)
    images = [to_torch(batch.image) for batch in pipeline.eval_dataset(source, 1)]
    return np.mean([(twin(image)["rgb"] - image).square().mean().item() for image in images])


def test_no_epochs_evaluate_the_given_weights(tmp_path, caplog):
    twin, given = import_twin(tmp_path)
    config = tiny_config(tmp_path, init_from=given, num_epochs=0)
    work = tmp_path / "work"
    with caplog.at_level("INFO", "imginav_jax"):
        train.train(config, str(work))
    assert "Given weights: validation" in caplog.text
    (row,) = rows_of(work)
    assert (row["epoch"], row["step"], row["train_loss"]) == ("0", "0", "nan")
    assert float(row["val_MSE_rgb"]) == pytest.approx(validation_mse(twin, config), rel=1e-5)
    assert (tmp_path / "phase" / "samples" / f"{NAME}_best_comparison.png").exists()
    assert json.loads((work / f"{NAME}_summary.json").read_text())["best_epoch"]["epoch"] == 0
    export_checkpoint(work, tmp_path / "out.pt")
    state = torch.load(tmp_path / "out.pt", weights_only=True)["state_dict"]
    for name, tensor in twin.state_dict().items():
        assert torch.equal(state[name], tensor), name
    with caplog.at_level("INFO", "imginav_jax"):
        train.train(config, str(work))
    assert "has finished already: 0 epochs" in caplog.text


def test_training_goes_on_from_them_and_other_weights_are_refused(tmp_path):
    _, given = import_twin(tmp_path)
    config = tiny_config(tmp_path, init_from=given, num_epochs=1)
    train.train(config, str(tmp_path / "work"))
    before, after = rows_of(tmp_path / "work")
    assert float(after["val_loss"]) < float(before["val_loss"])
    found = autoencoder.load(tmp_path / "work")
    assert found.config.downsampling_steps == 3
    _, other = import_twin(tmp_path, seed=1)
    config.init_from = other
    with pytest.raises(UserError, match=r"holds another experiment .init_from [0-9a-f]{64} there, [0-9a-f]{64} here"):
        train.train(config, str(tmp_path / "work"))
    config.init_from = str(tmp_path / "work")  # the best weights of a run
    config.phase_dir, config.num_epochs = str(tmp_path / "phase2"), 0
    train.train(config, str(tmp_path / "work2"))
    (row,) = rows_of(tmp_path / "work2")
    assert row["val_loss"] == after["val_loss"]


def test_weights_without_the_heads_of_classes_train_on_colours_alone(tmp_path):
    twin, given = import_twin(tmp_path, heads=HEADS[:1], activation="ReLU", groups=4)
    config = tiny_config(tmp_path, init_from=given, num_epochs=1)
    train.train(config, str(tmp_path / "work"))
    before, after = rows_of(tmp_path / "work")
    assert float(before["val_MSE_rgb"]) == pytest.approx(validation_mse(twin, config), rel=1e-5)
    assert float(after["val_MSE_rgb"]) < float(before["val_MSE_rgb"])
    assert float(after["val_CE_segmentation"]) == float(after["train_CE_classification"]) == 0
    assert after["val_mIoU"] == after["val_room_scene_accuracy"] == "nan"
    assert not list((tmp_path / "work" / "samples").glob("*segmentation*"))
    assert autoencoder.load(tmp_path / "work").config.activation == "ReLU"


def test_weights_that_do_not_fit_are_named_and_nothing_is_written(tmp_path):
    def complaint(**overrides):
        with pytest.raises(UserError) as raised:
            train.train(tiny_config(tmp_path, num_epochs=0, **overrides), str(tmp_path / "work"))
        assert not (tmp_path / "work").exists()
        assert not (tmp_path / "phase").exists()
        return str(raised.value)

    assert "config.num_epochs is 0, expected 1 or more" in complaint()
    assert "nowhere is neither a workdir with a checkpoint nor" in complaint(init_from=str(tmp_path / "nowhere"))
    _, given = import_twin(tmp_path, latent=8)
    assert "has latent_channels 8, but config.model.latent_channels is 16" in complaint(init_from=given)
    _, given = import_twin(tmp_path, seed=1, heads=HEADS[1:])
    assert "has no RGB head" in complaint(init_from=given)
    _, given = import_twin(tmp_path, seed=2, heads=(("rgb", 3), ("segmentation", 4)))
    assert "has 4 outputs in its head segmentation" in complaint(init_from=given)


def test_an_imported_checkpoint_is_no_workdir(tmp_path):
    _, given = import_twin(tmp_path)
    with pytest.raises(UserError, match=r"is an imported checkpoint; start from it by --config\.init_from"):
        train.train(tiny_config(tmp_path), given)
