"""The leaves of the loop: early stopping, the CSV, checkpoints, whose run a workdir holds."""

import csv
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imginav_jax.runs import checkpoints, metrics_csv
from imginav_jax.runs.checkpoints import Checkpoints
from imginav_jax.runs.outputs import Outputs
from imginav_jax.system import progress
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.training.early_stopping import EarlyStopping
from imginav_jax.training.records import OptionalWriter


def test_any_fall_is_a_new_best_but_only_a_real_one_ends_the_waiting():
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert stopping.update(1.0, 1, 10)
    assert stopping.update(0.95, 2, 20)  # better, but not by 0.1
    assert (stopping.best_epoch, stopping.waited, stopping.should_stop) == (2, 1, False)
    assert stopping.update(0.85, 3, 30)  # by more than 0.1 since epoch 1
    assert stopping.waited == 0
    assert not stopping.update(0.9, 4, 40)
    assert stopping.update(0.84, 5, 50)
    assert (stopping.best_epoch, stopping.best_step, stopping.should_stop) == (5, 50, True)


def test_early_stopping_goes_on_from_what_it_dumped():
    losses = [1.0, 0.5, 0.6, 0.55, 0.7, 0.3]
    whole, first, second = (EarlyStopping(5, 0.01) for _ in range(3))
    for epoch, loss in enumerate(losses):
        whole.update(loss, epoch, epoch)
        (first if epoch < 3 else second).update(loss, epoch, epoch)
        if epoch == 2:
            second.load(first.dump())
    assert second == whole


def test_the_csv_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    for last in (3, 2):
        metrics_csv.write_rows(path, [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, last + 1)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["loss"]) for row in rows] == [1, 1 / 2]
    assert [each.name for each in path.parent.iterdir()] == ["metrics.csv"]


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


def test_a_foreign_checkpoint_is_named(tmp_path):
    (tmp_path / "steps" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no checkpoint in .*steps can be restored .step 7: it has no checkpoint.json"):
        checkpoints.find(tmp_path / "steps")


class _Writer:
    """Remembers what it is told, and in which thread."""

    def __init__(self):
        self.calls, self.threads = [], set()

    def __getattr__(self, name):
        def call(*values):
            self.calls.append((name, *values))
            self.threads.add(threading.get_ident())

        return call


def test_tensorboards_writer_works_in_a_thread_and_opens_with_the_first_values():
    opened, inner = [], _Writer()
    writer = OptionalWriter(lambda: opened.append(threading.get_ident()) or inner)
    writer.write_hparams({"seed": 1})
    assert not opened
    writer.write_scalars(10, {"loss": 0.5})
    writer.flush()
    writer.close()
    scalars = "write_scalars", 10, {"loss": 0.5}
    assert inner.calls == [("write_hparams", {"seed": 1}), scalars, ("flush",), ("close",)]
    assert set(opened) == inner.threads != {threading.get_ident()}
    OptionalWriter(lambda: opened.append("never")).close()
    assert len(opened) == 1


def test_a_writer_that_fails_is_named_once_and_a_run_may_have_none(caplog, monkeypatch):
    monkeypatch.setattr(progress.logger, "propagate", True)
    for open_writer, warnings in ((lambda: 1 / 0, 1), (lambda: None, 0)):
        caplog.clear()
        writer = OptionalWriter(open_writer)
        for step in range(3):
            writer.write_scalars(step, {})
        writer.close()
        assert [record.getMessage() for record in caplog.records] == [
            "TensorBoard's events cannot be written: division by zero. The run goes on without."
        ] * warnings
