"""Every script under the stand-ins: what the program is given, what is refused, and how often a job starts again."""

import re
import shutil
import subprocess
import time

import pytest

from conftest import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
JOBS = ["v100.sh", "l40s.sh", "report.sh", "benchmark.sh", "multinode.sh"]
TRAINING = ["v100.sh", "l40s.sh", "multinode.sh"]
NOTHING = {"STAND_IN_ENV": "none"}


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    names = [str(path.relative_to(ROOT)) for path in SCRIPTS]
    result = subprocess.run(["shellcheck", "-x", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_knows_its_own_path_a_module_or_a_users_folder(path):
    code = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("# "))
    assert not re.search(r"\$\{?0\b|BASH_SOURCE|\bmodule (load|add|swap)|/home|/work\d|/zhome|~/", code)
    for line in re.findall(r"^#BSUB.*$", code, re.MULTILINE):
        assert "$" not in line, "bsub does not expand it"


@pytest.mark.parametrize("name", JOBS)
def test_each_script_is_thin(name):
    lines = (ROOT / "launch" / name).read_text().splitlines()
    assert len(lines) <= 50
    assert sum(line.startswith('exec "$python" -m') for line in lines) == 1


def test_v100_is_an_array_of_r1_and_r2(cluster, site):
    cluster.set_card("V100 16 GB")
    job = cluster.submit("v100.sh", **site)
    assert cluster.wait() == ["DONE", "DONE"]
    for index, experiment in ((1, "R1"), (2, "R2")):
        found = cluster.recorded(job, index)
        assert found.arguments == [
            "-m",
            "imginav_jax.main",
            f"--config={cluster.project}/configs/phase1_2.py:{experiment}",
            f"--config.phase_dir={cluster.project}/outputs/phase1_2_spatial_resolution",
            "--config.precision=float16",
            f"--config.data.num_workers={found.environment['IMGINAV_WORKERS']}",
            f"--config.data.manifest={cluster.folder}/layouts.csv",
        ]
        assert found.cwd == cluster.project
        assert found.environment["XLA_CLIENT_MEM_FRACTION"] == ".88"
        output = cluster.project / f"imginav_v100_{job}_{index}.out"
        assert "settings for V100 16 GB" in output.read_text()


@pytest.mark.parametrize(
    ("label", "precision"),
    [("V100 32 GB", "float16"), ("L40S", "bfloat16"), ("unknown", "float32")],
)
def test_l40s_is_r3_with_the_settings_of_the_card_that_it_gets(cluster, site, label, precision):
    cluster.set_card(label)
    job = cluster.submit("l40s.sh", **site)
    assert cluster.wait() == ["DONE"]
    found = cluster.recorded(job)
    assert f"--config={cluster.project}/configs/phase1_2.py:R3" in found.arguments
    assert f"--config.precision={precision}" in found.arguments
    assert ("JAX_DEFAULT_MATMUL_PRECISION" in found.environment) == (precision == "float32")
    assert ("NOT KNOWN here: safe defaults" in cluster.outputs()) == (label == "unknown")


def test_a_job_without_a_card_is_refused_unless_the_cpu_is_asked_for(cluster, site):
    cluster.set_card(None)
    refused = cluster.submit("l40s.sh", **site)
    asked = cluster.submit("l40s.sh", **site, JAX_PLATFORMS="cpu")
    assert cluster.wait() == ["EXIT", "DONE"]
    assert cluster.codes(refused) == [1]
    assert "error: this job has no card that works; JAX_PLATFORMS=cpu runs it without" in cluster.outputs()
    assert "--config.precision=float32" in cluster.recorded(asked).arguments


def test_the_report_and_the_benchmark(cluster, site):
    report = cluster.submit("report.sh", **site, IMGINAV_REPORT_ARGUMENTS="--write-next-config 'a b.py'")
    benchmark = cluster.submit("benchmark.sh", **site, IMGINAV_ARGUMENTS="--config.batch_size=8")
    assert cluster.wait() == ["DONE", "DONE"]
    outputs = f"{cluster.project}/outputs/phase1_2_spatial_resolution"
    assert cluster.recorded(report).arguments == ["-m", "imginav_jax.report", outputs, "--write-next-config", "a b.py"]
    given = cluster.recorded(benchmark).arguments
    assert given[:3] == ["-m", "imginav_jax.benchmark", "--phase"]
    assert {f"--config.phase_dir={outputs}", "--config.precision=bfloat16", "--config.batch_size=8"} <= set(given)


def test_what_a_site_and_a_user_set(cluster, site):
    changes = {
        "IMGINAV_WORK": str(cluster.folder / "a work root"),
        "IMGINAV_OUTPUTS": str(cluster.folder / "outputs"),
        "IMGINAV_CACHE": str(cluster.folder / "a cache"),
        "IMGINAV_PRECISION": "float32",
        "IMGINAV_PRESET": "quick,seed=7",
        "IMGINAV_ARGUMENTS": "--config.num_epochs=2 '--config.data.root=/a b'",
        "IMGINAV_L40S_EXPERIMENTS": "V3",
    }
    job = cluster.submit("l40s.sh", **site, **changes)
    assert cluster.wait() == ["DONE"]
    found = cluster.recorded(job)
    assert found.cwd == cluster.folder / "a work root"
    assert found.arguments[2].endswith("phase1_2.py:V3,quick,seed=7")
    assert found.arguments[-2:] == ["--config.num_epochs=2", "--config.data.root=/a b"]
    assert f"--config.phase_dir={cluster.folder}/outputs" in found.arguments
    assert f"--config.data.cache_dir={cluster.folder}/a cache" in found.arguments
    assert found.environment["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert found.environment["JAX_COMPILATION_CACHE_DIR"].startswith(f"{cluster.folder}/a cache/xla/")


@pytest.mark.parametrize("name", JOBS)
def test_nothing_of_the_submitters_environment_is_needed(cluster, site, name):
    lines = [f'{variable}="{value}"' for variable, value in site.items()]
    (cluster.project / "launch" / "site.env").write_text("\n".join([*lines, "IMGINAV_PRECISION=float32\n"]))
    job = cluster.submit(name, **NOTHING)
    assert set(cluster.wait()) == {"DONE"}, cluster.outputs()
    found = cluster.recorded(job, index=1 if name == "v100.sh" else 0)
    assert found.environment["IMGINAV_PRECISION"] == "float32"


def test_what_is_exported_wins_over_the_sites_file(cluster, site):
    (cluster.project / "launch" / "site.env").write_text("IMGINAV_PRECISION=float32\nIMGINAV_PRESET=quick\n")
    job = cluster.submit("l40s.sh", **site, IMGINAV_PRECISION="float16")
    assert cluster.wait() == ["DONE"]
    given = cluster.recorded(job).arguments
    assert given[2].endswith(":R3,quick")
    assert "--config.precision=float16" in given


def test_from_a_folder_below_and_from_a_folder_without_the_project(cluster, site):
    below = cluster.project / "a" / "folder"
    below.mkdir(parents=True)
    job = cluster.submit("l40s.sh", cwd=below, **site)
    lost = cluster.submit("l40s.sh", cwd=cluster.folder, **site)
    assert cluster.wait() == ["DONE", "EXIT"]
    assert cluster.recorded(job).cwd == cluster.project
    assert (below / f"imginav_l40s_{job}.out").exists()
    assert cluster.codes(lost) == [1]
    assert f"error: no launch/env.sh in {cluster.folder} or above: submit in the project" in cluster.outputs()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"IMGINAV_VENV": "no"}, "error: no Python environment in {project}/no: make it, or set IMGINAV_VENV"),
        ({"IMGINAV_MANIFEST": "no.csv"}, "error: manifest {project}/no.csv cannot be read: correct IMGINAV_MANIFEST"),
        (
            {"IMGINAV_MANIFEST": ""},
            "error: no manifest: set IMGINAV_MANIFEST, or IMGINAV_SYNTHETIC=1 to train on synthetic layouts",
        ),
        ({"IMGINAV_MAX_REQUEUES": "many"}, "error: IMGINAV_MAX_REQUEUES is 'many', expected a number"),
    ],
)
@pytest.mark.parametrize("name", [*TRAINING, "phase1_2.sh"])
def test_what_is_missing_is_said_in_one_line_before_python_starts(cluster, site, name, change, message):
    result = cluster.bash(cluster.project / "launch" / name, **site | change)
    assert result.returncode == 1
    assert result.stderr == message.format(project=cluster.project) + "\n"
    assert not list(cluster.folder.glob("*.arguments"))
    assert not (cluster.project / "experiments").exists()
    assert not cluster.state.exists(), "nothing is submitted"


