"""The stand-in for LSF does what LSF documents."""

import subprocess
import time

import pytest


@pytest.fixture
def lsf(cluster):
    """Call it with a script's text and the options of bsub; the answer of bsub."""

    def submit(script, *options, **variables):
        environment = cluster.environment(**variables)
        command = ["bsub", "-o", "%J_%I.out", *options]
        return subprocess.run(
            command, input=script, cwd=cluster.folder, env=environment, capture_output=True, text=True, check=False
        )

    return submit


def test_the_file_of_o_has_the_last_starts_output_alone_and_is_appended_to(lsf, cluster):
    lsf("[ -e again ] && echo second || { touch again; echo first; exit 75; }", "-Q", "75")
    cluster.wait()
    assert (cluster.folder / "101_0.out").read_text() == "second\n"
    assert cluster.job_file(101, "output.0.0") == "first\n"
    lsf("echo third", "-o", "101_0.out")
    cluster.wait()
    assert (cluster.folder / "101_0.out").read_text() == "second\nthird\n"


def test_conditions(lsf, cluster):
    lsf("exit 0")
    lsf("exit $((LSB_JOBINDEX - 1))", "-J", "array[1-2]")
    lsf("exit 1")
    starting = ["done(101)", "ended(102) && ended(103)", "done(103) || exit(103)"]
    waiting = ["done(102)", "exit(102)", "exit(101) || done(103)", "ended(101) && done(103)"]
    for condition in (*starting, *waiting):
        assert lsf("true", "-w", condition).returncode == 0
    deadline = time.monotonic() + 30
    while list(cluster.states().values()).count("PEND") > len(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    states = cluster.states()
    assert [states[f"{number}[0]"] for number in (104, 105, 106)] == ["DONE"] * 3
    assert [states[f"{number}[0]"] for number in (107, 108, 109, 110)] == ["PEND"] * 4
    refused = lsf("true", "-w", "ended(999)")
    assert (refused.returncode, refused.stdout) == (255, "")
    assert "Dependency condition invalid or job not found. Job not submitted." in refused.stderr


def test_names_and_indices(lsf, cluster):
    lsf('echo "$LSB_JOBNAME $LSB_JOBINDEX"', "-J", "a_name")
    lsf('echo "$LSB_JOBNAME $LSB_JOBINDEX"', "-J", "array[1-2,5]")
    cluster.wait()
    said = {path.name: path.read_text() for path in cluster.folder.glob("*.out")}
    assert said == {
        "101_0.out": "a_name 0\n",
        "102_1.out": "array[1] 1\n",
        "102_2.out": "array[2] 2\n",
        "102_5.out": "array[5] 5\n",
    }
    command = ["bjobs", "-noheader", "-o", "jobid stat job_name delimiter='|'", "102", "999"]
    found = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == [f"102|DONE|array[{index}]" for index in (1, 2, 5)]
    assert found.stderr == "Job <999> is not found\n"
    lsf("sleep 30", "-J", "array_too[2]")
    lsf("sleep 30", "-J", "mine")
    command[3:] = ["jobid job_name output_file sub_cwd delimiter='|'", "-J", "ar*_t*"]
    found = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, f"103|array_too[2]|%J_%I.out|{cluster.folder}\n")
    command[-1] = "too*"
    found = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (255, "Job <too*> is not found\n")


def test_a_submission_that_is_refused(lsf):
    assert lsf("true", STAND_IN_REFUSE="2").returncode == 0
    refused = lsf("true", STAND_IN_REFUSE="2")
    assert (refused.returncode, refused.stderr) == (255, "None: No such queue. Job not submitted.\n")
