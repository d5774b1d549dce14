"""Every script under the stand-ins: what the program is given, what is refused, and how often a job starts again."""

import re
import shutil
import subprocess
import time

import pytest

from helpers import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
JOBS = ["v100.sh", "l40s.sh", "control.sh", "report.sh", "benchmark.sh", "multinode.sh"]
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
    start = 'program=("$python" -m' if name == "multinode.sh" else 'exec "$python" -m'
    assert sum(line.startswith(start) for line in lines) == 1


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


def test_control_is_measured_in_the_cards_precision(cluster, site):
    control = cluster.submit("control.sh", **site, IMGINAV_CONTROL_ARGUMENTS="--seeds 3")
    assert cluster.wait() == ["DONE"]
    outputs = f"{cluster.project}/outputs/phase1_2_spatial_resolution"
    expected = ["-m", "imginav_jax.control", "--precision", "bfloat16", outputs, "--seeds", "3"]
    assert cluster.recorded(control).arguments == expected


def test_the_report_and_the_benchmark(cluster, site):
    report = cluster.submit("report.sh", **site, IMGINAV_REPORT_ARGUMENTS="/more --write-next-config 'a b.py'")
    benchmark = cluster.submit("benchmark.sh", **site, IMGINAV_ARGUMENTS="--config.batch_size=8")
    assert cluster.wait() == ["DONE", "DONE"]
    outputs = f"{cluster.project}/outputs/phase1_2_spatial_resolution"
    expected = ["--expected", "R1", "R2", "R3", "--work", str(cluster.project)]
    more = ["/more", "--write-next-config", "a b.py"]
    assert cluster.recorded(report).arguments == ["-m", "imginav_jax.report", *expected, outputs, *more]
    given = cluster.recorded(benchmark).arguments
    assert given[:3] == ["-m", "imginav_jax.benchmark", "--phase"]
    assert cluster.outputs().count("checked the card\n") == 1  # before it is timed
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


@pytest.mark.parametrize("name", [*JOBS, "phase1_2.sh"])
def test_a_name_that_nothing_reads_is_refused(cluster, site, name):
    (cluster.project / "launch" / "site.env").write_text("IMGINAV_PRESETS=quick\n")
    result = cluster.bash(cluster.project / "launch" / name, **site)
    assert result.returncode == 1
    message = "error: IMGINAV_PRESETS is set, but nothing reads it; the nearest name is IMGINAV_PRESET\n"
    assert result.stderr == message
    assert not (cluster.project / "experiments").exists()
    assert not cluster.state.exists()


@pytest.mark.parametrize(("mark", "end"), [(b"", "\r\n"), (b"\xef\xbb\xbf", "\r\r\n")])
def test_a_sites_file_from_another_system(cluster, site, end, mark):
    lines = [f'{variable}="{value}"' for variable, value in site.items()]
    lines = [lines[0], "# a comment", "", *lines[1:], "IMGINAV_L40S_QUEUE=gpul40s", "IMGINAV_L40S_WALL_TIME=9:00"]
    (cluster.project / "launch" / "site.env").write_bytes(mark + end.join(lines).encode())
    cluster.skip_checks()
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    assert "phase1_2_R3_%J.out' -q gpul40s -W 9:00 <" in result.stdout
    assert "\r" not in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"IMGINAV_PRESET=quick\nIMGINAV_MANIFEST = /a\n", "line 2: IMGINAV_MANIFEST: command not found"),
        (b'A=1\n\nB="2\n', """line 3: unexpected EOF while looking for matching `"'"""),
        (b"A=$UNKNOWN/b\n", "line 1: UNKNOWN: unbound variable"),
    ],
)
def test_a_sites_file_that_is_no_list_of_settings_is_one_line(cluster, site, content, message):
    file = cluster.project / "launch" / "site.env"
    file.write_bytes(content)
    result = cluster.bash(cluster.project / "launch" / "l40s.sh", **site)
    assert result.returncode == 1
    assert result.stderr == f"error: {file}, {message}; expected lines of NAME=value, in bash\n"
    file.write_text("IMGINAV_PRESET=quick\n", encoding="utf-16")
    result = cluster.bash(cluster.project / "launch" / "l40s.sh", **site)
    assert (result.returncode, result.stderr) == (1, f"error: {file} is UTF-16 text, expected UTF-8\n")


