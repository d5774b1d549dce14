"""The leaves of the loop: early stopping, the CSV, checkpoints, whose run a workdir holds."""

import math

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


def test_rows_come_back_up_to_an_epoch_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    assert metrics_csv.read_rows(path, 3) == []
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    metrics_csv.write_rows(path, rows)
    assert metrics_csv.read_rows(path, 2) == [{"epoch": "1", "loss": "1.0"}, {"epoch": "2", "loss": "0.5"}]
    assert [float(row["loss"]) for row in metrics_csv.read_rows(path, 9)] == [1, 1 / 2, 1 / 3]
    assert [each.name for each in path.parent.iterdir()] == ["metrics.csv"]


def test_latest_best_and_periodic_checkpoints_are_kept(tmp_path):
    kept = Checkpoints(tmp_path / "steps", keep_period=4)
    state = {"w": jnp.arange(6.0), "n": {0: jnp.int32(3)}}
    for step in range(1, 8):
        kept.save(step, jax.tree.map(lambda x, step=step: x + step, state), {"epoch": step}, best_step=min(step, 2))
        kept.save(step, state, {"epoch": -1}, best_step=2)  # saved already: the first stays
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
    with pytest.raises(UserError, match=r"--workdir .* is not a writable folder"):
        Outputs("run", tmp_path / "file" / "a", tmp_path / "b").check_writable()
    with pytest.raises(UserError, match=r"--config\.phase_dir .* is not a writable folder"):
        Outputs("run", tmp_path / "a", tmp_path / "file").check_writable()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


def test_another_experiment_is_refused_with_both_values(tmp_path):
    outputs = Outputs("run", tmp_path / "work", tmp_path / "phase")
    outputs.open({"fingerprint": {"seed": 42, "batch_size": 16}})
    outputs.check_same_experiment({"seed": 42, "batch_size": 16})
    with pytest.raises(UserError, match=r"work holds another experiment \(seed 42 there, 43 here\).*--workdir"):
        outputs.check_same_experiment({"seed": 43, "batch_size": 16})
    elsewhere = Outputs("run", tmp_path / "other", tmp_path / "phase")
    with pytest.raises(UserError, match=r"phase holds another .*batch_size 16 there, 8 here.*--config\.phase_dir"):
        elsewhere.check_same_experiment({"seed": 42, "batch_size": 8})
    renamed = Outputs("other", tmp_path / "work", tmp_path / "phase")
    with pytest.raises(UserError, match="work holds another experiment"):
        renamed.check_same_experiment({"seed": 1, "batch_size": 16})
    assert math.isinf(EarlyStopping(1, 0).best_loss)
