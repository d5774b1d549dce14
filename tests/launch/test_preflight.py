"""What is refused before anything is queued, and that nothing is made by looking."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT, complaint, run
from imginav_jax.preflight import checks
from imginav_jax.system.errors import UserError
from imginav_jax.training import run as training_run

LAUNCHED = ("V100", "L40S", "CONTROL", "REPORT")

# Of ml_collections, when it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def phase(cluster, site):
    """Call it with changes of a site's variables; the result of phase1_2.sh."""
    return lambda *arguments, **changes: cluster.bash(
        cluster.project / "launch" / "phase1_2.sh", *arguments, **site | changes
    )


@pytest.fixture
def check(cluster, monkeypatch, capsys):
    """Call it with experiments and options; the message of what is refused."""
    monkeypatch.setattr("sys.argv", ["preflight"])

    def check(*words):
        experiments = [word for word in words if not word.startswith("--")]
        options = [word for word in words if word.startswith("--")]
        config, work = str(ROOT / "configs" / "phase1_2.py"), cluster.folder / "work"
        try:
            checks.check_runs(experiments, config, options, work)
        except UserError as error:
            return str(error)
        except SystemExit:
            return capsys.readouterr().err.removeprefix("error: ")
        return None

    return check


def test_the_names_are_those_that_are_documented_and_those_that_are_read():
    def names(paths):
        text = "\n".join(path.read_text() for path in paths)
        found = set(re.findall(r"IMGINAV_[A-Z0-9_]*[A-Z0-9]", text))
        jobs = {name for name in found if name.startswith("IMGINAV_X_")}
        return (found - jobs) | {name.replace("_X_", f"_{job}_") for name in jobs for job in LAUNCHED}

    header = (ROOT / "launch" / "env.sh").read_text().partition(': "${project')[0]
    documented = set(re.findall(r"IMGINAV_[A-Z0-9_]*[A-Z0-9]", header))
    scripts = list((ROOT / "launch").glob("*.sh"))
    code = [path for path in (ROOT / "imginav_jax").rglob("*.py") if "preflight" not in path.parts]
    assert names([*scripts, *code]) == set(checks.NAMES)
    expanded = {name.replace("_X_", f"_{job}_") for name in documented for job in LAUNCHED}
    assert expanded == set(checks.NAMES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("IMGINAV_PRESETS", "the nearest name is IMGINAV_PRESET"),
        ("IMGINAV_L40_QUEUE", "the nearest name is IMGINAV_L40S_QUEUE"),
        ("IMGINAV_REPORT_EXPERIMENTS", "the nearest name is IMGINAV_REPORT_ARGUMENTS"),
        ("IMGINAV_XYZZY_9", "valid names are IMGINAV_MANIFEST, "),
    ],
)
def test_a_name_that_nothing_reads(name, hint):
    with pytest.raises(UserError, match=f"^{name} is set, but nothing reads it; {hint}"):
        checks.check_names({"IMGINAV_WORK": "/a", name: ""})
    checks.check_names({"IMGINAV_WORK": "/a", "IMGINAVY": "1", "PATH": "/"})