def test_a_sites_relative_paths_are_the_projects_and_exported_ones_the_current_folders(cluster, site):
    (cluster.project / "data").mkdir()
    shutil.copy(cluster.folder / "layouts.csv", cluster.project / "data")
    shutil.copy(cluster.folder / "layout.png", cluster.project / "data")
    lines = ["IMGINAV_MANIFEST=data/layouts.csv", "IMGINAV_WORK=work", "IMGINAV_CACHE='~/a cache'", "IMGINAV_OUTPUTS=o"]
    (cluster.project / "launch" / "site.env").write_text("\n".join(lines))
    below = cluster.project / "below"
    below.mkdir()
    cluster.skip_checks()
    given = {"IMGINAV_VENV": site["IMGINAV_VENV"], "IMGINAV_OUTPUTS": "mine"}
    job = cluster.submit("l40s.sh", cwd=below, **given)
    assert cluster.wait() == ["DONE"], cluster.outputs()
    phase = cluster.bash(cluster.project / "launch" / "phase1_2.sh", cwd=below, **given)
    assert phase.returncode == 0, phase.stderr
    assert f"phase1_2_R1, output in {cluster.project}/work/logs/phase1_2_R1_102.out" in phase.stdout
    assert set(cluster.wait()) == {"DONE"}, cluster.outputs()
    for number in (job, 102, 104):
        found = cluster.recorded(number)
        assert found.cwd == cluster.project / "work"
        assert f"--config.data.manifest={cluster.project}/data/layouts.csv" in found.arguments
        assert f"--config.data.cache_dir={cluster.folder}/home/a cache" in found.arguments
        assert f"--config.phase_dir={below}/mine" in found.arguments


def test_another_phase_has_its_own_config_and_folder(cluster, site):
    another = {"IMGINAV_CONFIG": "configs/phase1_3.py", "IMGINAV_V100_EXPERIMENTS": "V1 V2"}
    (cluster.project / "launch" / "site.env").write_text("IMGINAV_OUTPUTS=of_phase_1_2")
    job = cluster.submit("v100.sh", **site, **another)
    assert set(cluster.wait()) == {"DONE"}, cluster.outputs()
    for index, label in ((1, "V1"), (2, "V2")):
        found = cluster.recorded(job, index).arguments
        assert f"--config={cluster.project}/configs/phase1_3.py:{label}" in found
        assert not [each for each in found if each.startswith("--config.phase_dir")]
    phase = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site, **another)
    assert phase.returncode == 1
    assert phase.stderr.startswith("error: this is about configs/phase1_2.py, and IMGINAV_CONFIG is ")


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


@pytest.mark.parametrize("name", ["control.sh", "report.sh", "benchmark.sh"])
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
    waiting = "trap 'exit 75' USR2; touch waited; for i in $(seq 100); do sleep 0.1; done; exit 1"
    cluster.recorder_does(f"[ -e waited ] || {{ {waiting}; }}")
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
        f"bsub -J phase1_2_R1 -o '{logs}/phase1_2_R1_%J.out' -q a100 "
        f"-R 'select[gpu32gb] span[hosts=1]' < '{project}/launch/v100.sh'",
        f"bsub -J phase1_2_R2 -o '{logs}/phase1_2_R2_%J.out' -q a100 "
        f"-R 'select[gpu32gb] span[hosts=1]' < '{project}/launch/v100.sh'",
        f"bsub -J phase1_2_R3 -o '{logs}/phase1_2_R3_%J.out' -W 8:00 < '{project}/launch/l40s.sh'",
        f"bsub -J phase1_2_V3 -o '{logs}/phase1_2_V3_%J.out' -W 8:00 < '{project}/launch/l40s.sh'",
        f"bsub -J phase1_2_report -o '{logs}/phase1_2_report_%J.out' "
        f"-w 'ended(R1_JOB) && ended(R2_JOB) && ended(R3_JOB) && ended(V3_JOB)' < '{project}/launch/report.sh'",
    ]
    assert not cluster.state.exists()
    assert not logs.exists()
    result = cluster.bash(script, "--dryrun", **site)
    assert (result.returncode, result.stderr) == (1, "error: unknown argument --dryrun; the only option is --dry-run\n")


def test_control_comes_between_the_runs_and_the_report(cluster, site):
    more = {"IMGINAV_CONTROL": "1", "IMGINAV_CONTROL_QUEUE": "gpua100"}
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", "--dry-run", **site, **more)
    assert result.returncode == 0, result.stderr
    project, logs = cluster.project, cluster.project / "logs"
    runs = "ended(R1_JOB) && ended(R2_JOB) && ended(R3_JOB)"
    assert result.stdout.splitlines()[3:] == [
        f"bsub -J phase1_2_control -o '{logs}/phase1_2_control_%J.out' -w '{runs}' -q gpua100 "
        f"< '{project}/launch/control.sh'",
        f"bsub -J phase1_2_report -o '{logs}/phase1_2_report_%J.out' -w '{runs} && ended(CONTROL_JOB)' "
        f"< '{project}/launch/report.sh'",
    ]
    refused = cluster.bash(cluster.project / "launch" / "phase1_2.sh", "--dry-run", **site, IMGINAV_CONTROL="yes")
    assert (refused.returncode, refused.stderr) == (1, "error: IMGINAV_CONTROL is 'yes', expected 0 or 1\n")


