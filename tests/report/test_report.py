"""Reports on real, tiny runs: what is written, what is reused, and what is said of runs that are amiss."""

import csv
import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_runs import NAMES, fast_config, train_tiny, write_config

from helpers import REAL_LAYOUTS, ROOT, complaint, run
from imginav_jax import autoencoder
from imginav_jax.datasets import palette
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.report import build, settings
from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.measurement import measure
from imginav_jax.report.measurement.subjects import PROBE, RGB, SEGMENTATION, earlier_step
from imginav_jax.runs import continuation, incomplete, phase_folder, weights
from imginav_jax.runs.results import benchmark_file
from imginav_jax.system import ownership
from imginav_jax.system.errors import UserError


def test_a_report_has_one_owner(trained, tmp_path, config_file):
    out = tmp_path / "out"
    with ownership.own_output(out, "it"):
        line = complaint(run("report", trained / "phase", "--out", out, "--config", config_file))
    assert line.startswith(f"error: --out {out} is in use by process {os.getpid()} on ")
    assert not list(tmp_path.iterdir())


def rows_of(out):
    with (out / "metrics.csv").open(newline="") as file:
        return {(row["label"], row["output"]): row for row in csv.DictReader(file)}


def test_the_screen_has_a_table_a_decision_and_where_the_page_is(reported):
    out, screen = reported
    for label, latent in (("R1", "4x4x16"), ("R2", "2x2x16"), ("R3", "1x1x16"), ("majority colour, 4x4", "4x4x1")):
        assert re.search(rf"^ *{label} +{latent} ", screen, re.MULTILINE), label
    assert "plain          Take R3, the 1x1x16 latent: every detail metric is within 99 points of R1" in screen
    assert str(out / "index.html") in screen


def test_every_file_is_there_and_the_page_needs_no_other(reported):
    out, _ = reported
    page = (out / "index.html").read_text()
    pictures = sorted(out.glob("*.png"))
    assert {"detail.png", "classes_iou.png", "bands.png", "quality_latent.png", "curves.png"} <= {
        p.name for p in pictures
    }
    assert len(list(out.glob("layout_*.png"))) == 4
    assert page.count('src="data:image/webp;base64,') == page.count("<img") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for text in ("R1", "Synthetic layouts", "arXiv:2003.07311", "Take R3"):
        assert text in page
    stored = json.loads((out / "metrics.json").read_text())
    assert stored["decisions"]["plain"]["winner"] == "R3"
    assert stored["layouts"] == 12
    assert "NaN" not in (out / "metrics.json").read_text()


def test_numbers_are_those_of_the_runs_own_pictures(reported, trained):
    out, _ = reported
    rows = rows_of(out)
    assert {output for label, output in rows if label == "R1"} == {RGB, SEGMENTATION, PROBE}
    found = phase_folder.find([trained / "phase"])
    source = LayoutSource(found.runs[0].trained.find_data(), "validation")
    batches = list(measure.read_batches(source))
    assert [count for _, count in batches] == [8, 4]
    images = np.concatenate([images[:count] for images, count in batches])
    made = autoencoder.load(trained / "work" / "R2").reconstruct(images)
    row = rows["R2", RGB]
    assert float(row["mse"]) == pytest.approx(np.square((made.images / 127.5) - (images / 127.5)).mean(), rel=1e-5)
    assert float(row["mse_low"]) <= float(row["mse"]) <= float(row["mse_high"])
    right = (palette.COLORS[made.classes] == images).all(-1)
    assert float(rows["R2", SEGMENTATION]["pixel_accuracy"]) == pytest.approx(right.mean(), rel=1e-6)
    assert rows["R2", SEGMENTATION]["psnr"] == "nan"
    unshuffled = rows["R1 unshuffled, 2x2x64", RGB]
    assert [unshuffled[name] for name in METRICS] == [rows["R1", RGB][name] for name in METRICS]


