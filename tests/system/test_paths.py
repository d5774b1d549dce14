"""Paths that a person gives: used to the letter, or refused before anything is written."""

from pathlib import Path

import jax
import numpy as np
import pytest

from configs.phase1_2 import get_config
from helpers import TINY
from imginav_jax.datasets import preparation
from imginav_jax.datasets.preparation import TRAIN, DataSpec
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.runs import outputs, weights
from imginav_jax.runs.checkpoints import Checkpoints
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.files import expand_user
from imginav_jax.system.ownership import InUseError

PATTERNS = ["runs[1]", "runs*", "r?ns", "runs\\1", "gs://runs"]
PLAIN = ["runs]", "a b", "a{b}", "a%20b", "é'\"#", "~", "-x"]


def locate(workdir):
    config = get_config("R1,quick")
    config.phase_dir = "phase"
    return outputs.locate(config, workdir)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_workdir_that_orbax_takes_for_a_pattern_is_refused(name, tmp_path, tiny_params):
    with pytest.raises(UserError, match=r"^--workdir /.* checkpoints cannot be kept there; choose a path without"):
        locate(f"{tmp_path}/{name}/work")
    with pytest.raises(UserError, match=r"^--out /"):
        weights.save(tmp_path / name / "imported", TINY, tiny_params, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_names(name, tmp_path, tiny_params):
    assert locate(f"{tmp_path}/{name}").workdir == tmp_path / name
    weights.save(tmp_path / name, TINY, tiny_params, {})
    found = weights.load(tmp_path / name).params
    jax.tree.map(np.testing.assert_array_equal, found, tiny_params)


def test_a_save_without_its_whole_index_fails_and_leaves_no_step(tmp_path):
    """Whatever keeps Orbax from merging the index: here the folder's name, which only the commands refuse."""
    kept = Checkpoints(tmp_path / "a[1]", keep_period=1)
    kept.save(3, {"w": jax.numpy.ones(2)}, {}, best_step=3)
    with pytest.raises(RunError, match="the checkpoint of step 3 could not be saved: its index lacks 1 of 1 arrays, w"):
        kept.close()
    assert not (tmp_path / "a[1]" / "3").exists()


@pytest.mark.parametrize("name", [*PATTERNS, *PLAIN])
def test_data_sets_take_every_path_to_the_letter(name, tmp_path):
    (tmp_path / "runs1" / "decoy").mkdir(parents=True)
    prepared = preparation.prepare(DataSpec(None, None, 32, 6, 0.5, 0), tmp_path / Path(name) / "cache")
    assert len(LayoutSource(prepared.directory, TRAIN)) > 0
    assert prepared.directory.is_relative_to(tmp_path / Path(name))


def test_a_home_that_is_not_there_is_a_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/runs") == Path("/home/me/runs")
    assert expand_user("~nobody-of-this-name/runs") == Path("~nobody-of-this-name/runs")


def test_the_names_of_a_run_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = locate(None)
    assert found.workdir == tmp_path / "experiments/phase1/phase1_2_AE_R1_ds3_quick"
    assert found.phase_dir == tmp_path / "phase"
    assert found.log == found.workdir / "phase1_2_AE_R1_ds3_quick.log"


def test_a_workdir_may_be_in_the_phase_folder_and_that_among_workdirs(tmp_path):
    config = get_config("R1,quick")
    for phase, workdir in (("phase", f"phase/{config.experiment}"), ("runs", "runs/phase1_2_AE_R1_ds3_quick")):
        config.phase_dir = str(tmp_path / phase)
        found = outputs.locate(config, str(tmp_path / workdir))
        with found.own() as owned:
            assert len(owned) == 2
            for each in owned:
                each.check()


def test_the_copies_of_a_run_have_one_owner_too(tmp_path):
    config = get_config("R1,quick")
    config.phase_dir = str(tmp_path / "phase")
    first, second = (outputs.locate(config, str(tmp_path / name)) for name in "ab")
    message = r"phase1_2_AE_R1_ds3_quick in --config\.phase_dir"
    with first.own(), pytest.raises(InUseError, match=message), second.own():
        pass