def test_it_runs_by_hand_as_its_help_says(tmp_path, monkeypatch):
    monkeypatch.delenv("IMGINAV_WORK", raising=False)
    result = run("preflight", "R1,quick", "R2,quick", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    line = complaint(run("preflight", "R9", cwd=tmp_path))
    assert "R9" in line


def test_looking_at_the_names_needs_no_heavy_import():
    heavy = {"jax", "tensorflow", "numpy"}
    code = f"import sys, imginav_jax.preflight.__main__; sys.exit(not {heavy}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"IMGINAV_V100_WALL_TIME": "0:10"}, "IMGINAV_V100_WALL_TIME is 0:10, expected more than the 10 minutes"),
        ({"IMGINAV_L40S_WALL_TIME": "5"}, "IMGINAV_L40S_WALL_TIME is 5, expected more than the 10 minutes"),
        ({"IMGINAV_L40S_OPTIONS": "-W 10/host"}, "-W in IMGINAV_L40S_OPTIONS is 10/host, expected more than the 10"),
        ({"IMGINAV_L40S_OPTIONS": "-wt 60", "IMGINAV_L40S_WALL_TIME": "1:00"}, "more than the 60 minutes"),
        ({"IMGINAV_REPORT_WALL_TIME": "4h"}, "IMGINAV_REPORT_WALL_TIME is '4h', expected MINUTES or HOURS:MINUTES"),
        ({"IMGINAV_V100_OPTIONS": "-R 'a"}, "IMGINAV_V100_OPTIONS has a quote that is not closed"),
        ({"IMGINAV_V100_OPTIONS": "-J mine"}, "IMGINAV_V100_OPTIONS has -J, but a job's name says which"),
        ({"IMGINAV_L40S_OPTIONS": "-x -Jmine"}, "IMGINAV_L40S_OPTIONS has -Jmine, but a job's name says"),
        (
            {"IMGINAV_REPORT_OPTIONS": "-N -w 'done(7)'"},
            "IMGINAV_REPORT_OPTIONS has -w, but the job waits for the runs",
        ),
        ({"IMGINAV_CONTROL_OPTIONS": "-N -w 'done(7)'"}, "IMGINAV_CONTROL_OPTIONS has -w, but the job waits for"),
        ({"IMGINAV_V100_OPTIONS": "-Is"}, "IMGINAV_V100_OPTIONS has -Is, but bsub would wait for each job to end"),
        ({"IMGINAV_V100_OPTIONS": "-K"}, "IMGINAV_V100_OPTIONS has -K, but bsub would wait for each job to end"),
        (
            {"IMGINAV_V100_OPTIONS": "-R select[gpu32gb] span[hosts=1]"},
            "IMGINAV_V100_OPTIONS has 'span[hosts=1]' where bsub expects an option; quote what belongs together",
        ),
        ({"IMGINAV_L40S_OPTIONS": "gpu -N"}, "IMGINAV_L40S_OPTIONS has 'gpu' where bsub expects an option"),
        ({"IMGINAV_COORDINATOR": "a:1"}, "IMGINAV_COORDINATOR is set, but it belongs to one process of a job; unset"),
        ({"IMGINAV_SYNTHETIC": "yes"}, "IMGINAV_SYNTHETIC is 'yes', expected 0 or 1"),
        ({"IMGINAV_TF32": "on"}, "IMGINAV_TF32 is 'on', expected 0 or 1"),
        ({"IMGINAV_PRECISION": "fp16"}, "IMGINAV_PRECISION is 'fp16', expected float32, bfloat16, float16"),
    ],
)
def test_settings(setting, message):
    with pytest.raises(UserError, match=re.escape(message)):
        checks.check_settings(setting)


