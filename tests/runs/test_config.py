"""The experiments that users name on the command line."""

import math

import pytest

from configs import phase1_3, phase1_5
from configs.phase1_2 import get_config
from imginav_jax.runs import experiment


def latent(argument):
    exp = experiment.from_config(get_config(argument))
    return exp.model.latent_shape(exp.config.data.image_size)


@pytest.mark.parametrize(
    ("argument", "shape"),
    [
        ("R1", (64, 64, 16)),
        ("R2", (32, 32, 16)),
        ("R3", (16, 16, 16)),
        ("V1", (64, 64, 4)),
        ("V2", (32, 32, 16)),
        ("V3", (16, 16, 64)),
    ],
)
def test_latents(argument, shape):
    assert latent(argument) == shape
    if argument.startswith("V"):
        assert math.prod(shape) == 16_384, "the matched volume"


def test_a_seed_has_a_name_of_its_own_and_leaves_the_split_alone():
    first, second = get_config("R2"), get_config("R2,seed=7")
    assert (second.seed, second.name) == (7, "phase1_2_AE_R2_ds{downsampling_steps}_seed7")
    assert second.experiment == first.experiment == "R2"
    assert second.data == first.data
    assert get_config("R2,seed=7,quick").name == get_config("R2,quick,seed=7").name == f"{first.name}_quick_seed7"


def test_shortcuts_are_an_experiment_of_their_own():
    plain, found = get_config("R3"), get_config("R3,shortcuts")
    assert not plain.model.shortcuts
    assert found.name == f"{plain.name}_shortcuts"
    assert (found.experiment, found.model.shortcuts) == ("R3 shortcuts", True)
    exp = experiment.from_config(found)
    assert (exp.name, exp.model.shortcuts) == ("phase1_2_AE_R3_ds5_shortcuts", True)
    assert exp.config.model.shortcuts
    assert exp.model.latent_shape(512) == (16, 16, 16)
    orders = [["shortcuts", "quick", "seed=7"], ["seed=7", "shortcuts", "quick"], ["quick", "seed=7", "shortcuts"]]
    changed = [get_config(",".join(["V1", *order])) for order in orders]
    assert changed[0].name == "phase1_2_AE_V1_ds{downsampling_steps}_shortcuts_quick_seed7"
    assert changed[0].experiment == "V1 shortcuts"
    assert all(each == changed[0] for each in changed)


def test_a_config_of_before_there_were_shortcuts_has_none():
    config = get_config("R1")
    del config.model["shortcuts"]
    exp = experiment.from_config(config)
    assert not exp.model.shortcuts
    assert not exp.config.model.shortcuts


@pytest.mark.parametrize("argument", ["R4", "R1,fast", "R1,seed", "R1,seed=x", "R1,seed=-1", "seed=7"])
def test_an_unknown_argument_says_what_there_is(argument):
    with pytest.raises(ValueError, match="valid ones are"):
        get_config(argument)


def test_phase_1_3_is_phase_1_2s_winner_deterministic_and_variational():
    expected = get_config("R1").to_dict()
    first, second = phase1_3.get_config("V1").to_dict(), phase1_3.get_config("V2").to_dict()
    assert (first["name"], second["name"]) == ("phase1_3_AE_V1_deterministic", "phase1_3_AE_V2_vae_light")
    assert first == {**expected, **{key: first[key] for key in ("name", "experiment", "phase_dir")}}
    assert first["phase_dir"] == "outputs/phase1_3_vae_test"
    variational = {"model": {**first["model"], "variational": True}, "loss": {**first["loss"], "kl": 1e-4}}
    assert second == {**first, **{key: second[key] for key in ("name", "experiment")}, **variational}
    quick = phase1_3.get_config("V2,quick,seed=7")
    assert (quick.name, quick.seed, quick.data.image_size) == ("phase1_3_AE_V2_vae_light_quick_seed7", 7, 128)
    assert experiment.from_config(quick).model.variational


def test_a_winner_stands_once_and_both_start_from_its_weights(monkeypatch):
    model = {"latent_channels": 4, "base_channels": 16, "downsampling_steps": 5, "shortcuts": True}
    weights = {"workdir": "/runs/a", "step": 30, "sha256": "ab"}
    settings = {"preset": "full", "settings": {"data.manifest": "/data/layouts.csv", "batch_size": 8}}
    monkeypatch.setattr(phase1_3, "WINNER", {"run": "R3 shortcuts", "model": model, **settings, **weights})
    quick = phase1_3.get_config("V2,quick")
    assert (quick.data.manifest, quick.batch_size, quick.model.downsampling_steps) == (None, 2, 5)
    for argument, log_variance in (("V1", None), ("V2", -6.0)):
        config = phase1_3.get_config(f"{argument},from_winner")
        assert config.name.endswith("_from_winner")
        assert config.experiment.endswith(" from winner")
        assert {**config.model.to_dict(), **model} == config.model.to_dict()
        assert (config.data.manifest, config.batch_size) == ("/data/layouts.csv", 8)
        assert (config.init_from, config.init_step, config.init_sha256) == ("/runs/a", 30, "ab")
        assert config.init_log_variance == log_variance


def test_phase_1_5_trains_long_and_as_an_option_with_cosine_and_average():
    plain, changed = phase1_5.get_config("AE"), phase1_5.get_config("VAE,ema,cosine,seed=3")
    expected = phase1_3.get_config("V1").to_dict()
    assert (plain.num_epochs, plain.early_stopping.patience) == (50, 5)
    assert (plain.optimizer.to_dict(), plain.loss.to_dict()) == (expected["optimizer"], expected["loss"])
    assert (plain.optimizer.schedule, plain.ema_decay, plain.model.variational) == ("constant", 0.0, False)
    assert (changed.optimizer.schedule, changed.ema_decay, changed.model.variational) == ("cosine", 0.999, True)
    assert changed.name == "phase1_5_VAE_final_seed3_cosine_ema"
    assert changed.phase_dir == plain.phase_dir == "outputs/phase1_5_final_training"
    for argument in ("AE,quick", "VAE,quick,cosine,ema"):
        assert experiment.from_config(phase1_5.get_config(argument)).config.num_epochs == 4


@pytest.mark.parametrize("argument", ["V3", "V1,shortcuts", "V1,seed=x", "V1,fast", "V1,cosine", "quick"])
def test_an_unknown_argument_of_phase_1_3_says_what_there_is(argument):
    with pytest.raises(ValueError, match="valid ones are"):
        phase1_3.get_config(argument)
    with pytest.raises(ValueError, match=r"--write-next-config configs/phase1_3\.py"):
        phase1_3.get_config("V2,from_winner")
