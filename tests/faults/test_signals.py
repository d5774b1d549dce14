"""Signals from the scheduler and from people: everything saved, the exit code said, the same end as without them."""

import os
import random
import signal
import time

import pytest

from imginav_jax.runs import checkpoints

CODES = {"USR2": 75, "TERM": 128 + signal.SIGTERM, "INT": 128 + signal.SIGINT}
OTHERS = {"HUP": 128 + signal.SIGHUP, "USR1": 128 + signal.SIGUSR1, "XCPU": 128 + signal.SIGXCPU}


@pytest.mark.fault(1, "SIGUSR2 in mid-epoch, five times in one run")
def test_five_preemptions(place, whole, counted):
    steps = (2, 1, 4, 3, 2)  # recorded since the start before
    for recorded in steps:
        code, output = place.run(f"signal:USR2:step:{recorded}")
        assert code == 75, output
        assert "all is saved" in output
    assert place.run()[0] == 0
    assert place.end_state() == whole.end_state()
    counted(len(steps))


@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.fault(2, "SIGTERM and SIGINT in mid-epoch")
def test_terminated_and_interrupted(place, whole, counted, name):
    for recorded in (3, 5):
        code, output = place.run(f"signal:{name}:step:{recorded}")
        assert code == CODES[name], output
    assert place.run()[0] == 0
    assert place.end_state() == whole.end_state()
    counted(2)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.fault(2, "SIGHUP, SIGUSR1 and SIGXCPU in mid-epoch")
def test_other_signals_save_too(place, whole, counted, name):
    code, output = place.run(f"signal:{name}:step:3")
    assert code == OTHERS[name], output
    assert "all is saved" in output
    assert place.run()[0] == 0
    assert place.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(2, "SIGHUP under nohup changes nothing")
def test_nohup(place, whole, counted):
    code, output = place.run("signal:HUP:step:3", launcher=["nohup"])
    assert code == 0, output
    assert place.end_state() == whole.end_state()
    counted(1)


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(["prepare"], id="preparing"),
        pytest.param(["compile"], id="compiling"),
        pytest.param(["evaluation"], id="evaluating"),
        pytest.param(["evaluation:3"], id="evaluating for the last time"),
        pytest.param(["save:2"], id="saving"),
        pytest.param(["step:4", "save"], id="saving what the first signal asked for"),
        pytest.param(["saved:2"], id="after a save"),
        pytest.param(["saved:3"], id="after the last save"),
        pytest.param(["finish"], id="finishing"),
    ],
)
@pytest.mark.fault(3, "a signal during preparation, compilation, evaluation, save, and just before the end")
def test_at_any_moment(place, whole, counted, moments, tmp_path):
    if moments == ["prepare"]:
        place.cache = tmp_path / "cache"
    code, output = place.run(*(f"signal:USR2:{moment}" for moment in moments))
    assert code in (0, 75), output
    assert code == 75 or moments[0].startswith(("save", "finish"))
    found = checkpoints.find(place.checkpoints)
    assert found is None or not found.damaged
    assert place.run()[0] == 0
    assert place.end_state() == whole.end_state()
    assert all(each.name.isdecimal() for each in place.checkpoints.iterdir())
    counted(len(moments))


@pytest.mark.slow
@pytest.mark.parametrize("name", CODES)
@pytest.mark.fault(4, "SIGUSR2, SIGTERM, SIGINT to the whole process group, with loader workers")
def test_the_group_and_its_workers(place, counted, name):
    generator = random.Random(0)
    for _ in range(3):
        process = place.start(**FOR_EVER, data__num_workers=1)
        time.sleep(6 + 14 * generator.random())
        os.killpg(process.pid, getattr(signal, f"SIG{name}"))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == CODES[name], output
        assert "Traceback" not in output
        wait_for_the_end_of_group(process.pid)
    counted(3)


FOR_EVER = {"num_epochs": 100_000, "early_stopping__patience": 100_000}


def wait_for_the_end_of_group(group, seconds=10):
    """Fails if a process of the group is alive after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    pytest.fail(f"processes of group {group} are alive after {seconds} s")