def test_settings_that_hold():
    checks.check_settings({"IMGINAV_V100_WALL_TIME": "0:11", "IMGINAV_REPORT_WALL_TIME": "0:05"})
    checks.check_settings({"IMGINAV_L40S_OPTIONS": "-wt 5 -W 6", "IMGINAV_L40S_WALL_TIME": "1"})
    checks.check_settings({"IMGINAV_V100_OPTIONS": "-w 'done(7)' -Jd 'for the paper' -R 'select[a] span[hosts=1]'"})
    checks.check_settings({"IMGINAV_REPORT_OPTIONS": "-N -x -wa USR2 -wt 5 -u me"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["R9"], 'unknown experiment "R9"; valid ones are R1, R2, R3, V1, V2, V3'),
        (["R1,quik"], 'unknown preset "quik"; valid ones are full, quick, seed=NUMBER'),
        (["R1", "--config.batch_sise=8"], 'unknown config key "batch_sise"; did you mean batch_size?'),
        (["R1", "--config.batch_size=eight"], "eight"),
        (["R1", "--config.data.num_workers=two"], "config.data.num_workers"),
        (["R1", "--config.batch_size=0"], "config.batch_size is 0, expected a number above 0"),
        (["R3", "--config.data.image_size=100"], "config.data.image_size is 100, expected a multiple of 32"),
        (["R1", "--config.init_from=nowhere"], "config.init_from {work}/nowhere does not exist"),
        (["R1", "R2", "R1"], "R1 would write to {work}/experiments/phase1/phase1_2_AE_R1_ds3, where another of R1"),
        (["R1", "R2", "--config.name=mine"], "R2 would write to {work}/experiments/phase1/mine, where another of"),
        (["R1", "--config.data.manifest={folder}/no.csv"], "manifest {folder}/no.csv does not exist"),
        (["R1,quick", "--config.data.manifest={folder}/layouts.csv"], "layout.png is 512x512, expected 128x128"),
        (["R1", "--config.phase_dir=/proc/no"], "/proc/no cannot be written (IMGINAV_OUTPUTS)"),
        (
            ["R1", "--config.data.cache_dir={folder}/layouts.csv/a"],
            "cannot be written (IMGINAV_CACHE): Not a directory",
        ),
        (["R1", "--config.num_epochs=100000000"], "MiB for the checkpoints; free some space, or set IMGINAV_WORK"),
    ],
)
def test_runs_that_could_not_start(check, cluster, words, message):
    places = {"folder": cluster.folder, "work": cluster.folder / "work"}
    said = check(*(word.format(**places) for word in words))
    assert said is not None
    assert message.format(**places) in said
    assert not (cluster.folder / "work").exists()


@pytest.mark.parametrize("name", ["w[1]", "a*", "back\\slash"])
def test_a_work_folder_where_checkpoints_cannot_be_kept(check, cluster, name):
    said = check("R1", f"--workdir={cluster.folder}/{name}")
    assert said is not None
    assert said.startswith(f"--workdir {cluster.folder}/{name} holds ")
    with pytest.raises(UserError, match=f"^IMGINAV_WORK {re.escape(str(cluster.folder / name))} holds "):
        checks.check_runs(["R1"], "any", [], cluster.folder / name)


def test_an_argument_that_is_no_option(cluster, monkeypatch):
    monkeypatch.setattr("sys.argv", ["preflight"])
    with pytest.raises(UserError, match=r"^IMGINAV_ARGUMENTS has an unknown argument batch_size=8, expected"):
        checks.check_runs(["R1"], str(ROOT / "configs" / "phase1_2.py"), ["batch_size=8"], cluster.folder / "work")


def test_runs_that_can_start(check, cluster):
    manifest = f"--config.data.manifest={cluster.folder}/layouts.csv"
    assert check("R1", "R2", "R3,seed=7", manifest, "--config.data.num_workers=99", "--config.batch_size=8") is None
    assert check("R1,quick", "R2,quick", "R3,quick", "R1,shortcuts,quick", "V3,quick,shortcuts,seed=7") is None
    assert not (cluster.folder / "work").exists()


def test_a_manifest_whose_rows_are_bad(check, cluster):
    manifest = cluster.folder / "layouts.csv"
    option = f"--config.data.manifest={manifest}"
    manifest.write_text("scene_id,type,room_id,layout_path\ns1,scene,0,layout.png\n")
    assert "lacks the column is_empty" in check("R1", option)
    manifest.write_text("scene_id,type,room_id,layout_path,is_empty\ns1,scene,0,layout.png,perhaps\n")
    assert 'row 2: is_empty "perhaps"' in check("R1", option)
    manifest.write_text("scene_id,type,room_id,layout_path,is_empty\ns1,scene,0,layout.png,true\n")
    assert check("R1", option) == f"{manifest} leaves no layout"
    manifest.write_text("scene_id,type,room_id,layout_path,is_empty\ns1,scene,0,gone.png,false\n")
    assert check("R1", option) == f"{cluster.folder}/gone.png does not exist"


