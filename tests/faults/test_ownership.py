"""Two starts on one workdir, and what may be wrong in it whatever a lock says."""

import json
import shutil
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faults.conftest import NAME

LONG = {"num_epochs": 60, "early_stopping__patience": 1000, "checkpoint__every_minutes": 1e-3}
IN_USE = "error: --workdir {} is in use by process {} on "


def wait_for(process, path, seconds=60):
    wait_for_any(process, path.parent, path.name, seconds)


def wait_for_any(process, folder, pattern, seconds=60):
    deadline = time.monotonic() + seconds
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_twice(place, delay, **settings):
    """The owner and its output; the second is started `delay` seconds later and must leave within five."""
    first = place.start(**settings)
    lock = place.folder / ".work.lock"
    wait_for(first, lock)
    time.sleep(delay)
    begun = time.monotonic()
    second = place.start(**settings)
    printed, _ = second.communicate(timeout=60)
    assert time.monotonic() - begun < 5
    assert second.returncode == 1
    assert printed.startswith(IN_USE.format(place.work, first.pid)), printed
    assert printed.rstrip().endswith(str(lock))
    assert len(printed.splitlines()) == 1
    return first


@pytest.mark.fault(25, "the same command twice")
def test_the_second_of_two_starts_leaves_and_changes_nothing(place, whole, counted):
    first = start_twice(place, 0)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert place.end_state() == whole.end_state()
    assert not list(place.folder.glob(".*")), "no lock file is left"
    counted(1)


@pytest.fixture(scope="session")
def whole_long(tmp_path_factory, cache, whole):
    place = type(whole)(tmp_path_factory.mktemp("long"), cache)
    code, output = place.run(**LONG)
    assert code == 0, output
    return place


@pytest.mark.slow
@pytest.mark.fault(25, "the same command twice, 0 to 20 s apart, and the owner is killed")
@pytest.mark.parametrize("delay", [0, 0.5, 1, 2, 3, 5, 7, 9, 11, 14, 17, 20])
def test_starts_apart(place, whole_long, counted, delay):
    first = start_twice(place, delay, **LONG)
    if delay in (3, 9, 17):
        first.kill()
        first.communicate()
        assert first.returncode == -signal.SIGKILL
        first = place.start(**LONG)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert place.end_state() == whole_long.end_state()
    counted(1)


@pytest.mark.fault(25, "the owner is killed, and the next start goes on")
def test_a_killed_owner_is_followed_at_once(place, whole, counted):
    code, _ = place.run("kill:step:8", checkpoint__every_minutes=1e-5)
    assert code == -signal.SIGKILL
    assert (place.folder / ".work.lock").exists()
    code, output = place.run()
    assert code == 0, output
    assert "Continuing" in output
    assert place.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(25, "the checkpoint that a run goes on from vanishes")
def test_no_fresh_weights_in_the_middle_of_a_run(begun, counted):
    before = (begun.work / f"{NAME}_metrics.csv").read_bytes()
    code, output = begun.run("lose:compile")
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.endswith("work/checkpoints has no checkpoint of step 10")
    assert (begun.work / f"{NAME}_metrics.csv").read_bytes() == before
    counted(1)


@pytest.mark.fault(25, "a summary or a CSV that disagrees with the checkpoint")
@pytest.mark.parametrize(("folder", "what"), [("work", "summary"), ("phase", "csv")])
def test_what_disagrees_is_mended(tmp_path, whole, cache, counted, folder, what):
    place = type(whole)(tmp_path, cache)
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    summary, table = (tmp_path / folder / f"{NAME}_{suffix}" for suffix in ("summary.json", "metrics.csv"))
    if what == "summary":
        content = json.loads(summary.read_text())
        content["best_epoch"]["val_loss"] /= 2
        summary.write_text(json.dumps(content))
    else:
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    code, output = place.run()
    assert code == 0, output
    assert place.end_state() == whole.end_state()
    assert (
        json.loads(summary.read_text())["best_epoch"]
        == json.loads((whole.work / summary.name).read_text())["best_epoch"]
    )
    code, output = place.run()
    assert "has finished already" in output
    counted(1)


@pytest.mark.fault(26, "a run is requeued: its log keeps every start")
def test_the_log_has_every_start(place, counted):
    job = {"LSB_JOBID": "101", "LSB_JOBINDEX": "2"}
    code, _ = place.run("signal:USR2:step:9", environment=job)
    assert code == 75
    code, _ = place.run("raise:saved")
    assert code == 1
    log = (place.work / f"{NAME}.log").read_text()
    starts = [line for line in log.splitlines() if line.startswith("==== started")]
    assert len(starts) == 2
    assert starts[0].endswith(", LSF job 101[2] ====")
    for text in ("Epoch 1/3: loss", "stopped by SIGUSR2, exit code 75", "Continuing   from the checkpoint of step 10",
                 "the disk is on fire"):  # fmt: skip
        assert text in log, text
    counted(1)


def steps_in_tensorboard(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}


@pytest.mark.fault(27, "SIGKILL between checkpoints: TensorBoard shows each step once")
def test_tensorboard_shows_each_step_once(place, counted):
    settings = {"num_epochs": 70, "early_stopping__patience": 1000, "samples__every_epochs": 50}
    code, output = place.run("kill:step:388", **settings)
    assert code == -signal.SIGKILL, output
    assert steps_in_tensorboard(place.work)["step/loss"], "it has been opened by then"
    code, output = place.run("signal:HUP:step:8", **settings)
    assert code == 128 + signal.SIGHUP, output
    code, output = place.run(**settings)
    assert code == 0, output
    steps, of_training = steps_in_tensorboard(place.work), steps_in_tensorboard(place.work / "train")
    assert steps["step/loss"] == list(range(10, 421, 10))
    assert steps["epoch/loss"] == of_training["epoch/loss"] == list(range(6, 421, 6))
    for tag, each in [*steps.items(), *of_training.items()]:
        assert each == sorted(set(each)), tag
    counted(2)


@pytest.mark.fault(28, "a workdir whose checkpoints could never be restored")
@pytest.mark.parametrize("name", ["runs[1]", "runs\\1", "r*s"])
def test_a_workdir_that_is_a_pattern_is_refused_at_once(tmp_path, whole, cache, counted, name):
    place = type(whole)(tmp_path / name, cache)
    code, output = place.run()
    assert code == 1
    assert output.startswith(f"error: --workdir {place.work} holds ")
    assert len(output.splitlines()) == 1
    assert not place.folder.exists()
    counted(1)