@pytest.mark.parametrize("name", ["report.sh", "benchmark.sh"])
def test_these_need_the_environment_alone(cluster, site, name):
    result = cluster.bash(cluster.project / "launch" / name, IMGINAV_VENV="nowhere")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    result = cluster.bash(cluster.project / "launch" / name, IMGINAV_VENV=site["IMGINAV_VENV"])
    assert result.returncode == 0, result.stderr


def test_other_mistakes(cluster, site):
    for change, message in (
        ({"IMGINAV_ARGUMENTS": "--config.name='a"}, "IMGINAV_ARGUMENTS has a quote that is not closed"),
        ({"IMGINAV_PRECISION": "fp16"}, "IMGINAV_PRECISION is 'fp16', expected float32, bfloat16, float16"),
        ({"LSB_JOBINDEX": "2"}, "IMGINAV_L40S_EXPERIMENTS is 'R3', but this is element 2 of the job array"),
    ):
        result = cluster.bash(cluster.project / "launch" / "l40s.sh", **site, **change)
        assert result.returncode == 1
        assert message in result.stderr
    assert not list(cluster.folder.glob("*.arguments"))


def test_synthetic_layouts_must_be_asked_for(cluster, site):
    job = cluster.submit("l40s.sh", **site | {"IMGINAV_MANIFEST": "", "IMGINAV_SYNTHETIC": "1"})
    assert cluster.wait() == ["DONE"]
    assert "manifest" not in " ".join(cluster.recorded(job).arguments)