def test_the_space_is_that_of_a_runs_checkpoints(check, cluster, monkeypatch):
    from configs.phase1_2 import get_config

    asked = []
    monkeypatch.setattr(checks, "_check_space", lambda runs: asked.append(runs))
    assert check("R1,quick") is None
    ((workdir, experiment),) = asked[0].items()
    # Weights and AdamW's two moments in float32, 786,143 of each, and a few counters, in so many copies.
    copies = training_run._checkpoints_kept(get_config("R1,quick")) + 1
    needed = checks._bytes_needed(workdir, experiment)
    assert 3 * 4 * 786_143 * copies < needed < 3 * 4 * 786_143 * copies + 100 * copies
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    assert checks._bytes_needed(workdir, experiment) == needed * (copies - 1) / copies


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        ([], {"IMGINAV_V100_EXPERIMENTS": "R1 R4"}, 'unknown experiment "R4"; valid ones are R1, R2, R3, V1, V2, V3'),
        (["--dry-run"], {"IMGINAV_PRESET": "quik"}, 'unknown preset "quik"; valid ones are full, quick, seed=NUMBER'),
        (["--dry-run"], {"IMGINAV_L40S_WALL_TIME": "10"}, "IMGINAV_L40S_WALL_TIME is 10, expected more than the 10"),
        ([], {"IMGINAV_V100_OPTIONS": "-J mine"}, "IMGINAV_V100_OPTIONS has -J, but a job's name says which"),
        ([], {"IMGINAV_WORK": "/tmp/w[1]"}, "IMGINAV_WORK /tmp/w[1] holds [, and checkpoints cannot be kept there"),
        ([], {"IMGINAV_L40S_EXPERIMENTS": " "}, "IMGINAV_L40S_EXPERIMENTS is empty"),
    ],
)
def test_nothing_is_submitted_and_nothing_made(cluster, phase, arguments, change, message):
    before = sorted(cluster.folder.rglob("*"))
    result = phase(*arguments, **change)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stdout.count("bsub ") == len(arguments) * 4, "a dry run shows all the same what it would submit"
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert sorted(path for path in cluster.folder.rglob("*") if path.name != "__pycache__") == before


def test_a_second_submission_waits_for_the_end_of_the_first(cluster, phase, monkeypatch):
    python, going = cluster.venv / "bin" / "python", str(cluster.folder / "go").replace(" ", "\\ ")
    python.write_text(python.read_text().replace("pwd >", f"until [ -e {going} ]; do sleep 0.1; done\npwd >"))
    assert phase().returncode == 0
    again = phase()
    assert (again.returncode, again.stdout) == (1, "")
    pattern = (
        rf"error: {cluster.project} has unfinished jobs: 101 phase1_2_R1 \((RUN|PEND)\), 102 .*, 103 .*, "
        r"104 phase1_2_report \(PEND\); wait for them, or: bkill 101 102 103 104\n"
    )
    assert re.fullmatch(pattern, again.stderr)
    (cluster.folder / "go").touch()
    cluster.wait()
    records = cluster.project / "experiments" / "requeues"
    monkeypatch.setenv("PATH", f"{cluster.binaries}:/usr/bin:/bin")
    checks.check_no_job_is_unfinished(records)
    shutil.rmtree(cluster.state)  # LSF forgets finished jobs
    checks.check_no_job_is_unfinished(records)


def test_a_job_that_was_submitted_by_hand_is_found_once_it_has_started(cluster, site, monkeypatch):
    cluster.exit_codes(*[75] * 30)
    job = cluster.submit("l40s.sh", **site, IMGINAV_MAX_REQUEUES="30")
    records = cluster.project / "experiments" / "requeues"
    while not list(records.glob("*")):
        time.sleep(0.1)
    monkeypatch.setenv("PATH", f"{cluster.binaries}:/usr/bin:/bin")
    with pytest.raises(UserError, match=rf"has unfinished jobs: {job} phase1_2_l40s \("):
        checks.check_no_job_is_unfinished(records)


