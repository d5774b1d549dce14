"""Saves that fail and checkpoints that are no longer what was saved."""

import os
import shutil
import subprocess
import time

import pytest

from imginav_jax.runs import checkpoints, weights
from imginav_jax.system.errors import UserError


@pytest.mark.fault(6, "a background save fails")
def test_a_failed_save(begun, whole, counted):
    code, output = begun.run("fail:write")
    assert code == 1
    assert "error: the checkpoint of step 12 could not be saved: the disk is on fire" in output
    found = checkpoints.find(begun.checkpoints)
    assert found is not None
    assert (found.step, found.damaged) == (10, {})
    begun.restore(found.step)
    assert begun.run()[0] == 0
    assert begun.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(6, "the operating system refuses to write a checkpoint's files")
def test_a_file_size_limit(begun, whole, counted):
    """A limit on the size of files: above what the run's other files need, below one of the checkpoint's.

    Not the arrays': into how many files Orbax's threads share them out differs from save to save.
    """
    metadata = begun.checkpoints / "10" / "state" / "_METADATA"
    code, output = begun.run(launcher=["prlimit", f"--fsize={metadata.stat().st_size - 1}"])
    assert code == 1, output
    assert "error: the checkpoint of step 12 could not be saved" in output, output
    assert begun.run()[0] == 0
    assert begun.end_state() == whole.end_state()
    counted(1)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.fault(7, "the disk is full when a checkpoint is to be saved")
def test_a_full_disk(begun, whole, small_disk, counted):
    shutil.copytree(begun.work, small_disk / "work")
    shutil.rmtree(begun.work)
    begun.work.symlink_to(small_disk / "work")
    before = {step: begun.restore(step) for step in checkpoints.steps(begun.checkpoints)}
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"\0" * (free - 100_000))
    code, output = begun.run()
    assert code == 1
    assert "MiB free, expected" in output
    (small_disk / "filler").write_bytes(b"\0" * (free - 700_000))  # enough to begin, not for what is written then
    process = begun.start("signal:USR2:step:999", num_epochs=100_000)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error:" in output
    (small_disk / "filler").unlink()
    for step, arrays in before.items():
        if step in checkpoints.steps(begun.checkpoints):
            assert begun.restore(step) == arrays
    code, output = begun.run()
    assert code == 0, output
    assert begun.end_state() == whole.end_state()
    counted(2)


@pytest.mark.fault(8, "a read-only workdir")
def test_a_read_only_workdir(place, counted, tmp_path):
    place.work.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", place.work], check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        start = time.monotonic()
        code, output = place.run()
    finally:
        subprocess.run(["umount", "-l", place.work], check=True)
    assert code == 1
    assert "error: --workdir" in output
    assert "cannot be written" in output
    assert "Compiling" not in output
    assert time.monotonic() - start < 10 + 5, "10 s after the imports"
    counted(1)


@pytest.mark.fault(9, "one flipped bit in each file of the newest checkpoint")
def test_flipped_bits(begun, counted):
    expected = {step: begun.restore(step) for step in (6, 10)}
    files = sorted(each for each in (begun.checkpoints / "10").rglob("*") if each.is_file() and each.stat().st_size)
    for path in files:
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(flipped)
        found = checkpoints.find(begun.checkpoints)
        assert found is not None
        assert begun.restore(found.step) == expected[found.step]
        is_ours = path.name == "checkpoint.json" or "state" in path.parts
        assert (found.step == 6) == is_ours, "Orbax's own notes beside the state do not matter"
        path.write_bytes(content)
    counted(len(files))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("fault", ["empty", "gutted", "half copied", "a flipped bit"])
@pytest.mark.fault(10, "the newest checkpoint is empty, gutted, half copied, damaged")
def test_a_damaged_newest_checkpoint(begun, whole, counted, fault):
    newest = begun.checkpoints / "10"
    files = sorted((each for each in newest.rglob("*") if each.is_file()), key=lambda path: path.stat().st_size)
    if fault == "empty":
        shutil.rmtree(newest)
        newest.mkdir()
    elif fault == "gutted":
        shutil.rmtree(newest / "state" / "ocdbt.process_0")
    elif fault == "half copied":
        os.truncate(files[-1], files[-1].stat().st_size // 2)
    else:
        flip(files[-1])
    code, output = begun.run()
    assert code == 0, output
    assert "The checkpoint of step 10 cannot be restored" in output
    assert "The latest sound one is that of step 6." in output
    assert "from the checkpoint of step 6" in output
    assert (begun.work / "damaged_checkpoints" / "10").exists()
    assert begun.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(10, "the best checkpoint is damaged, the newest is not")
def test_a_damaged_best_checkpoint(begun, counted):
    flip(begun.checkpoints / "6" / "checkpoint.json")
    code, output = begun.run()
    assert code == 0, output
    assert "The best checkpoint, of epoch 1, is lost" in output
    found = checkpoints.find(begun.checkpoints)
    assert found is not None
    assert found.contents["early_stopping"]["best_epoch"] > 1
    counted(1)


@pytest.mark.fault(10, "the newest checkpoint is the best one, and damaged")
def test_a_damaged_newest_and_best_checkpoint(place, whole, counted):
    code, output = place.run("raise:saved:2")
    assert code == 1, output
    flip(place.checkpoints / "12" / "checkpoint.json")
    with pytest.raises(UserError, match=r"the newest checkpoint in .*, 12, is damaged"):
        weights.load(place.work)
    assert weights.load(place.work, step=6).step == 6
    code, output = place.run()
    assert code == 0, output
    assert "The latest sound one is that of step 6." in output
    assert place.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(10, "a finished run's best checkpoint is damaged")
def test_a_finished_run_with_a_damaged_best(place, counted):
    assert place.run()[0] == 0
    flip(place.checkpoints / "18" / "checkpoint.json")
    code, output = place.run(num_epochs=2)
    assert code == 0, output
    assert "The best checkpoint" not in output, "the newest sound one knows of none that is lost"
    assert "Best epoch   2" in output
    assert weights.load(place.work).step == 12
    assert "has finished already" in place.run(num_epochs=2)[1]
    counted(1)


@pytest.mark.fault(11, "an exception right after a save was started")
def test_an_exception_after_a_save(place, whole, counted):
    code, output = place.run("raise:saved:2")
    assert code == 1
    assert "the disk is on fire" in output
    found = checkpoints.find(place.checkpoints)
    assert found is not None
    assert (found.step, found.damaged) == (12, {})
    assert place.run()[0] == 0
    assert place.end_state() == whole.end_state()
    counted(1)


@pytest.mark.fault(12, "worse metrics after the best")
def test_worse_after_the_best(place, counted):
    code, output = place.run(optimizer__learning_rate=0.5, early_stopping__patience=3)
    assert code == 0, output
    losses = [float(row["val_loss"]) for row in place.rows()]
    best = losses.index(min(losses))
    assert best < len(losses) - 1, "the last epoch is not the best"
    steps = {int(place.rows()[epoch]["step"]) for epoch in (best, -2, -1)}
    assert set(checkpoints.steps(place.checkpoints)) == steps
    for step in steps:
        place.restore(step)
    counted(1)
