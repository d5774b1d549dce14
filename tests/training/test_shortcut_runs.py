"""Runs with shortcuts: another experiment than the same run without, in every place where the two could be mixed up."""

import dataclasses
import json
import shutil

import pytest
import torch

from helpers import TINY, tiny_config
from imginav_jax import autoencoder
from imginav_jax.export.programs import export_programs
from imginav_jax.export_torch import export_checkpoint
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.pytorch.twin import Twin
from imginav_jax.runs import phase_folder, trained_run, weights
from imginav_jax.system.errors import UserError
from imginav_jax.training import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdirs of R1, a plain run of one epoch, and of R1 with shortcuts; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    works = {}
    for argument in ("R1,quick", "R1,shortcuts,quick"):
        works[argument] = folder / argument
        train.train(tiny_config(folder, argument, num_epochs=1), str(works[argument]))
    return folder, *works.values()


def test_it_learns_and_its_weights_say_what_they_are(runs):
    _, plain, with_shortcuts = runs
    (description,) = with_shortcuts.glob("*_experiment.json")
    assert description.name == "phase1_2_AE_R1_ds3_shortcuts_quick_experiment.json"
    assert json.loads(description.read_text())["fingerprint"]["model.shortcuts"] is True
    found = [autoencoder.load(work).config.shortcuts for work in (plain, with_shortcuts)]
    assert found == [False, True]


def test_equal_weights_with_and_without_have_different_digests(tiny_params):
    with_shortcuts = weights.Weights(dataclasses.replace(TINY, shortcuts=True), tiny_params, 0)
    assert weights.digest(with_shortcuts) != weights.digest(weights.Weights(TINY, tiny_params, 0))


def test_the_originals_format_cannot_hold_it_and_programs_do(runs, tmp_path):
    _, _, with_shortcuts = runs
    with pytest.raises(UserError, match=r"^[^\n]*: the model has shortcuts, which the original's [^\n]*$"):
        export_checkpoint(with_shortcuts, tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())
    export_programs(with_shortcuts, tmp_path / "programs")
    described = json.loads((tmp_path / "programs" / "model.json").read_text())
    assert (described["image_size"], described["architecture"]["shortcuts"]) == (32, True)
    torch.save(Twin(latent=4, base=16, steps=2, shortcuts=True).checkpoint(), tmp_path / "a.pt")
    assert not import_checkpoint(tmp_path / "a.pt", tmp_path / "a").shortcuts


def test_neither_continues_the_other_nor_starts_from_it(runs, tmp_path):
    folder, plain, with_shortcuts = runs
    mixed = tiny_config(folder, "R1,quick", num_epochs=1, **{"model.shortcuts": True})
    with pytest.raises(UserError, match=r"holds another experiment \(model\.shortcuts False there, True here\)"):
        train.train(mixed, str(plain))
    for argument, given, there, here in (
        ("R1,shortcuts,quick", plain, False, True),
        ("R1,quick", with_shortcuts, True, False),
    ):
        config = tiny_config(tmp_path, argument, init_from=str(given), num_epochs=0)
        with pytest.raises(UserError, match=f"has shortcuts {there}, but config.model.shortcuts is {here}"):
            train.train(config, str(tmp_path / "work"))


def without_the_field(path):
    """Rewrites a description as it was before the field: neither config nor fingerprint have it."""
    content = json.loads(path.read_text())
    del content["config"]["model"]["shortcuts"], content["fingerprint"]["model.shortcuts"]
    path.write_text(json.dumps(content))


def test_a_run_that_does_not_say_it_has_none(runs, tmp_path):
    folder, plain, _ = runs
    old = shutil.copytree(plain, tmp_path / "old")
    without_the_field(next(old.glob("*_experiment.json")))
    found = trained_run.load(old)
    assert found.experiment is not None
    assert not found.experiment.model.shortcuts
    (group,) = phase_folder.find([old]).groups
    assert group.runs[0].fingerprint["model.shortcuts"] is False
    config = tiny_config(folder, "R1,quick", num_epochs=2, phase_dir=str(tmp_path / "phase"))
    train.train(config, str(old))
    assert len(list(old.glob("*_metrics.csv"))) == 1


def test_in_a_report_they_stand_apart(runs, tmp_path):
    _, plain, with_shortcuts = runs
    found = phase_folder.find([plain, with_shortcuts])
    assert [group.label for group in found.groups] == ["R1", "R1 shortcuts"]
    # What sets the arms apart is no difference to warn of.
    assert not phase_folder.differing_settings(found.runs)
    # Of one name of the experiment and another seed: not a group either.
    same = shutil.copytree(with_shortcuts, tmp_path / "same")
    (description,) = same.glob("*_experiment.json")
    content = json.loads(description.read_text())
    content["config"]["experiment"], content["fingerprint"]["seed"] = "R1", 7
    description.write_text(json.dumps(content))
    labels = [group.label for group in phase_folder.find([plain, same]).groups]
    assert sorted(labels) == ["phase1_2_AE_R1_ds3_quick", "phase1_2_AE_R1_ds3_shortcuts_quick"]