def test_a_job_that_was_submitted_by_hand_is_found_while_it_waits(cluster, site, monkeypatch):
    cluster.submit("benchmark.sh", "-J", "first", **site)
    assert cluster.wait() == ["DONE"]
    for script in ("v100.sh", "benchmark.sh"):
        cluster.submit(script, "-w", "exit(101)", **site)  # for ever
    monkeypatch.setenv("PATH", f"{cluster.binaries}:/usr/bin:/bin")
    message = (
        f"jobs wait that were submitted in {cluster.project} and may train the same runs: "
        "102 phase1_2_v100[1] (PEND), 102 phase1_2_v100[2] (PEND); wait for them, or: bkill 102"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        checks.check_no_job_waits(cluster.project, cluster.folder / "work")
    checks.check_no_job_waits(cluster.folder / "another", cluster.folder / "work")


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        ("7|PEND|phase1_2_l40s|imginav_l40s_%J.out|$HOME/project/below", True),
        ("7[1]|PSUSP|phase1_2_v100[1]|/scratch/phase/logs/phase1_2_R1_%J.out|{home}/project", True),
        ("7|PEND|phase1_2_R1|/elsewhere/logs/phase1_2_R1_%J.out|{home}/project", False),
        ("7|PEND|phase1_2_l40s|imginav_l40s_%J.out|$HOME/project2", False),
        ("7|PEND|phase1_2_l40s|imginav_l40s_%J.out|project", False),
        ("7|RUN|phase1_2_l40s|imginav_l40s_%J.out|{home}/project", False),
        ("7|PEND|phase1_2_benchmark|imginav_benchmark_%J.out|{home}/project", False),
        ("sub_cwd: not a field", False),
        ("", False),
    ],
)
def test_which_jobs_wait_for_this_work_folder(cluster, monkeypatch, answer, waits):
    home = cluster.folder / "home"
    (cluster.folder / "answer").write_text(answer.format(home=home) + "\n")
    cluster.command("bjobs", f"#!/bin/sh\ncat '{cluster.folder}/answer'\n")
    monkeypatch.setenv("PATH", f"{cluster.binaries}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(home))
    if not waits:
        checks.check_no_job_waits(home / "project", Path("/scratch/phase"))
        return
    with pytest.raises(UserError, match=r"and may train the same runs: 7 phase1_2_.*; wait for them, or: bkill 7$"):
        checks.check_no_job_waits(home / "project", Path("/scratch/phase"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("echo 'LSF is down' >&2; exit 255", "bjobs does not say whether jobs 101 have ended: LSF is down"),
        ("echo '101|UNKWN|phase1_2_R1'", "unfinished jobs: 101 phase1_2_R1 (UNKWN)"),
        ("echo '101[2]|PSUSP|phase1_2_v100[2]'", "unfinished jobs: 101 phase1_2_v100[2] (PSUSP)"),
        (
            "echo '101   me   RUN   gpuv100   here'",
            "unfinished jobs: 101 gpuv100   here (RUN); wait for them, or: bkill 101",
        ),
        ("echo '101|ZOMBI|phase1_2_R1'", None),
        ("echo '101|EXIT|phase1_2_R1'", None),
        ("echo 'Job <101> is not found' >&2; exit 255", None),
    ],
)
def test_what_bjobs_says(cluster, monkeypatch, answer, message):
    records = cluster.folder / "work" / "experiments" / "requeues"
    records.mkdir(parents=True)
    (records / "101.0").write_text("0\n")
    cluster.command("bjobs", f"#!/bin/sh\n{answer}\n")
    monkeypatch.setenv("PATH", f"{cluster.binaries}:/usr/bin:/bin")
    if message is None:
        checks.check_no_job_is_unfinished(records)
        return
    with pytest.raises(UserError, match=re.escape(message)):
        checks.check_no_job_is_unfinished(records)