def test_the_next_config_is_the_winner_with_the_settings_of_its_run(reported, trained):
    module = runpy.run_path(str(trained / "phase1_3.py"))
    fresh, found = module["get_config"]("V1,quick"), module["get_config"]("V2,quick,from_winner")
    assert module["get_config"]("V1").data.synthetic_size == 1024  # the winner's run was a quick one
    assert isinstance(found, ConfigDict)
    for config, variational in ((fresh, False), (found, True)):
        sizes = {"latent_channels": 16, "base_channels": 16, "downsampling_steps": 5}
        assert config.model.to_dict() == {**sizes, "shortcuts": False, "remat": False, "variational": variational}
        assert (config.data.synthetic_size, config.batch_size) == (60, 4)
        assert config.optimizer.learning_rate == 3e-3
    assert fresh.init_from is None
    loaded = weights.load(Path(found.init_from))
    assert Path(found.init_from) == trained / "work" / "R3"
    assert (found.init_step, found.init_sha256) == (loaded.step, weights.digest(loaded))
    assert module["WINNER"]["chosen_by"] == "the report"
    assert module["WINNER"]["report_said"] in (reported[0] / "index.html").read_text()
    given = Path(found.init_from), found.init_step
    made, digest = weights.load_given(*given, found.init_sha256, found.init_log_variance)
    assert (made.config.variational, digest) == (True, found.init_sha256)
    with pytest.raises(UserError, match=rf"^config\.init_sha256 is 0{{64}}, but .* have {weights.digest(loaded)}$"):
        weights.load_given(*given, "0" * 64, found.init_log_variance)


def test_a_person_may_choose_and_the_page_says_so(reported, trained, tmp_path):
    config, out = write_config(tmp_path / "report.py", 10), tmp_path / "out"
    shutil.copytree(reported[0] / "computed", out / "computed")
    options = "--out", out, "--config", config, "--write-next-config", tmp_path / "next.py"
    line = complaint(run("report", trained / "phase", *options, "--winner", "R9"))
    assert line == "error: --winner R9 is no run of this report; there are R1, R2, R3"
    assert not (tmp_path / "next.py").exists()
    result = run("report", trained / "phase", *options, "--winner", "R2")
    assert "Next config    " in result.stdout, result.stderr
    assert "a person has chosen R2" in result.stdout
    winner = runpy.run_path(str(tmp_path / "next.py"))["WINNER"]
    said = json.loads((out / "metrics.json").read_text())["chosen"]
    assert winner["report_said"] == said["report_said"] != ""
    assert said["report_said"].startswith("Undecided, because the validation split has")
    assert (winner["run"], winner["chosen_by"], winner["model"]["downsampling_steps"]) == ("R2", "a person", 4)
    assert (said["winner"], said["chosen_by"]) == ("R2", "a person")
    page = (out / "index.html").read_text()
    assert "For the next phase a person has chosen <strong>R2</strong>." in page


