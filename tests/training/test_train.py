"""Whole runs of a tiny experiment: outputs, continuation, determinism, and what stops a run."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from helpers import NAME, rows_of, tiny_config
from imginav_jax.datasets import palette
from imginav_jax.models import network
from imginav_jax.runs import checkpoints, experiment
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.training import compiled, run, train
from imginav_jax.training.state import TrainState, make_optimizer

ORIGINAL_COLUMNS = [
    "epoch",
    *("train_loss", "train_MSE_rgb", "train_CE_segmentation", "train_CE_classification"),
    *("val_loss", "val_MSE_rgb", "val_CE_segmentation", "val_CE_classification"),
]


def reproducible(rows):
    """The columns that do not measure time or memory."""
    measured = ("images_per_second", "epoch_seconds", "peak_memory_mib")
    return [{name: value for name, value in row.items() if name not in measured} for row in rows]


def state_of(workdir, config):
    exp = experiment.from_config(config)
    params = jax.eval_shape(lambda: network.init(exp.model, jax.random.key(0)))
    sharding = jnp.zeros(1).sharding
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    optimizer = make_optimizer(config.optimizer.learning_rate, config.optimizer.weight_decay)
    abstract = jax.tree.map(
        place, TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, jax.eval_shape(optimizer.init, params))
    )
    return checkpoints.restore(workdir / "checkpoints", position_of(workdir)["step"], abstract)


def position_of(workdir):
    found = checkpoints.find(workdir / "checkpoints")
    assert found is not None
    return found.contents["position"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three epochs."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(folder)
    train.train(config, str(folder / "work"))
    return folder, config


def test_every_output_is_there_under_its_name(finished):
    folder, _ = finished
    work, phase = folder / "work", folder / "phase"
    assert (phase / f"{NAME}_metrics.csv").read_bytes() == (work / f"{NAME}_metrics.csv").read_bytes()
    for epoch in ("epoch_001", "epoch_003", "best"):
        for kind in ("comparison", "segmentation"):
            for place in (work, phase):
                with Image.open(place / "samples" / f"{NAME}_{epoch}_{kind}.png") as picture:
                    assert picture.size == (2 * 32 + 4, 4 * 14 + 3 * 32 + 2 * 4), "full resolution"
    assert (work / "checkpoints").is_dir()
    assert list(work.glob("events.out.tfevents.*"))
    for path in (*work.glob("*.json"), *phase.glob("*.json")):
        assert json.loads(path.read_text())["data"]["kind"] == "synthetic"


def test_the_csv_has_the_originals_columns_and_ours_with_sound_values(finished):
    folder, config = finished
    rows = rows_of(folder / "work")
    assert list(rows[0])[: len(ORIGINAL_COLUMNS)] == ORIGINAL_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        for part in ("train", "val"):
            terms = [float(row[f"{part}_{term}"]) for term in ("MSE_rgb", "CE_segmentation", "CE_classification")]
            assert float(row[f"{part}_loss"]) == pytest.approx(sum(terms), rel=1e-5)
            assert 0 < terms[1] < 0.05 * 5, "the cross-entropy is multiplied by its weight"
        assert float(row["val_PSNR"]) == pytest.approx(10 * math.log10(4 / float(row["val_MSE_rgb"])))
        assert {f"val_IoU_{name}" for name in palette.CLASS_NAMES} <= set(row)
        for name in ("val_pixel_accuracy", "val_room_scene_accuracy", "val_mIoU"):
            assert 0 <= float(row[name]) <= 1
        for name in ("images_per_second", "epoch_seconds", "peak_memory_mib", "grad_norm"):
            assert float(row[name]) > 0
        assert float(row["learning_rate"]) == config.optimizer.learning_rate
        assert row["data"] == "synthetic"
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_tensorboards_own_reader_finds_scalars_images_and_hyperparameters(finished):
    folder, config = finished
    own, of_training = (
        EventAccumulator(str(folder / "work" / each), size_guidance={"tensors": 0}).Reload() for each in ("", "train")
    )
    tags = own.Tags()["tensors"]
    for tag in ("epoch/loss", "epoch/PSNR", "epoch/mIoU", "epoch/IoU_bed", "epoch/grad_norm", "step/loss",
                "cost/images_per_second", "epoch/layout_1", "best/layout_1", "config"):  # fmt: skip
        assert tag in tags
    assert not any(tag.startswith("epoch/layout_") and int(tag[-1]) > config.samples.count for tag in tags)
    steps_per_epoch = int(rows_of(folder / "work")[0]["step"])
    for events, column in ((own, "val_loss"), (of_training, "train_loss")):  # one chart, a line each
        losses = [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors("epoch/loss")]
        expected = [(int(row["step"]), float(row[column])) for row in rows_of(folder / "work")]
        assert [step for step, _ in losses] == [steps_per_epoch, 2 * steps_per_epoch, 3 * steps_per_epoch]
        np.testing.assert_allclose([loss for _, loss in losses], [loss for _, loss in expected], rtol=1e-6)


def test_tensorboard_compares_runs_by_psnr_and_miou(finished):
    folder, config = finished
    events = EventAccumulator(str(folder / "work"), size_guidance={"tensors": 0}).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["optimizer.learning_rate"].number_value == 2e-3
    assert hparams["data"].string_value == "synthetic"
    assert hparams["name"].string_value == NAME
    assert hparams["latent"].string_value == "4x4x16"
    assert hparams["parameters"].number_value == sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(state_of(folder / "work", config).params)
    )
    assert hparams["model.shortcuts"].bool_value is False
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    metrics = HParamsPluginData.FromString(content).experiment.metric_infos
    assert [each.name.tag for each in metrics] == ["epoch/PSNR", "epoch/mIoU"]


def test_a_finished_run_says_so_and_touches_nothing(finished, caplog):
    folder, config = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with caplog.at_level("INFO", "imginav_jax"):
        train.train(config, str(folder / "work"))
    assert "has finished already: 3 epochs" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_same_seed_gives_the_same_bits_and_a_continued_run_too(finished, tmp_path):
    folder, config = finished
    work = tmp_path / "work"
    again = tiny_config(folder, phase_dir=str(tmp_path / "phase"), num_epochs=1)
    train.train(again, str(work))
    assert len(rows_of(work)) == 1
    again.num_epochs = 3
    train.train(again, str(work))
    assert reproducible(rows_of(work)) == reproducible(rows_of(folder / "work"))
    for a, b in zip(*(jax.tree.leaves(state_of(each, config)) for each in (work, folder / "work")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("at", [3, 9])
def test_a_run_cut_off_within_an_epoch_goes_on_bit_for_bit(finished, tmp_path, monkeypatch, at):
    """Cut in the first and in the second epoch of six steps, saved after every step."""
    folder, config = finished
    work = tmp_path / "work"
    cut = tiny_config(folder, phase_dir=str(tmp_path / "phase"), **{"checkpoint.every_minutes": 1e-9})
    real, calls = train._record, []

    def record_until_cut(*args):
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(train, "_record", record_until_cut)
    with pytest.raises(KeyboardInterrupt):
        train.train(cut, str(work))
    assert position_of(work)["step"] == at - 1
    monkeypatch.setattr(train, "_record", real)
    train.train(cut, str(work))
    assert reproducible(rows_of(work)) == reproducible(rows_of(folder / "work"))
    for a, b in zip(*(jax.tree.leaves(state_of(each, config)) for each in (work, folder / "work")), strict=True):
        np.testing.assert_array_equal(a, b)
    assert position_of(work)["epoch"] == 3, "the last save knows that the epoch is over"


def test_a_checkpoint_of_another_experiment_is_refused_without_its_description(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "work" / "checkpoints", tmp_path / "work" / "checkpoints")
    config = tiny_config(folder, phase_dir=str(tmp_path / "phase"), seed=7)
    with pytest.raises(UserError, match=r"checkpoints holds another experiment \(seed 42 there, 7 here\)"):
        train.train(config, str(tmp_path / "work"))


def test_another_experiment_in_the_workdir_is_refused(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*")}
    with pytest.raises(UserError, match=r"holds another experiment \(optimizer.learning_rate 0.002 there, 0.5 here\)"):
        train.train(tiny_config(folder, **{"optimizer.learning_rate": 0.5}), str(folder / "work"))
    with pytest.raises(UserError, match=r"data\.layouts 30 layouts [0-9a-f]{16} there, 31 layouts"):
        train.train(tiny_config(folder, **{"data.synthetic_size": 31}), str(folder / "work"))
    assert {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*")} == before


def test_early_stopping_keeps_the_last_epochs_row_and_restores_the_best_weights(tmp_path, monkeypatch):
    """The validation only gets worse: the first epoch is the best, the third the last."""
    config = tiny_config(tmp_path, num_epochs=9, **{"early_stopping.patience": 2})
    real, saved, drawn = train._evaluate, [], []

    def worse_each_time(run, state):
        saved.append(jax.device_get(state.params))
        found = real(run, state)
        return dataclasses.replace(found, losses=found.losses._replace(mse_rgb=float(len(saved))))

    def remember(run, params, moment):
        drawn.append((moment, jax.device_get(params)))

    monkeypatch.setattr(train, "_evaluate", worse_each_time)
    monkeypatch.setattr(train, "_write_samples", remember)
    train.train(config, str(tmp_path / "work"))
    rows = rows_of(tmp_path / "work")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    summary = json.loads((tmp_path / "work" / f"{NAME}_summary.json").read_text())
    assert summary["stopped_early"]
    assert (summary["epochs"], summary["best_epoch"]["epoch"]) == (3, 1)
    steps = {int(each.name) for each in (tmp_path / "work" / "checkpoints").iterdir() if each.name.isdigit()}
    assert steps == {int(row["step"]) for row in rows}, "the best and the two latest"
    moment, params = drawn[-1]
    assert moment == "best"
    for a, b in zip(*map(jax.tree.leaves, (params, saved[0])), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(params["encoder"]["to_latent"]["kernel"], saved[2]["encoder"]["to_latent"]["kernel"])


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    train.train(tiny_config(tmp_path, num_epochs=1), str(tmp_path / "work"))
    before = position_of(tmp_path / "work")
    real, calls = compiled.compile_steps, []

    def compile_with_a_fault(*args):
        steps = real(*args)

        def poisoned(state, batch):
            calls.append(batch)
            if len(calls) == 3:
                state = state._replace(params=jax.tree.map(lambda x: x * jnp.float32("nan"), state.params))
            return steps.train(state, batch)

        return steps._replace(train=poisoned)

    monkeypatch.setattr(run, "compile_steps", compile_with_a_fault)
    with pytest.raises(
        RunError, match=r"step 9 \(epoch 2\): loss is nan on synthetic_.*; details in .*_not_finite_step_9\.json"
    ):
        train.train(config, str(tmp_path / "work"))
    assert position_of(tmp_path / "work") == before
    assert len(rows_of(tmp_path / "work")) == 1


def test_overflows_are_counted_and_end_the_run_when_they_go_on(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, precision="float16", num_epochs=20, **{"early_stopping.patience": 99})
    real, calls = compiled.compile_steps, []

    def compile_with_overflows(*args):
        steps = real(*args)

        def overflowing(state, batch):
            calls.append(batch)
            if len(calls) in (2, 3) or len(calls) > 12:
                scale = state.loss_scale._replace(scale=state.loss_scale.scale * jnp.float32("inf"))
                after, metrics = steps.train(state._replace(loss_scale=scale), batch)
                return after._replace(loss_scale=after.loss_scale._replace(scale=jnp.float32(1024))), metrics
            return steps.train(state, batch)

        return steps._replace(train=overflowing)

    monkeypatch.setattr(run, "compile_steps", compile_with_overflows)
    with pytest.raises(RunError, match=r"step 112 \(epoch 19\): float16 has overflowed in 100 steps in a row on"):
        train.train(config, str(tmp_path / "work"))
    rows = rows_of(tmp_path / "work")
    assert [row["skipped_steps"] for row in rows[:3]] == ["2", "0", "6"]
    assert 0 < float(rows[0]["train_loss"]) < 5
    assert rows[2]["train_loss"] == "nan"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.image_size": 36}, r"config\.data\.image_size is 36, expected a multiple of 8 for 3 downsampling steps"),
        ({"model.base_channels": 24}, r"config\.model\.base_channels is 24, expected a multiple of 16"),
        ({"model.downsampling_steps": 8}, r"downsampling_steps is 8, expected 1 to 7"),
        ({"precision": "float8"}, r"config\.precision is float8, expected float32 or bfloat16 or float16"),
        ({"batch_size": 0}, r"config\.batch_size is 0, expected a number above 0"),
        ({"batch_size": 99}, r"config\.batch_size is 99, but only \d+ layouts are for training"),
        ({"accumulate_steps": 3}, r"config\.batch_size is \d+, expected a multiple of config\.accumulate_steps, 3"),
        ({"num_devices": 2}, r"config\.num_devices is 2, but there are 1"),
        ({"data.num_workers": 10**6}, r"config\.data\.num_workers is 1000000, expected at most \d+, the cores"),
        ({"data.validation_fraction": 1.0}, "expected a share between 0 and 1"),
        ({"data.manifest": "nowhere.csv"}, r"manifest nowhere\.csv does not exist"),
        ({"data.root": "/tmp"}, r"config\.data\.root is /tmp, expected a data\.manifest with it"),
        ({"loss.mse": -1.0}, r"config\.loss\.mse is -1\.0, expected 0 or more"),
        ({"seed": 2**32}, r"config\.seed is 4294967296, expected less than 2\*\*32"),
        ({"optimizer.learning_rate": float("inf")}, "learning_rate is inf, expected a number above 0"),
        ({"name": ".."}, r"config\.name is '\.\.', expected a file name"),
        ({"name": "{depth}"}, r"config\.name is '\{depth\}', expected no braces"),
        ({"name": "a/b"}, r"config\.name is 'a/b', expected a file name"),
    ],
)
def test_bad_values_are_named_and_nothing_is_written(finished, tmp_path, overrides, message):
    folder, _ = finished
    config = tiny_config(folder, phase_dir=str(tmp_path / "phase"), **overrides)
    with pytest.raises(UserError, match=message):
        train.train(config, str(tmp_path / "work"))
    assert not list(tmp_path.iterdir())
