"""Checkpoints: which are kept, what damage does, and what is said where they cannot be saved or restored."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imginav_jax.runs import checkpoints
from imginav_jax.runs.checkpoints import Checkpoints
from imginav_jax.system.errors import RunError, UserError

STATE = {"w": jnp.arange(6.0), "n": {0: jnp.int32(3)}}


def place(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jnp.zeros(1).sharding), tree)


def save_steps(directory, steps, keep_period=1, best_step=0):
    kept = Checkpoints(directory, keep_period)
    for step in steps:
        state = jax.tree.map(lambda x, step=step: x + step, STATE)
        kept.save(step, state, {"epoch": step}, best_step=min(step, best_step))
    kept.close()


def test_latest_best_and_periodic_checkpoints_are_kept(tmp_path):
    save_steps(tmp_path / "steps", range(1, 8), keep_period=4, best_step=2)
    for step in (2, 4, 6, 7):
        restored = checkpoints.restore(tmp_path / "steps", step, place(STATE))
        np.testing.assert_array_equal(restored["w"], np.arange(6.0) + step)
        assert restored["n"][0] == 3 + step
    for step in (1, 3, 5):
        with pytest.raises(UserError, match=f"no checkpoint of step {step}"):
            checkpoints.restore(tmp_path / "steps", step, place(STATE))
    assert checkpoints.find(tmp_path / "steps") == checkpoints.Found(7, {"epoch": 7}, [2, 4, 6, 7], {})
    assert checkpoints.find(tmp_path / "nowhere") is None


def test_a_second_save_of_a_step_changes_its_position_alone(tmp_path):
    kept = Checkpoints(tmp_path / "steps", 1)
    kept.save(3, STATE, {"epoch": 0}, best_step=0)
    kept.save(3, jax.tree.map(jnp.zeros_like, STATE), {"epoch": 1}, best_step=3)
    kept.close()
    assert checkpoints.find(tmp_path / "steps") == checkpoints.Found(3, {"epoch": 1}, [3], {})
    np.testing.assert_array_equal(checkpoints.restore(tmp_path / "steps", 3, place(STATE))["w"], STATE["w"])


def test_damaged_steps_are_named_passed_over_and_set_aside(tmp_path):
    directory = tmp_path / "steps"
    save_steps(directory, range(1, 6))
    (directory / "2" / "checkpoint.json").unlink()
    shutil.rmtree(directory / "3" / "state" / "d")
    shutil.rmtree(directory / "4")
    (directory / "4").mkdir()
    record = directory / "5" / "checkpoint.json"
    record.write_text(record.read_text().replace('{"epoch": 5}', '{"epoch": 6}'))
    found = checkpoints.find(directory)
    assert found is not None
    assert (found.step, found.contents, found.sound) == (1, {"epoch": 1}, [1])
    assert list(found.damaged) == [2, 3, 4, 5]
    assert found.damaged[2] == found.damaged[4] == "it has no checkpoint.json"
    assert found.damaged[3].endswith("is missing")
    assert found.damaged[5] == "checkpoint.json is damaged"
    for step in found.damaged:
        with pytest.raises(UserError, match=f"{step} cannot be restored"):
            checkpoints.restore(directory, step, place(STATE))
    checkpoints.set_aside(directory, [4])
    (directory / "4").mkdir()
    assert checkpoints.set_aside(directory, [2, 3, 4, 5]) == tmp_path / "damaged_checkpoints"
    assert sorted(each.name for each in (tmp_path / "damaged_checkpoints").iterdir()) == ["2", "3", "4", "4-2", "5"]
    found = checkpoints.find(directory)
    assert found is not None
    assert found.damaged == {}
    (directory / "1" / "checkpoint.json").write_text("{}")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be restored .step 1: checkpoint.json is damaged"):
        checkpoints.find(directory)


def test_a_flipped_bit_anywhere_never_restores_wrong_weights(tmp_path):
    directory = tmp_path / "steps"
    save_steps(directory, [1])
    for path in [each for each in (directory / "1").rglob("*") if each.is_file()]:
        content = path.read_bytes()
        for position in {0, len(content) // 2, max(len(content) - 1, 0)} if content else ():
            flipped = bytearray(content)
            flipped[position] ^= 4
            path.write_bytes(flipped)
            try:
                restored = checkpoints.restore(directory, 1, place(STATE))
            except UserError:
                assert "state" in path.parts or path.name == "checkpoint.json", "Orbax's own notes do not matter"
            else:
                np.testing.assert_array_equal(restored["w"], np.arange(6.0) + 1)
        path.write_bytes(content)


def test_too_little_space_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "7").mkdir()
    with pytest.raises(UserError, match=r"MiB free, expected [0-9,]+ MiB for 3 more checkpoints"):
        checkpoints.require_space(tmp_path, {"w": jax.ShapeDtypeStruct((2**50,), jnp.float32)}, kept=3)
    checkpoints.require_space(tmp_path / "not yet", STATE, kept=3)


def test_a_failed_save_names_its_step(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path / "steps", 1)
    kept.save(1, STATE, {}, best_step=1)
    kept.wait()
    monkeypatch.setattr(checkpoints, "_checksums", lambda path: (_ for _ in ()).throw(OSError("disk on fire")))
    kept.save(2, STATE, {}, best_step=1)
    with pytest.raises(RunError, match="the checkpoint of step 2 could not be saved: disk on fire"):
        kept.wait()
    kept.close()
    found = checkpoints.find(tmp_path / "steps")
    assert found is not None
    assert (found.step, found.damaged) == (1, {})


def test_a_foreign_checkpoint_is_named(tmp_path):
    (tmp_path / "steps" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no checkpoint in .*steps can be restored .step 7: it has no checkpoint.json"):
        checkpoints.find(tmp_path / "steps")
