"""SIGKILL, which no program can answer: at most the work since the last save is lost, and nothing is half there."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from faults.test_signals import wait_for_the_end_of_group
from imginav_jax.datasets import preparation
from imginav_jax.datasets.imginav_layouts import VERSION
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.runs import checkpoints


@pytest.mark.slow
@pytest.mark.fault(5, "SIGKILL at 20 random times")
def test_killed_at_random(place, whole, counted):
    generator, killed = random.Random(5), 0
    expected = whole.end_state()
    often = {"checkpoint__every_minutes": 1e-5}
    while killed < 20:
        process = place.start(**often)
        timer = threading.Timer(4 + 4 * generator.random(), process.send_signal, [signal.SIGKILL])
        timer.start()
        output, _ = process.communicate(timeout=120)
        timer.cancel()
        found = checkpoints.find(place.checkpoints)
        for step in found.sound if found else ():
            place.restore(step)
        if process.returncode == 0:  # it was faster: begin anew
            assert place.end_state() == expected
            shutil.rmtree(place.folder / "work")
            shutil.rmtree(place.folder / "phase")
            continue
        assert process.returncode == -signal.SIGKILL, output
        killed += 1
    code, output = place.run(**often)
    assert code == 0, output
    assert place.end_state() == expected
    counted(killed)


@pytest.mark.parametrize("moment", ["save", "save:3", "step:3", "step:8", "evaluation:2"])
@pytest.mark.fault(5, "SIGKILL while a checkpoint is written, and between")
def test_killed_at_worst_moments(place, whole, counted, moment):
    code, _ = place.run(f"kill:{moment}", checkpoint__every_minutes=1e-5)
    assert code == -signal.SIGKILL
    found = checkpoints.find(place.checkpoints)
    assert found is None or not found.damaged
    code, output = place.run()
    assert code == 0, output
    assert place.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(16, "SIGKILL while the data are prepared")
def test_killed_while_preparing(place, whole, counted, tmp_path):
    place.cache = tmp_path / "cache"
    code, _ = place.run("kill:prepare:2")
    assert code == -signal.SIGKILL
    assert not list(place.cache.glob(f"*-v{VERSION}")), "no data set has its name yet"
    code, output = place.run()
    assert code == 0, output
    assert place.end_state() == whole.end_state()
    (built,) = place.cache.glob(f"*-v{VERSION}")
    clean = whole.cache / built.name
    for split in (preparation.TRAIN, preparation.VALIDATION):
        found, expected = (LayoutSource(each / "imginav_layouts" / VERSION, split) for each in (built, clean))
        assert [found[index] for index in range(len(found))] == [expected[index] for index in range(len(expected))]
        assert len(found) > 0
    counted(1)


def children_of(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(each) for each in found]


def workers_of(process, seconds=60):
    """The loader's processes, once the first step is done."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for child in children_of(process.pid):
            command = subprocess.run(
                ["ps", "-o", "args=", "-p", str(child)], capture_output=True, text=True, check=False
            )
            if "spawn_main" in command.stdout and (process_is_training(process)):
                return child
        time.sleep(0.5)
    pytest.fail("no worker has been started")


def process_is_training(process):
    return any("Epoch 1/" in line for line in process.lines)


def follow(process):
    """Collects the output's lines as they come."""
    process.lines = []
    process.reader = threading.Thread(target=lambda: process.lines.extend(iter(process.stdout.readline, "")))
    process.reader.start()


def close(process):
    process.reader.join(timeout=20)  # workers hold the pipe too
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.fault(17, "a loader worker is killed")
def test_a_killed_worker(place, counted):
    process = place.start(data__num_workers=1, num_epochs=100_000)
    follow(process)
    os.kill(workers_of(process), signal.SIGKILL)
    start = time.monotonic()
    assert process.wait(timeout=30) == 1
    assert time.monotonic() - start < 5 + 3, "found within 5 s, and then the end of the program"
    close(process)
    assert "error: a batch soon after step" in "".join(process.lines)
    wait_for_the_end_of_group(process.pid)
    counted(1)


@pytest.mark.slow
@pytest.mark.fault(17, "the parent of loader workers is killed")
def test_a_killed_parent(place, counted):
    process = place.start(data__num_workers=1, num_epochs=100_000)
    follow(process)
    workers_of(process)
    process.kill()
    process.wait()
    close(process)
    wait_for_the_end_of_group(process.pid, seconds=10)
    counted(1)


@pytest.mark.fault(21, "SIGKILL during writes of CSV, JSON and pictures")
@pytest.mark.parametrize("moment", [1, 9, 11, 15, pytest.param("random", marks=pytest.mark.slow)])
def test_killed_while_the_csv_is_written(place, whole, counted, moment):
    moments = random.Random(21)
    moments = [moments.randint(1, 30) for _ in range(16)] if moment == "random" else [moment]
    for each in moments:
        code, output = place.run(f"kill:write:{each}")
        assert code in (0, -signal.SIGKILL), output
        if code == 0:
            assert place.end_state() == whole.end_state()
            shutil.rmtree(place.work)
            shutil.rmtree(place.folder / "phase")
    assert place.run()[0] == 0
    assert [row["epoch"] for row in place.rows()] == ["1", "2", "3"]
    assert place.end_state() == whole.end_state()
    counted(len(moments))


@pytest.mark.fault(21, "a corrupted TensorBoard file, and a writer that fails")
def test_tensorboard_may_fail(begun, whole, counted):
    for path in begun.work.glob("events.out.tfevents.*"):
        path.write_bytes(b"\0garbage" * 100)
    code, output = begun.run("tensorboard")
    assert code == 0, output
    assert "TensorBoard's events cannot be written: the disk is on fire. The run goes on without." in output
    assert begun.end_state() == whole.end_state()
    counted(2)
