"""The folders of a run: whether they can be written, and whose run they hold."""

import pytest

from imginav_jax.runs.outputs import Outputs
from imginav_jax.system.errors import UserError


def test_folders_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    Outputs("run", tmp_path / "a", tmp_path / "b").check_writable()
    with pytest.raises(UserError, match=r"--workdir .* cannot be written"):
        Outputs("run", tmp_path / "file" / "a", tmp_path / "b").check_writable()
    with pytest.raises(UserError, match=r"--config\.phase_dir .* cannot be written"):
        Outputs("run", tmp_path / "a", tmp_path / "file").check_writable()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoints").touch()
    with pytest.raises(UserError, match=r"--workdir .* cannot be written"):
        Outputs("run", tmp_path / "a", tmp_path / "b").check_writable()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "file"]


def test_another_experiment_is_refused_with_both_values(tmp_path):
    outputs = Outputs("run", tmp_path / "work", tmp_path / "phase")
    outputs.open({"fingerprint": {"seed": 42, "batch_size": 16}})
    outputs.check_same_experiment({"seed": 42, "batch_size": 16})
    with pytest.raises(UserError, match=r"--workdir .*work holds another experiment \(seed 42 there, 43 here\)"):
        outputs.check_same_experiment({"seed": 43, "batch_size": 16})
    elsewhere = Outputs("run", tmp_path / "other", tmp_path / "phase")
    with pytest.raises(UserError, match=r"--config\.phase_dir .*run_experiment.*batch_size 16 there, 8 here"):
        elsewhere.check_same_experiment({"seed": 42, "batch_size": 8})
    renamed = Outputs("other", tmp_path / "work", tmp_path / "phase")
    with pytest.raises(UserError, match="holds another experiment"):
        renamed.check_same_experiment({"seed": 1, "batch_size": 16})
