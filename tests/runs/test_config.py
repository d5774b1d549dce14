"""The experiments that users name on the command line."""

import math

import pytest

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