@pytest.mark.parametrize("name", TRAINING)
def test_a_job_is_requeued_on_exit_code_75_and_goes_on(cluster, site, name):
    cluster.exit_codes(75, 75, 0)
    options = ["-J", "one"] if name == "v100.sh" else []
    job = cluster.submit(name, *options, "-n", "4", **site)
    assert cluster.wait() == ["DONE"]
    assert cluster.codes(job) == [75, 75, 0]
    (output,) = cluster.project.glob("imginav_*.out")
    assert output.read_text().count("recorded -m imginav_jax.main") == 1, "LSF keeps that of the last start"
    assert cluster.outputs().count("recorded -m imginav_jax.main") == 3


def test_another_exit_code_ends_the_job(cluster, site):
    cluster.exit_codes(1, 0)
    job = cluster.submit("l40s.sh", **site)
    assert cluster.wait() == ["EXIT"]
    assert cluster.codes(job) == [1]


def test_requeues_are_capped_for_each_job(cluster, site):
    cluster.exit_codes(*[75] * 20)
    job = cluster.submit("l40s.sh", **site, IMGINAV_MAX_REQUEUES="2")
    assert cluster.wait() == ["EXIT"]
    assert cluster.codes(job) == [75, 75, 75, 76]
    assert f"error: job {job} was started again 2 times (IMGINAV_MAX_REQUEUES) and has not" in cluster.outputs()
    cluster.exit_codes(0)
    again = cluster.submit("l40s.sh", **site, IMGINAV_MAX_REQUEUES="2")
    assert cluster.wait() == ["EXIT", "DONE"]
    assert cluster.codes(again) == [0]


def test_the_warning_before_the_run_limit_reaches_the_program(cluster, site):
    python = cluster.venv / "bin" / "python"
    waiting = "trap 'exit 75' USR2; touch waited; for i in $(seq 100); do sleep 0.1; done; exit 1"
    recorder = python.read_text()
    python.write_text(recorder.replace("code=$(head", f"[ -e waited ] || {{ {waiting}; }}\ncode=$(head"))
    job = cluster.submit("l40s.sh", "-W", "0:40", **site, STAND_IN_MINUTE="0.05")
    assert cluster.wait() == ["DONE"], cluster.outputs()
    assert cluster.codes(job) == [75, 0]
    assert cluster.job_file(job, "signals") == "SIGUSR2 in minute 30\n"


