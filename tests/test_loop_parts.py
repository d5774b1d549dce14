"""The leaves of the loop: early stopping, the CSV, checkpoints, whose run a workdir holds."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imginav_jax import checkpoints, metrics_csv
from imginav_jax.checkpoints import Checkpoints
from imginav_jax.early_stopping import EarlyStopping
from imginav_jax.errors import UserError
from imginav_jax.outputs import Outputs


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


def test_latest_best_and_periodic_checkpoints_are_kept(tmp_path):
    kept = Checkpoints(tmp_path / "steps", keep_period=4)
    state = {"w": jnp.arange(6.0), "n": {0: jnp.int32(3)}}
    for step in range(1, 8):
        kept.save(step, jax.tree.map(lambda x, step=step: x + step, state), {"epoch": step}, best_step=min(step, 2))
    kept.wait()
    abstract = jax.eval_shape(lambda: state)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jnp.zeros(1).sharding), abstract)
    for step in (2, 4, 7):
        restored = kept.restore(step, abstract)
        np.testing.assert_array_equal(restored["w"], np.arange(6.0) + step)
        assert restored["n"][0] == 3 + step
    for step in (1, 3, 5, 6):
        with pytest.raises(UserError, match=f"no checkpoint of step {step}"):
            kept.restore(step, abstract)
    kept.close()
    assert checkpoints.latest_position(tmp_path / "steps") == {"epoch": 7}
    assert checkpoints.latest_position(tmp_path / "nowhere") is None


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
    with pytest.raises(UserError, match=r"steps/7 is not a checkpoint of this program"):
        checkpoints.latest_position(tmp_path / "steps")