def test_a_damaged_measurement_is_made_again(reported, trained, tmp_path, caplog):
    out, _ = reported
    shutil.copytree(out / "computed", tmp_path / "out" / "computed")
    first, *_ = sorted((tmp_path / "out" / "computed").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    with caplog.at_level("INFO", "imginav_jax"):
        build.build([trained / "phase"], tmp_path / "out", fast_config())
    assert "18 of 19 measurements are reused" in caplog.text
    assert first.read_bytes() == (out / "computed" / first.name).read_bytes()


def test_data_that_is_gone_or_damaged_is_named(trained, tmp_path):
    work = copy_run(trained, tmp_path / "R1", "R1")
    path = work / f"{NAMES['R1']}_experiment.json"
    description = json.loads(path.read_text())
    description["config"]["data"]["cache_dir"] = str(shutil.copytree(trained / "cache", tmp_path / "cache"))
    path.write_text(json.dumps(description))
    (key,) = (each.parent for each in (tmp_path / "cache").glob("*/imginav_layouts"))
    for record in key.rglob("*validation*"):
        record.write_bytes(bytes(record.stat().st_size))
    with pytest.raises(UserError, match=r"cannot be read: .*; delete it, and it is prepared anew"):
        build.build([work], tmp_path / "out", fast_config())
    assert not (tmp_path / "out").exists()
    for record in key.rglob("*validation*"):
        record.write_bytes(b"")
    build.build([work], tmp_path / "emptied", fast_config())
    shutil.rmtree(key)
    build.build([work], tmp_path / "out", fast_config())
    assert key.exists(), "prepared anew"


def test_a_second_report_measures_nothing_again_and_is_the_same(reported, trained, config_file):
    out, first = reported
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert "reused" not in first
    arguments = [str(trained / "phase"), "--out", str(out), "--config", str(config_file)]
    program = f"""
import runpy, sys
sys.argv = ["report", *{arguments!r}]
runpy.run_module("imginav_jax.report", run_name="__main__")
assert not {{"tensorflow", "clu", "torch"}} & set(sys.modules)
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "19 of 19 measurements are reused" in result.stdout
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_without_a_winner_no_next_config_is_written(reported, trained, tmp_path):
    config, out = write_config(tmp_path / "report.py", 10), tmp_path / "out"
    shutil.copytree(reported[0] / "computed", out / "computed")
    options = "--out", out, "--config", config, "--write-next-config", tmp_path / "next.py"
    line = complaint(run("report", trained / "phase", *options))
    assert "next.py is not written: no resolution has won" in line
    assert not (tmp_path / "next.py").exists()


def test_a_config_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.py cannot be read: No such file or directory"):
        settings.load(tmp_path / "nowhere.py")
    (tmp_path / "bad.py").write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match=r"bad\.py cannot be used: ZeroDivisionError: division by zero"):
        settings.load(tmp_path / "bad.py")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decision.margin": 1.5}, r"decision\.margin is 1\.5, expected a share from 0, below 1"),
        ({"decision.output": "probe"}, r"decision\.output is probe, expected rgb or segmentation"),
        ({"bootstrap.confidence": 95.0}, r"bootstrap\.confidence is 95\.0, expected between 0 and 1"),
        ({"probe.steps": 0}, r"probe\.steps is 0, expected 1 or more"),
    ],
)
def test_a_value_that_cannot_be_is_named(trained, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        build.build([trained / "phase"], tmp_path / "out", fast_config(**overrides))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"psnr": 1.0}, r"decision\.weights\.psnr is 1\.0, expected a metric that is a share, higher is better"),
        ({"depth": 1.0}, r"decision\.weights\.depth is 1\.0, expected a metric"),
        ({"mean_iou": -1.0}, "expected none below 0"),
        ({"mean_iou": 0.0}, "expected one above 0"),
    ],
)
def test_weights_that_weigh_nothing_are_named(weights, message):
    config = fast_config()
    config.decision.weights = ConfigDict(weights)
    with pytest.raises(UserError, match=message):
        settings.check(config)


def test_a_part_that_is_missing_is_named():
    config = fast_config()
    del config.probe
    with pytest.raises(UserError, match=r"the report's config is incomplete: .*probe"):
        settings.check(config)


def test_runs_on_other_data_are_refused_by_name(trained, tmp_path):
    shutil.copytree(trained / "cache", tmp_path / "cache")
    other = train_tiny(tmp_path, "R2,quick", num_epochs=1, **{"data.synthetic_size": 40, "data.seed": 1})
    result = run("report", trained / "phase", other, "--out", tmp_path / "out")
    line = complaint(result)
    assert "the runs are not comparable: " in line
    assert re.search(r"data\.layouts is 60 layouts [0-9a-f]+ in phase1_2_AE_R1_ds3_quick, 40 layouts", line)
    assert "data.seed is 42 in phase1_2_AE_R1_ds3_quick, 1 in phase1_2_AE_R2_ds4_quick" in line
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_named_and_the_rest_is_reported(reported, trained, tmp_path, config_file):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    shutil.copytree(reported[0] / "computed", out / "computed")
    paths = trained / "work" / "R1", tmp_path / "empty", tmp_path / "nowhere", trained / "work" / "R2"
    result = run("report", *paths, "--out", out, "--config", config_file)
    assert result.returncode == 0, "there is something to report"
    assert "empty has no *_experiment.json of a run, expected a phase folder or a workdir" in result.stdout
    assert "nowhere is no directory" in result.stdout
    assert "Undecided, because R3 is missing." in result.stdout
    assert ("R2", RGB) in rows_of(out)
    assert "nowhere is no directory" in (out / "index.html").read_text()
    expected = "--expected", "R1,quick", "R3,quick,seed=7", "--work", tmp_path
    result = run("report", tmp_path / "empty", "--out", tmp_path / "other", *expected)
    assert "no run in" in complaint(result)
    assert "phase1_2_AE_R3_ds5_quick_seed7: nothing of it is there" in result.stdout
    assert not (tmp_path / "other").exists()


def copy_run(trained, folder, label, name=None, experiment=None, **changes):
    """A run's workdir under another name and as another experiment, with changes in its fingerprint."""
    work = Path(shutil.copytree(trained / "work" / label, folder))
    for path in work.glob(f"{NAMES[label]}_*"):
        path.rename(path.with_name(path.name.replace(NAMES[label], name or NAMES[label])))
    path = work / f"{name or NAMES[label]}_experiment.json"
    description = json.loads(path.read_text())
    description["workdir"] = str(work)
    description["config"]["experiment"] = experiment or label
    description["fingerprint"] |= {"name": name or NAMES[label], **changes}
    path.write_text(json.dumps(description))
    return work


def test_half_finished_and_missing_runs_are_named(trained, tmp_path):
    works = [copy_run(trained, tmp_path / label, label) for label in NAMES]
    (works[1] / f"{NAMES['R2']}_summary.json").unlink()
    shutil.rmtree(works[2] / "checkpoints")
    found = phase_folder.find([*works, *works])
    assert [(run.name, run.is_finished) for run in found.runs] == [(NAMES["R1"], True), (NAMES["R2"], False)]
    missing = f"{NAMES['R3']}: no checkpoint in {works[2] / 'checkpoints'}; where its workdir has moved, name that"
    assert found.problems == [f"{NAMES['R2']}: not finished, 2 of 2 epochs; measured as it is", missing]
    assert found.unusable == []
    assert missing not in phase_folder.find([*works, trained / "work" / "R3"]).problems, "it is named"
    (works[0] / "checkpoints" / str(found.runs[0].trained.weights.step) / "checkpoint.json").write_text("{}")
    found = phase_folder.find(works)
    assert [run.name for run in found.runs] == [NAMES["R2"]]
    assert "checkpoint.json is damaged" in found.problems[1]


ALL = [f"{label},quick" for label in NAMES]


def with_a_log(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.log").write_text("error: the disk is full\n")
    return folder / f"{name}.log"


def test_runs_that_have_not_ended_are_named_with_their_logs(trained, tmp_path):
    finished, unfinished = (copy_run(trained, tmp_path / label, label) for label in ("R1", "R2"))
    (unfinished / f"{NAMES['R2']}_summary.json").unlink()
    logs = [
        with_a_log(unfinished, NAMES["R2"]),
        with_a_log(tmp_path / "work" / "experiments" / "phase1" / NAMES["R3"], NAMES["R3"]),
    ]
    found = phase_folder.find([finished, unfinished], incomplete.resolve(ALL), tmp_path / "work")
    assert [each.describe() for each in found.incomplete] == [
        f"R2,quick has not finished: see {logs[0]}",
        f"R3,quick has left nothing: see {logs[1]}",
    ]
    assert found.problems == [
        f"{NAMES['R2']}: not finished, 2 of 2 epochs; measured as it is: see {logs[0]}",
        f"{NAMES['R3']}: nothing of it is there: see {logs[1]}",
    ]
    logs[1].unlink()
    (tmp_path / "work" / "logs").mkdir()
    found = phase_folder.find([finished, unfinished], incomplete.resolve(ALL), tmp_path / "work")
    assert found.incomplete[1].describe() == f"R3,quick has left nothing: see {tmp_path / 'work' / 'logs'}"
    found = phase_folder.find([finished, unfinished])
    assert [each.describe() for each in found.incomplete] == [f"R2 has not finished: see {logs[0]}"]
    assert phase_folder.find([trained / "phase"], incomplete.resolve(ALL)).incomplete == []


def test_a_run_without_weights_is_named_with_its_log(trained, tmp_path):
    phase = Path(shutil.copytree(trained / "phase", tmp_path / "phase"))
    path = phase / f"{NAMES['R3']}_experiment.json"
    path.write_text(path.read_text().replace(str(trained / "work" / "R3"), str(tmp_path / "R3")))
    log = with_a_log(tmp_path / "R3", NAMES["R3"])
    found = phase_folder.find([phase])
    assert [each.describe() for each in found.incomplete] == [f"R3 has left nothing that can be measured: see {log}"]
    assert found.problems[0].startswith(f"{NAMES['R3']}: no checkpoint in {tmp_path / 'R3' / 'checkpoints'}; ")
    assert found.problems[0].endswith(f": see {log}")


def test_an_expected_seed_is_one_run_and_overridden_models_have_other_names():
    first, second = incomplete.resolve(["R3,seed=7", "R1"])
    assert (first.experiment, first.name) == ("R3", "phase1_2_AE_R3_ds5_seed7")
    assert second.pattern.fullmatch("phase1_2_AE_R1_ds2")
    assert not second.pattern.fullmatch("phase1_2_AE_R1_ds3_quick")
    with pytest.raises(UserError, match='--expected R9: unknown experiment "R9"'):
        incomplete.resolve(["R9"])


def test_the_decision_says_which_expected_run_is_not_there(reported, trained, tmp_path):
    name, out = f"{NAMES['R2']}_seed7", tmp_path / "out"
    log = with_a_log(tmp_path / "experiments" / "phase1" / name, name)
    shutil.copytree(reported[0] / "computed", out / "computed")
    expected = incomplete.resolve([*ALL, "R2,quick,seed=7", "V1,quick"])
    report, _ = build.build([trained / "phase"], out, fast_config(), expected, tmp_path)
    sentence = f"R2,quick,seed=7 has left nothing: see {log}"
    stored = json.loads((out / "metrics.json").read_text())
    assert stored["decisions"]["plain"]["sentence"].startswith("Undecided, because the validation split has ")
    assert stored["decisions"]["plain"]["sentence"].endswith(f"; {sentence}.")
    assert "V1,quick has left nothing" in stored["decisions"]["matched_volume"]["sentence"]
    assert f"{name}: nothing of it is there: see {log}" in stored["problems"]
    assert report.winner() is None
    assert (out / "index.html").read_text().count(str(log)) >= 2
    with pytest.raises(UserError, match=f"no run in {tmp_path} can be reported on"):
        build.build([tmp_path], tmp_path / "other", fast_config(), incomplete.resolve(ALL), tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '"x"', "{}", '{"workdir": null}', '{"config": 1, "fingerprint": []}'])
def test_a_damaged_description_costs_its_run_alone(trained, tmp_path, content):
    work = copy_run(trained, tmp_path / "R2", "R2")
    (work / f"{NAMES['R2']}_experiment.json").write_text(content)
    found = phase_folder.find([work, trained / "work" / "R1"])
    assert [run.name for run in found.runs] == [NAMES["R1"]]
    assert [problem.partition(":")[0] for problem in found.problems] == [NAMES["R2"]]


def test_a_second_run_of_the_same_experiment_and_seed_is_left_out_by_name(trained, tmp_path):
    found = phase_folder.find([trained / "work" / "R1", copy_run(trained, tmp_path / "again", "R1")])
    assert len(found.runs) == 1
    (problem,) = found.problems
    assert f"{tmp_path / 'again'}" in problem
    assert "are of one experiment and seed" in problem


def test_runs_that_differ_in_the_seed_alone_are_one_group(trained, tmp_path):
    works = [
        trained / "work" / "R1",
        copy_run(trained, tmp_path / "a", "R1", "seven", seed=7),
        copy_run(trained, tmp_path / "b", "R2", "slow", **{"optimizer.learning_rate": 1e-5}),
        trained / "work" / "R2",
    ]
    groups = phase_folder.find(works).groups
    assert [(group.label, [run.seed for run in group.runs]) for group in groups] == [
        ("R1", [7, 42]),
        (NAMES["R2"], [42]),
        ("slow", [42]),
    ]
    lines = phase_folder.differing_settings([run for group in groups for run in group.runs])
    assert [line.partition(":")[0] for line in lines] == ["optimizer.learning_rate"]
    assert "1e-05 in slow" in lines[0]
    assert len(phase_folder.find([trained / "work" / "R1", trained / "phase"]).runs) == 3, "a run counts once"


def test_two_seeds_are_reported_together(trained, tmp_path):
    works = trained / "work" / "R1", copy_run(trained, tmp_path / "a", "R1", "seven", seed=7)
    report, out = build.build(works, tmp_path / "out", fast_config(**{"bootstrap.min_scenes": 1}))
    (result,) = [result for result in report.results if result.kind == "run"]
    assert (result.label, result.num_runs) == ("R1", 2)
    assert rows_of(out)["R1", RGB]["runs"] == "2"
    assert report.first_decision.sentence == "Undecided, because R2 and R3 are missing."


def test_the_matched_volume_arm_takes_r2_for_v2(trained, tmp_path):
    config = fast_config(**{"bootstrap.min_scenes": 1})
    work = copy_run(trained, tmp_path / "V1", "R1", "matched", "V1")
    report, _ = build.build([work, trained / "phase"], tmp_path / "out", config)
    assert list(report.decisions) == ["plain", "matched_volume"]
    assert report.decisions["matched_volume"].sentence == "Undecided, because V3 is missing."


def test_a_run_is_measured_at_half_its_training_too(reported, trained, tmp_path):
    out, _ = reported
    earlier = {
        label: row for (label, output), row in rows_of(out).items() if row["kind"] == "earlier" and output == RGB
    }
    assert set(earlier) == {"R1, earlier", "R2, earlier", "R3, earlier"}
    assert (out / "index.html").read_text().count("R1, earlier") == 0, "it is no result of its own"
    work = shutil.copytree(trained / "work" / "R1", tmp_path / "R1")
    (trained_on,) = phase_folder.find([work]).runs
    assert (trained_on.trained.weights.step, earlier_step(trained_on)) == (24, 12)
    then = autoencoder.load(work, step=12)
    images = LayoutSource(trained_on.trained.find_data(), "validation").images(range(12))
    errors = np.float64(then.reconstruct(images).images) - images
    assert float(earlier["R1, earlier"]["mse"]) == pytest.approx(np.mean((errors / 127.5) ** 2), rel=1e-4)
    shutil.rmtree(work / "checkpoints" / "12")
    assert earlier_step(*phase_folder.find([work]).runs) is None


def test_the_decision_says_how_sure_it_is_and_what_it_rests_on(reported, trained):
    out, screen = reported
    stored = json.loads((out / "metrics.json").read_text())
    decision = stored["decisions"]["plain"]
    assert decision["status"] in ("firm", "provisional")
    assert f"{decision['status']}; it would change with {decision['would_change']}" in screen
    assert stored["evidence"] == {"seeds": 1, "epochs": 2, "scenes": 3, "layouts": 12, "data": "synthetic"}
    assert "synthetic layouts, which decide nothing for real ones" in screen
    assert "synthetic layouts, which decide nothing for real ones" in (trained / "phase1_3.py").read_text()
    assert {row["data"] for row in rows_of(out).values()} == {"synthetic"}


def test_an_unknown_arm_is_answered_with_those_there_are():
    with pytest.raises(
        UserError, match=r"decision\.arm is nonsense, expected one of matched_volume, .*plain, shortcuts"
    ):
        settings.check(fast_config(**{"decision.arm": "nonsense"}))


def test_the_command_that_trains_a_run_on_names_what_was_changed(trained, tmp_path):
    run_ = phase_folder.find([trained / "work" / "R3"]).runs[0]
    said = continuation.command(run_, 4)
    assert said.startswith("python -m imginav_jax.main --config=configs/phase1_2.py:R3,quick ")
    assert "--config.data.synthetic_size=60" in said
    assert f"--workdir={trained / 'work' / 'R3'}" in said
    assert said.endswith("--config.num_epochs=4")
    assert (
        continuation.command(dataclasses.replace(run_, trained=dataclasses.replace(run_.trained, experiment=None)), 4)
        == ""
    )
    exp = run_.trained.experiment
    renamed = dataclasses.replace(exp, description={**exp.description, "name": "mine"})
    said = continuation.command(
        dataclasses.replace(run_, trained=dataclasses.replace(run_.trained, experiment=renamed)), 4
    )
    assert "--config.name=mine" in said
    assert "--config.data.synthetic_size=60" in said


def test_a_torn_line_is_left_out_and_named(trained, tmp_path):
    work = shutil.copytree(trained / "work" / "R1", tmp_path / "R1")
    path = work / f"{NAMES['R1']}_metrics.csv"
    content = path.read_text()
    path.write_text(content[:-30])
    found = phase_folder.find([work])
    assert [row["epoch"] for row in found.runs[0].rows] == ["1"]
    assert f"{NAMES['R1']}: line 3 of {path} is torn and left out" in found.problems
    path.write_text(content.rstrip())  # whole, but who knows
    assert len(phase_folder.find([work]).runs[0].rows) == 1
    columns, first, _ = content.splitlines(keepends=True)
    path.write_text(columns + first.replace(first.split(",")[14], "garbage"))
    assert phase_folder.find([work]).runs[0].rows == []
    for content, message in (("", "has no column epoch"), ("a,b\n1,2\n", "has no column epoch")):
        path.write_text(content)
        found = phase_folder.find([work])
        assert found.runs[0].rows == []
        assert message in found.problems[0]
    path.unlink()
    found = phase_folder.find([work])
    assert found.runs[0].rows == []
    assert found.problems == [f"{NAMES['R1']}: no metrics CSV, so no curves and no speed"]


def test_a_folder_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "file").touch()
    line = complaint(run("report", trained / "phase", "--out", tmp_path / "file" / "report"))
    assert f"--out {tmp_path / 'file' / 'report'} cannot be written: Not a directory" in line