def test_a_dry_run_shows_what_would_be_submitted(cluster, site):
    script = cluster.project / "launch" / "phase1_2.sh"
    options = {
        "IMGINAV_V100_QUEUE": "a100",
        "IMGINAV_L40S_WALL_TIME": "8:00",
        "IMGINAV_V100_OPTIONS": "-R 'select[gpu32gb] span[hosts=1]'",
        "IMGINAV_L40S_EXPERIMENTS": "R3 V3",
    }
    result = cluster.bash(script, "--dry-run", **site, **options)
    assert result.returncode == 0
    project, logs = cluster.project, cluster.project / "logs"
    assert result.stdout.splitlines() == [
        f"bsub -J 'phase1_2_v100[1-2]' -o '{logs}/phase1_2_v100_%J_%I.out' -q a100 "
        f"-R 'select[gpu32gb] span[hosts=1]' < '{project}/launch/v100.sh'",
        f"bsub -J 'phase1_2_l40s[1-2]' -o '{logs}/phase1_2_l40s_%J_%I.out' -W 8:00 < '{project}/launch/l40s.sh'",
        f"bsub -J phase1_2_report -o '{logs}/phase1_2_report_%J_%I.out' -w 'done(V100_JOB) && done(L40S_JOB)' "
        f"< '{project}/launch/report.sh'",
    ]
    assert not cluster.state.exists()
    assert not logs.exists()
    result = cluster.bash(script, "--dryrun", **site)
    assert (result.returncode, result.stderr) == (1, "error: unknown argument --dryrun; the only option is --dry-run\n")


def test_the_phase_is_submitted_with_a_report_that_waits(cluster, site):
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site, IMGINAV_REPORT_QUEUE="short")
    assert result.returncode == 0, result.stderr
    logs = cluster.project / "logs"
    assert result.stdout.splitlines() == [
        f"101: phase1_2_v100[1-2], output in {logs}",
        f"102: phase1_2_l40s[1-1], output in {logs}",
        f"103: phase1_2_report, output in {logs}",
    ]
    assert set(cluster.wait()) == {"DONE"}
    assert '"w": "done(101) && done(102)", ' in cluster.job_file(103, "job.json")
    assert '"q": "short"' in cluster.job_file(103, "job.json")
    names = {f"phase1_2_{name}.out" for name in ("v100_101_1", "v100_101_2", "l40s_102_1", "report_103_0")}
    assert {path.name for path in logs.iterdir()} == names
    ends = {name: (cluster.folder / f"{name}.arguments").stat().st_mtime for name in ("101.1.0", "101.2.0", "102.1.0")}
    assert max(ends.values()) <= (cluster.folder / "103.0.0.arguments").stat().st_mtime


def test_a_report_does_not_start_after_a_run_that_failed(cluster, site):
    cluster.exit_codes(1)
    cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site)
    until(lambda: sum(state in ("DONE", "EXIT") for state in cluster.states().values()) == 3)
    assert "EXIT" in cluster.states().values()
    time.sleep(0.5)
    assert cluster.states()["103[0]"] == "PEND"


def test_a_refused_submission_says_what_was_submitted_before(cluster, site):
    bsub = (cluster.binaries / "bsub").read_text()
    cluster.command("bsub", bsub.replace("#!/bin/sh", '#!/bin/sh\ncase "$*" in *l40s*) exit 255 ;; esac'))
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site)
    assert result.returncode == 1
    assert "l40s.sh; submitted before it: 101" in result.stderr


def test_one_process_a_node(cluster, site):
    job = cluster.submit("multinode.sh", **site, IMGINAV_MULTINODE_EXPERIMENT="R1")
    assert cluster.wait() == ["DONE"], cluster.outputs()
    until((cluster.folder / f"{job}.0.1.cwd").exists)  # the last that it writes
    first, second = cluster.recorded(job), cluster.recorded(job, process=1)
    assert first.arguments == second.arguments
    for index, found in enumerate((first, second)):
        assert found.environment["IMGINAV_COORDINATOR"] == f"localhost:{10000 + int(job)}"
        assert found.environment["IMGINAV_PROCESSES"] == "2"
        assert found.environment["IMGINAV_PROCESS"] == str(index)
        assert found.arguments[2].endswith(":R1")
    (count,) = (cluster.project / "experiments" / "requeues").iterdir()
    assert (count.name, count.read_text()) == (f"{job}.0", "1\n")
