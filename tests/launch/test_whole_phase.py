"""The real program under the stand-ins: from one command to a finished report, and two processes in one run."""

import csv
import json
import os
import re
import signal
import time

import pytest

OPTIONS = {
    "data.image_size": 32,
    "data.synthetic_size": 60,
    "model.base_channels": 16,
    "batch_size": 4,
    "num_epochs": 4,
    "optimizer.learning_rate": 3e-3,
    "samples.count": 1,
}
NAMES = [f"phase1_2_AE_R{number}_ds{number + 2}_quick" for number in (1, 2, 3)]


@pytest.fixture
def real(cluster):
    """The variables of a site whose nodes have no card."""
    cluster.set_card(None)
    cluster.use_real_python()
    return {
        "IMGINAV_VENV": str(cluster.venv),
        "IMGINAV_SYNTHETIC": "1",
        "IMGINAV_PRESET": "quick",
        "JAX_PLATFORMS": "cpu",
        **{name: value for name, value in os.environ.items() if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))},
    }


def arguments(**changes):
    options = OPTIONS | {name.replace("__", "."): value for name, value in changes.items()}
    return " ".join(f"--config.{name}={value}" for name, value in options.items())


def epochs_of(cluster, name):
    with (cluster.project / "experiments" / "phase1" / name / f"{name}_metrics.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_from_one_command_to_a_finished_report_with_one_run_cut_off_by_the_run_limit(cluster, real):
    result = cluster.bash(
        cluster.project / "launch" / "phase1_2.sh",
        **real,
        IMGINAV_ARGUMENTS=arguments(),
        IMGINAV_V100_WALL_TIME="9999:00",
        IMGINAV_L40S_WALL_TIME="1:41",  # the warning comes in the first minute, which lasts a second
        IMGINAV_L40S_OPTIONS="-wt 100",
        STAND_IN_CLOCK="Epoch 1/",
        STAND_IN_MINUTE="1 60",
    )
    assert result.returncode == 0, result.stderr
    assert cluster.wait(600) == ["DONE"] * 4, cluster.outputs()
    assert [cluster.codes(number) for number in (101, 102, 103)] == [[0], [0], [75, 0]]

    assert "Stopped by a signal after step" in cluster.job_file(103, "output.0.0")
    log = (cluster.project / "logs" / "phase1_2_R3_103.out").read_text()
    assert "from the checkpoint of step" in log
    assert "SYNTHETIC LAYOUTS" in log
    for name in NAMES:
        assert epochs_of(cluster, name) == ["1", "2", "3", "4"]
    report = cluster.project / "outputs" / "phase1_2_spatial_resolution" / "report"
    assert (report / "index.html").stat().st_size > 100_000
    with (report / "metrics.csv").open(newline="") as file:
        assert {"R1", "R2", "R3"} <= {row["label"] for row in csv.DictReader(file)}
    assert "plain" in json.loads((report / "metrics.json").read_text())["decisions"]


@pytest.mark.slow
def test_a_phase_with_a_run_that_fails_for_good_ends_with_a_report_that_names_it(cluster, real):
    python = cluster.venv / "bin" / "python"
    failing = 'case "$*" in *imginav_jax.main*:R2,quick*) echo "error: broken"; exit 1 ;; esac'
    python.write_text(python.read_text().replace("exec", f"{failing}\nexec", 1))
    result = cluster.bash(cluster.project / "launch" / "phase1_2.sh", **real, IMGINAV_ARGUMENTS=arguments())
    assert result.returncode == 0, result.stderr
    cluster.wait(600)
    assert cluster.states() == {"101[0]": "DONE", "102[0]": "EXIT", "103[0]": "DONE", "104[0]": "DONE"}
    report = cluster.project / "outputs" / "phase1_2_spatial_resolution" / "report"
    assert (report / "index.html").exists()
    decision = json.dumps(json.loads((report / "metrics.json").read_text())["decisions"]["plain"])
    assert "R2" in decision
    assert str(cluster.project) in decision, "where its log would be"


@pytest.mark.slow
def test_two_nodes_train_one_model_and_a_warning_stops_both(cluster, real):
    job = cluster.submit(
        "multinode.sh",
        *("-R", "span[ptile=4]", "-W", "0:10"),
        **real,
        IMGINAV_MULTINODE_EXPERIMENT="R1",
        IMGINAV_ARGUMENTS=arguments(),
        STAND_IN_CLOCK="Epoch 1/",
        STAND_IN_MINUTE="3 60",
    )
    assert cluster.wait(600) == ["DONE"], cluster.outputs()
    assert cluster.codes(job) == [75, 0]
    log = cluster.outputs()
    assert "2 x cpu" in log
    assert log.count("from the checkpoint of step") == 1, "one of them speaks"
    assert epochs_of(cluster, NAMES[0]) == ["1", "2", "3", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_takes_the_other_along_with_one_line(cluster, real, killed):
    python = cluster.venv / "bin" / "python"
    noted = 'case "$*" in *imginav_jax.main*) echo $$ >"$HOME/pid$IMGINAV_PROCESS" ;; esac'
    python.write_text(python.read_text().replace("exec", f"{noted}\nexec", 1))
    (cluster.folder / "home").mkdir(exist_ok=True)
    job = cluster.submit(
        "multinode.sh",
        *("-R", "span[ptile=4]"),
        **real,
        IMGINAV_MULTINODE_EXPERIMENT="R1",
        IMGINAV_ARGUMENTS=arguments(num_epochs=4000, early_stopping__patience=4000),
    )
    deadline = time.monotonic() + 300
    while "Epoch 1/" not in cluster.outputs():
        assert time.monotonic() < deadline, cluster.outputs()
        time.sleep(0.2)
    os.kill(int((cluster.folder / "home" / f"pid{killed}").read_text()), signal.SIGKILL)
    assert cluster.wait(30) == ["EXIT"]
    assert cluster.codes(job)[0] not in (0, 75)
    output = cluster.outputs()
    assert re.search(r"^error: process \d of 2 on .* has ended with exit code \d+$", output, re.MULTILINE)
    assert "Traceback" not in output
    assert "stack trace" not in output