def make_benchmark(card, seconds):
    """`seconds`: of a ControlNet's training step, by run."""
    sides, whole = {"R1": 4, "R2": 2, "R3": 1}, benchmark_file.Spread(1.0, 1.0, 1.0)

    def step(median):
        timing = benchmark_file.Timing(benchmark_file.Spread(median, median, median), whole)
        return benchmark_file.TrainingStepCost(1, 1.0, 1.0, timing, whole)

    diffusion = [
        benchmark_file.DiffusionCost((label,), (side, side, 16), step(2.0), step(seconds[label]))
        for label, side in sides.items()
    ]
    return benchmark_file.Benchmark(card, "gpu", 1, "0", "float32", 32, 4, 1, (), tuple(diffusion))


def test_costs_are_charted_card_by_card_and_the_first_breaks_the_tie(reported, trained, tmp_path, config_file):
    phase = Path(shutil.copytree(trained / "phase", tmp_path / "phase"))
    benchmark_file.save(phase, make_benchmark("Card A", {"R1": 3.0, "R2": 1.0, "R3": 2.0}))
    benchmark_file.save(phase, make_benchmark("Card B", {"R1": 0.3, "R2": 0.2, "R3": 0.1}))
    (phase / "benchmark_z_float32.json").write_text("{}")
    shutil.copytree(reported[0] / "computed", phase / "report" / "computed")
    report, out = build.build([phase], None, settings.load(config_file))
    assert out == phase / "report"
    assert [benchmark.device_kind for benchmark in report.benchmarks] == ["Card A", "Card B"]
    assert len(list(out.glob("quality_cost_*.png"))) == 2, "a chart a card"
    assert report.first_decision.winner == "R2", "the cheapest on the first card, though R3 has fewer cells"
    assert "at 0.33 times its cost" in report.first_decision.sentence
    assert any("benchmark_z_float32.json" in problem for problem in report.found.problems)
    page = (out / "index.html").read_text()
    assert page.count("<h3>Card ") == 2


@pytest.mark.slow
@pytest.mark.skipif(not REAL_LAYOUTS.exists(), reason="the real layouts are not at hand")
def test_the_real_layouts_are_reported_at_full_size(tmp_path):
    manifest = {"data.manifest": str(REAL_LAYOUTS / "layouts.csv"), "data.image_size": 512}
    for label in NAMES:
        train_tiny(tmp_path, f"{label},quick", batch_size=1, num_epochs=1, **manifest)
    result = run("report", tmp_path / "phase", timeout=900)
    assert result.returncode == 0, result.stderr
    assert "Undecided, because the validation split has 1 scenes, and an interval needs 10." in result.stdout
    assert len(list((tmp_path / "phase" / "report").glob("layout_*.png"))) == 1
