"""What a run may have beside its experiment: schedule, clipping, moving average, trace, a writer of one's own."""

import csv
import dataclasses
import functools
import itertools
import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.profiler import ProfileData

from helpers import FAST, ROOT, TINY, random_batch, tiny_config, train_until
from imginav_jax.devices.trace import Trace
from imginav_jax.models.losses import LossWeights
from imginav_jax.runs import checkpoints, continuation, experiment, outputs, weights
from imginav_jax.runs.experiment import Experiment, OptimizerFields
from imginav_jax.runs.phase_folder import ComparedRun
from imginav_jax.system.errors import UserError
from imginav_jax.system.progress import logger
from imginav_jax.training import state, steps, train
from imginav_jax.training.state import LossScale, create_state, make_optimizer, make_schedule

NAME = "phase1_2_AE_R1_ds1_quick"
SMALL = {"model.downsampling_steps": 1, "num_epochs": 2}  # quick to compile; 6 steps an epoch
OPTIONS = ("schedule", "warmup_steps", "clip_norm")
ALL = {
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 4,
    "optimizer.clip_norm": 0.05,
    "ema_decay": 0.75,
    "checkpoint.every_epochs": 1,
}
WATCHED = {
    "loggers": "broken_writers:open_writer,my_writers:open_writer, broken_writers:refuse",
    "profile_steps": "11:15",
}


BROKEN = """
class Broken:
    def __getattr__(self, name):
        raise OSError("the service is away\\nfor good")

def open_writer(workdir, config):
    return Broken()

def refuse(workdir, config):
    raise RuntimeError("no key")

number = 3
"""