def test_the_phase_is_submitted_with_a_report_that_waits(cluster, site):
    more = {"IMGINAV_REPORT_QUEUE": "short", "IMGINAV_REPORT_OPTIONS": "-N -u me@example.org"}
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site, **more)
    assert result.returncode == 0, result.stderr
    logs = cluster.project / "logs"
    jobs = {101: "R1", 102: "R2", 103: "R3", 104: "report"}
    names = {number: f"phase1_2_{name}_{number}.out" for number, name in jobs.items()}
    assert result.stdout.splitlines() == [
        f"{number}: phase1_2_{name}, output in {logs / names[number]}" for number, name in jobs.items()
    ]
    assert set(cluster.wait()) == {"DONE"}
    assert '"w": "ended(101) && ended(102) && ended(103)", ' in cluster.job_file(104, "job.json")
    assert '"q": "short"' in cluster.job_file(104, "job.json")
    assert '"u": "me@example.org"' in cluster.job_file(104, "job.json")
    assert {path.name for path in logs.iterdir()} == set(names.values())
    for number in (101, 102, 103):
        assert cluster.recorded(number).arguments[2].endswith(f"configs/phase1_2.py:{jobs[number]}")
    ends = [(cluster.folder / f"{number}.0.0.arguments").stat().st_mtime for number in (101, 102, 103)]
    assert max(ends) <= (cluster.folder / "104.0.0.arguments").stat().st_mtime


def test_jobs_know_their_experiment_where_nothing_is_handed_on(cluster, site):
    lines = [f'{variable}="{value}"' for variable, value in site.items()]
    lines += ["IMGINAV_V100_EXPERIMENTS='V1 R2,seed=7'", "IMGINAV_PRESET=full"]
    (cluster.project / "launch" / "site.env").write_text("\n".join(lines))
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **NOTHING)
    assert result.returncode == 0, result.stderr
    assert set(cluster.wait()) == {"DONE"}, cluster.outputs()
    found = [cluster.recorded(number).arguments[2].rpartition(":")[2] for number in (101, 102, 103)]
    assert found == ["V1,full", "R2,seed=7,full", "R3,full"]
    report = cluster.recorded(104).arguments
    assert report[2:-1] == ["--expected", *found, "--work", str(cluster.project)]


def test_a_job_named_after_an_experiment_trains_it(cluster, site):
    named = cluster.submit("l40s.sh", "-J", "phase1_2_R2", **site)
    other = cluster.submit("l40s.sh", "-J", "phase1_2_l40s_again", **site)
    array = cluster.submit("v100.sh", "-J", "phase1_2_R2[1-1]", **site)
    cluster.wait()
    assert cluster.recorded(named).arguments[2].endswith(":R2")
    assert cluster.recorded(other).arguments[2].endswith(":R3")
    assert cluster.recorded(array, 1).arguments[2].endswith(":R1")


def test_a_report_starts_after_a_run_that_failed(cluster, site):
    cluster.skip_checks()
    cluster.exit_codes(1)
    cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site)
    assert sorted(cluster.wait()) == ["DONE", "DONE", "DONE", "EXIT"]
    assert cluster.states()["104[0]"] == "DONE"


@pytest.mark.parametrize(
    ("number", "before"),
    [("1", ""), ("3", "101 102")],
)
def test_a_refused_submission_says_what_was_submitted_before(cluster, site, number, before):
    cluster.skip_checks()
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site, STAND_IN_REFUSE=number)
    assert result.returncode == 1
    name = {"1": "v100", "3": "l40s"}[number]
    message = f"error: bsub refused {cluster.project}/launch/{name}.sh (gpu{name}: No such queue. Job not submitted.)"
    after = f"; submitted before it: {before}, which this ends: bkill {before}" if before else ""
    assert result.stderr == f"{message}{after}\n"


def test_without_bsub_nothing_is_made(cluster, site):
    cluster.skip_checks()
    (cluster.binaries / "bsub").unlink()
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **site)
    assert result.stderr == "error: bsub is not installed here: log in where jobs are submitted\n"
    assert result.returncode == 1
    assert not (cluster.project / "logs").exists()


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