def rows_of(workdir):
    with (workdir / f"{NAME}_metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def config_of(folder, **overrides):
    return tiny_config(folder, **{**SMALL, **overrides})


def traces(workdir):
    return sorted((workdir / "plugins" / "profile").glob("*/*.xplane.pb"))


def saved(workdir, step, part):
    """A part of a step's state as its checkpoint holds it."""
    here = jnp.zeros(()).sharding
    _, create = state.of_experiment(experiment.from_config(config_of(workdir, ema_decay=0.5)))
    abstract = jax.eval_shape(create, jax.random.key(0)).params
    abstract = jax.tree.map(lambda leaf: leaf.update(sharding=here), abstract)
    return jax.tree.leaves(checkpoints.restore(workdir / "checkpoints", step, {part: abstract})[part])


class Finished(NamedTuple):
    plain: Path  # folder of a run without options, of which the first epoch is from before there were any
    folder: Path  # of one with every option that starts from the other's best weights; workdirs are in both
    said: list[str]  # by the latter


def train_as_before(config, workdir):
    """By a config and with a fingerprint that say nothing of the options, as there were before them."""
    config = config.copy_and_resolve_references()
    for fields, names in ((config.optimizer, OPTIONS), (config, ("ema_decay", "profile_steps", "loggers"))):
        for name in names:
            del fields[name]
    fingerprint = Experiment.fingerprint

    def older(*arguments):
        return {key: value for key, value in fingerprint(*arguments).items() if key != "ema_decay"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "fingerprint", older)
        train.train(config, str(workdir))


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Importable: my_writers, as the README has it, and broken_writers."""
    folder = tmp_path_factory.mktemp("modules")
    page = (ROOT / "imginav_jax" / "training" / "README.md").read_text()
    (example,) = [each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "JsonLines" in each]
    (folder / "my_writers.py").write_text(example)
    (folder / "broken_writers.py").write_text(BROKEN)
    (folder / "unfinished_writers.py").write_text("def open_writer(:")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    for name in ("my_writers", "broken_writers"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, modules, compile_fast):
    plain, folder, said = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("options"), []
    config = config_of(plain, num_epochs=1, profile_steps="2:3", loggers="")
    train_as_before(config, plain / "work")
    shutil.copytree(plain, plain / "before")
    config.num_epochs = 2
    train.train(config, str(plain / "work"))
    steps_done = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_is_due", lambda *_: next(steps_done) == 11)
        for level in ("info", "warning"):
            patch.setattr(logger, level, lambda text, *values: said.append(text % values))
        train.train(options_of(folder, plain, **WATCHED), str(folder / "work"))
    return Finished(plain, folder, said)


def options_of(folder, plain, **overrides):
    config = config_of(folder, **{**ALL, "data.cache_dir": str(plain / "cache"), **overrides})
    config.init_from = str(plain / "work")
    return config


def test_the_learning_rate_by_hand():
    cosine = make_schedule(OptimizerFields(0.2, 0.0, "cosine", 4), 12)
    rates = [cosine(count) for count in (0, 1, 3, 4, 6, 8, 11, 12)]
    half = [0.1 * (1 + math.cos(math.pi * part)) for part in (1 / 4, 1 / 2, 7 / 8)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.15, 0.2, *half, 0], atol=1e-8)
    cosine = make_schedule(OptimizerFields(0.2, 0.0, "cosine"), 12)
    np.testing.assert_allclose([cosine(0), cosine(6), cosine(12)], [0.2, 0.1, 0], atol=1e-8)
    constant = make_schedule(OptimizerFields(0.2, 0.0, "constant", 4), 12)
    np.testing.assert_allclose([constant(count) for count in (0, 1, 4, 99)], [0, 0.05, 0.2, 0.2], atol=1e-8)
    assert make_schedule(OptimizerFields(0.2, 0.0), 12) == 0.2


def test_clipping_by_hand():
    # A norm of 5 becomes 1, one of 0.5 stays; the first moment is a tenth of what AdamW gets to see.
    optimizer = make_optimizer(0.1, 0.0, 1.0)
    params = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
    for factor, seen in ((1.0, (0.6, 0.8)), (0.1, (0.3, 0.4))):
        grads = {"kernel": jnp.array([3.0 * factor]), "bias": jnp.array([4.0 * factor])}
        _, found = optimizer.update(grads, optimizer.init(params), params)
        moment = optax.tree.get(found, "mu")
        np.testing.assert_allclose([moment["kernel"][0], moment["bias"][0]], np.multiply(seen, 0.1), rtol=1e-6)


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_moving_average_follows_the_parameters_and_skips_an_overflow(parts):
    config = dataclasses.replace(TINY, downsampling_steps=1, compute_dtype="float16", remat=parts > 1)
    optimizer = make_optimizer(1e-3, 0.01, 0.5)
    create = functools.partial(create_state, config=config, optimizer=optimizer, has_ema=True)
    step = functools.partial(steps.train_step, config=config, weights=LossWeights(), optimizer=optimizer)
    step = functools.partial(step, accumulate_steps=parts, ema_decay=0.75)
    step = jax.jit(step, donate_argnums=0, compiler_options=FAST)
    now = jax.jit(create, compiler_options=FAST)(jax.random.key(0))
    average = [np.array(leaf, np.float64) for leaf in jax.tree.leaves(now.params)]
    for _ in range(3):
        now, _ = step(now, random_batch(4))
        params = jax.tree.leaves(now.params)
        average = [0.75 * before + 0.25 * np.asarray(leaf) for before, leaf in zip(average, params, strict=True)]
    for found, expected in zip(jax.tree.leaves(now.ema), average, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    before = jax.device_get(now.ema)
    now, metrics = step(now._replace(loss_scale=LossScale(jnp.float32(jnp.inf), jnp.int32(0))), random_batch(4))
    assert metrics.skipped == 1
    jax.tree.map(np.testing.assert_array_equal, now.ema, before)


def test_the_average_begins_at_the_given_weights_and_follows_the_parameters_of_a_run(finished):
    work = finished.folder / "work"
    assert checkpoints.steps(work / "checkpoints") == [0, 6, 11, 12]
    given = jax.tree.leaves(weights.load(finished.plain / "work").params)
    for part in ("params", "ema"):
        for leaf, expected in zip(saved(work, 0, part), given, strict=True):
            np.testing.assert_array_equal(leaf, expected)
    before, params, after = saved(work, 11, "ema"), saved(work, 12, "params"), saved(work, 12, "ema")
    for old, new, found in zip(before, params, after, strict=True):
        np.testing.assert_allclose(found, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7)
    assert any((found != new).any() for found, new in zip(after, params, strict=True))


def test_the_csv_has_the_rate_of_each_epochs_last_step(finished):
    rates = [float(row["learning_rate"]) for row in rows_of(finished.folder / "work")]
    # Steps 6 and 12 of 12, after 5 and 11 updates, of which 4 are the warmup.
    expected = [2e-3 * 0.5 * (1 + math.cos(math.pi * (done - 4) / 8)) for done in (5, 11)]
    np.testing.assert_allclose(rates, [0, *expected], rtol=1e-5)
    assert [row["learning_rate"] for row in rows_of(finished.plain / "work")] == ["0.002", "0.002"]


def test_the_moving_average_is_what_is_evaluated_and_loaded_and_what_another_run_starts_from(finished, tmp_path):
    work = finished.folder / "work"
    best = json.loads((work / f"{NAME}_summary.json").read_text())["best_epoch"]
    assert best["step"] > 0
    loaded = weights.load(work)
    kept = weights.load_kept(work, loaded, 11)
    for found, step in ((loaded, best["step"]), (kept, 11), (weights.load(work, 11), 11)):
        assert found.step == step
        for leaf, expected in zip(jax.tree.leaves(found.params), saved(work, step, "ema"), strict=True):
            np.testing.assert_array_equal(leaf, expected)
    config = config_of(tmp_path, **{"data.cache_dir": str(finished.plain / "cache"), "loggers": ""})
    config.update(num_epochs=0, init_from=str(work))
    train.train(config, str(tmp_path / "work"))
    (row,) = rows_of(tmp_path / "work")
    assert float(row["val_loss"]) == best["val_loss"]
    assert weights.digest(weights.load(tmp_path / "work")) == weights.digest(loaded)


def test_cut_off_within_an_epoch_it_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    config = options_of(tmp_path, finished.plain, loggers="")
    train_until(8, config, tmp_path / "work", monkeypatch)
    position = checkpoints.find(tmp_path / "work" / "checkpoints").contents["position"]
    assert (position["epoch"], 6 < position["step"] < 12) == (1, True)
    train.train(config, str(tmp_path / "work"))
    for part in ("params", "ema"):
        for there, here in zip(*(saved(each / "work", 12, part) for each in (finished.folder, tmp_path)), strict=True):
            np.testing.assert_array_equal(there, here)
    timed = {"images_per_second", "epoch_seconds"}
    for there, here in zip(*(rows_of(each / "work") for each in (finished.folder, tmp_path)), strict=True):
        assert {**here, **{key: there[key] for key in timed}} == there


def test_a_cosine_is_not_stretched_nor_any_option_changed_in_the_middle(finished):
    plain, folder, _ = finished
    cases = [
        (folder, {**ALL, "num_epochs": 3}, r"\(optimizer.schedule_steps 12 there, 18 here\)"),
        (folder, {**ALL, "ema_decay": 0.5}, r"\(ema_decay 0.75 there, 0.5 here\)"),
        (plain, {"optimizer.clip_norm": 1.0}, r"\(optimizer.clip_norm 0.0 there, 1.0 here\)"),
        (plain, {"optimizer.warmup_steps": 3}, r"\(optimizer.warmup_steps 0 there, 3 here\)"),
    ]
    for place, overrides, message in cases:
        config = options_of(place, plain, **overrides) if place == folder else config_of(place, **overrides)
        with pytest.raises(UserError, match=f"^[^\n]*holds another experiment {message}[^\n]*$"):
            train.train(config, str(place / "work"))
    exp = experiment.from_config(config_of(folder, **ALL))
    compared = SimpleNamespace(trained=SimpleNamespace(experiment=exp))
    assert not continuation.command(cast("ComparedRun", compared), 4), "no command that would be refused"


def test_without_them_optimizer_checkpoints_and_fingerprint_are_those_of_before(finished):
    work = finished.plain / "work"
    _, create = state.of_experiment(experiment.from_config(config_of(finished.plain)), 12)
    fresh = jax.eval_shape(create, jax.random.key(0))
    before = optax.adamw(2e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)
    assert jax.tree.structure(fresh.opt_state) == jax.tree.structure(jax.eval_shape(before.init, fresh.params))
    tree = json.loads((work / "checkpoints" / "12" / "state" / "_METADATA").read_text())["tree_metadata"]
    assert {each["key_metadata"][0]["key"] for each in tree.values()} == {"step", "params", "opt_state", "loss_scale"}
    contents = checkpoints.find(work / "checkpoints").contents
    assert set(contents) == {"position", "early_stopping", "fingerprint", "architecture"}
    new = {"ema_decay", *(f"optimizer.{field}" for field in OPTIONS)}
    older = {key: value for key, value in contents["fingerprint"].items() if key not in new}
    assert len(contents["fingerprint"]) - len(older) == len(new)
    assert outputs.complete_fingerprint(older) == outputs.complete_fingerprint(contents["fingerprint"])


def test_a_run_from_before_there_were_options_goes_on(finished):
    before, after = finished.plain / "before" / "work", finished.plain / "work"
    (path,) = before.glob("*_experiment.json")
    description = json.loads(path.read_text())
    assert not {"ema_decay", *(f"optimizer.{field}" for field in OPTIONS)} & {*description["fingerprint"]}
    assert not {*OPTIONS} & {*description["config"]["optimizer"]}
    assert rows_of(after)[:1] == rows_of(before)
    assert [row["epoch"] for row in rows_of(after)] == ["1", "2"]


def test_the_screen_says_what_is_on(finished):
    work = finished.folder / "work"
    (training,) = [line for line in finished.said if line.startswith("Training")]
    assert training.endswith(
        ", learning rate 0.002 after 4 steps of warmup, by a cosine to 0, gradients clipped at norm 0.05, "
        "evaluated by the weights' moving average (0.75)"
    )
    assert f"{'Outputs':12} {work}" in finished.said
    own = "broken_writers:open_writer, my_writers:open_writer, broken_writers:refuse"
    assert f"{'':12} values also for {own}" in finished.said
    assert f"{'Profile':12} steps 11 to 12, in {work / 'plugins' / 'profile'}" in finished.said


def test_a_writer_of_ones_own_gets_what_tensorboard_would(finished):
    work = finished.folder / "work"
    lines = [json.loads(line) for line in (work / "scalars.jsonl").read_text().splitlines()]
    last = {tag: value for line in lines if line["step"] == 12 for tag, value in line.items()}
    row = rows_of(work)[-1]
    assert [line["step"] for line in lines if "step/loss" in line] == [10]
    assert (last["epoch/loss"], last["train/epoch/loss"]) == (float(row["val_loss"]), float(row["train_loss"]))
    assert last["cost/images_per_second"] == float(row["images_per_second"])
    assert not list(work.rglob("events.out.tfevents.*"))


def test_writers_that_fail_are_named_once_each_and_stop_nothing(finished):
    warnings = [line for line in finished.said if "The run goes on without" in line]
    assert warnings == [
        "The values for broken_writers:refuse cannot be written: no key. The run goes on without.",
        "The values for broken_writers:open_writer cannot be written: the service is away. The run goes on without.",
    ]


def test_a_trace_that_the_runs_end_cuts_short_is_readable(finished):
    (path,) = traces(finished.folder / "work")
    assert path.stat().st_size > 0
    assert any(line.name for plane in ProfileData.from_file(str(path)).planes for line in plane.lines)


def test_neither_is_part_of_the_experiment_and_steps_that_are_done_are_not_traced(finished):
    assert not traces(finished.plain / "work")
    fingerprints = [
        experiment.from_config(config_of(finished.plain, **each)).fingerprint({}, None, 6) for each in ({}, WATCHED)
    ]
    assert fingerprints[0] == fingerprints[1]


def test_a_trace_holds_its_steps_alone_and_a_failure_is_a_warning(tmp_path, monkeypatch, caplog):
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: calls.append(f"start {folder.name}"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    monkeypatch.setattr("jax.block_until_ready", calls.append)
    trace = Trace(tmp_path / "work", (2, 3))
    for step in range(1, 6):
        trace.begin(step, f"before {step}")
        calls.append(step)
        trace.end(step, f"after {step}")
    trace.close()
    assert calls == [1, "before 2", "start work", 2, 3, "after 3", "stop", 4, 5]
    calls.clear()
    trace = Trace(tmp_path / "work", (2, 3))
    trace.begin(2, "before 2")
    trace.close()  # cut off
    trace.close()
    assert calls == ["before 2", "start work", "stop"]
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: 1 / 0)
    trace = Trace(tmp_path / "work", (1, 3))
    with caplog.at_level("WARNING", "imginav_jax"):
        for step in range(1, 4):
            trace.begin(step, step)
            trace.end(step, step)
        trace.close()
    (record,) = caplog.records
    assert record.getMessage() == "The steps cannot be traced: division by zero. The run goes on without."


def test_bad_values_are_named_and_nothing_is_written(finished, tmp_path):
    decay = "expected 0, for none, or a number between 0 and 1"
    steps = "expected two steps from 1 on, the first and the last, as 10:15"
    function = "expected a function that can be imported"
    cases = [
        ({"optimizer.schedule": "linear"}, "config.optimizer.schedule is linear, expected constant or cosine"),
        ({"optimizer.warmup_steps": -1}, "config.optimizer.warmup_steps is -1, expected 0 or more"),
        ({"optimizer.clip_norm": -0.5}, "config.optimizer.clip_norm is -0.5, expected 0 or more"),
        ({"ema_decay": 1.0}, f"config.ema_decay is 1.0, {decay}"),
        ({"ema_decay": math.nan}, f"config.ema_decay is nan, {decay}"),
        (
            {"optimizer.schedule": "cosine", "optimizer.warmup_steps": 12},
            "config.optimizer.warmup_steps is 12, expected less than the 12 steps of the run for "
            "config.optimizer.schedule cosine",
        ),
        *(
            ({"profile_steps": text}, f"config.profile_steps is {text}, {steps}")
            for text in ("15:10", "abc", "0", "0:3", "3")
        ),
        (
            {"loggers": "tensorboard,wandb"},
            "config.loggers is tensorboard,wandb, expected tensorboard and MODULE:FUNCTION, separated by commas",
        ),
        ({"loggers": "no_writers:f"}, f"config.loggers has no_writers:f, {function}: No module named 'no_writers'"),
        (
            {"loggers": "my_writers:f"},
            f"config.loggers has my_writers:f, {function}: module 'my_writers' has no attribute 'f'",
        ),
        ({"loggers": "broken_writers:number"}, f"config.loggers has broken_writers:number, {function}: it is 3"),
        (
            {"loggers": "unfinished_writers:f"},
            f"config.loggers has unfinished_writers:f, {function}: invalid syntax (unfinished_writers.py, line 1)",
        ),
    ]
    for overrides, message in cases:
        config = config_of(tmp_path, **{"data.cache_dir": str(finished.plain / "cache"), **overrides})
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            train.train(config, str(tmp_path / "work"))
    assert not list(tmp_path.iterdir())
