"""What people's folders do to a run: files that a purge has taken, and folders that may only be read."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from faults.conftest import IN_TURN
from faults.test_kills import children_of
from faults.test_signals import wait_for_the_end_of_group
from helpers import ROOT
from imginav_jax.datasets import preparation

LEFT = "*-v*/imginav_layouts/*/"
CAN_UNSHARE = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
in_a_namespace = pytest.mark.skipif(not CAN_UNSHARE, reason="this user may not mount anything")


def run_in_namespace(mounts, *commands):
    """Exit code and output of commands, in turn, that see other mounts than this process does."""
    script = "\n".join(["set -e", *mounts, 'exec "$@"'])
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "namespace", sys.executable, "-c", IN_TURN],
        cwd=ROOT,
        input=json.dumps([[str(each) for each in command] for command in commands]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def read_only(*folders):
    return [f"mount --bind '{each}' '{each}' && mount -o remount,ro,bind '{each}'" for each in folders]


@pytest.mark.fault(35, "a scratch purge takes files of the prepared data set and leaves its folders")
def test_a_purged_data_set_is_made_anew(place, whole, counted):
    place.cache = place.folder / "cache"
    shutil.copytree(whole.cache, place.cache)
    purged = [*place.cache.glob(f"{LEFT}*validation*"), *place.cache.glob(f"{LEFT}metadata.json")]
    purged += list(place.cache.glob("synthetic-*/layouts/*_scene_*.png"))[:2]
    for path in purged:
        path.unlink()
    code, output = place.run()
    assert code == 0, output
    assert output.count("were gone; it has been made anew") == 2
    assert all(path.exists() for path in purged)
    assert place.end_state() == whole.end_state()
    counted(len(purged))


@pytest.mark.fault(36, "a scratch purge takes the source too")
def test_a_purged_data_set_without_its_source_is_one_line(place, counted, manifest):
    place.cache = place.folder / "cache"
    preparation.prepare(preparation.DataSpec(str(manifest), None, 32, 1, 0.2, 42), place.cache)
    manifest.unlink()
    (features,) = place.cache.glob(f"{LEFT}features.json")
    features.unlink()
    code, output = place.run(data__manifest=manifest, data__image_size=32)
    assert code == 1
    assert f"error: manifest {manifest} does not exist (config key data.manifest)" in output
    assert "Traceback" not in output
    assert not place.checkpoints.exists()
    counted(1)


READERS = {
    "reconstruct": ("LAYOUT", "--checkpoint", "WORK", "--out", "OUT/figure.png"),
    "interpolate": ("LAYOUT", "LAYOUT", "--checkpoint", "WORK", "--out", "OUT/figure.png"),
    "decode": ("OUT/latents", "--out", "OUT/pictures", "--count", "2"),
    "latent_colors": ("OUT/latents", "--out", "OUT/colors.png"),
    "export_torch": ("WORK", "--out", "OUT/model.pt"),
    "export": ("WORK", "--out", "OUT/programs", "--format", "stablehlo"),
    "report": ("PHASE", "--out", "OUT/report", "--config", "CONFIG"),
}


@in_a_namespace
@pytest.mark.fault(37, "a run, its phase folder and its data set that may only be read")
def test_what_only_reads_a_run_needs_no_right_to_write(whole, quick_report, tmp_path, counted):
    layout = next(whole.cache.glob("synthetic-*/layouts/*.png"))
    mounts = read_only(whole.folder, whole.cache)
    places = {"WORK": whole.work, "PHASE": whole.folder / "phase", "LAYOUT": layout, "CONFIG": quick_report}
    readers = [
        [module, *(places.get(each) or each.replace("OUT/", f"{tmp_path}/") for each in arguments)]
        for module, arguments in READERS.items()
    ]
    code, output = run_in_namespace(mounts, ["encode", whole.work, "--out", tmp_path / "latents"], *readers)
    assert code == 0, output
    assert [line for line in output.splitlines() if line.endswith(" has ended well")] == [
        f"{module} has ended well" for module in ("encode", *READERS)
    ]
    assert f"The statistics are in {tmp_path / 'latents'} alone" in output
    assert (tmp_path / "latents" / "latent_statistics.json").exists()
    for name in ("figure.png", "pictures", "colors.png", "model.pt", "programs/model.json", "report/index.html"):
        assert (tmp_path / name).exists(), output
    code, output = run_in_namespace(mounts, ["report", whole.folder / "phase"])
    assert code == 1
    assert f"error: --out {whole.folder / 'phase' / 'report'} cannot be written: Read-only file system" in output
    assert "Measuring" not in output
    code, output = run_in_namespace(mounts, ["encode", whole.work, "--out", whole.folder / "latents"])
    assert code == 1
    assert "Traceback" not in output
    counted(len(READERS) + 3)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="one core draws without other processes")
@pytest.mark.fault(38, "SIGKILL, and others, while synthetic layouts are drawn")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2], ids=lambda number: number.name)
def test_who_draws_ends_with_the_run(place, counted, number):
    place.cache = place.folder / "cache"
    process = place.start(data__synthetic_size=4000)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(place.cache.glob("*.incomplete/layouts/*.png")):
        time.sleep(0.1)
    assert len(children_of(process.pid)) >= 2, "processes draw"
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGUSR2: 75}[number], output
    wait_for_the_end_of_group(process.pid)
    assert "Traceback" not in output
    assert number == signal.SIGKILL or not list(place.cache.glob("*.incomplete"))
    counted(1)


@in_a_namespace
@pytest.mark.fault(39, "a /dev/shm that is too small for the loader's workers")
def test_a_small_shared_memory_is_one_line(place, counted):
    settings = {"data__num_workers": 1, "data__image_size": 128, "batch_size": 8, "num_epochs": 20}
    small = 'mount -t tmpfs -o size=1900k tmpfs /dev/shm && exec "$@"'  # four batches, and JAX goes on to hold them
    code, output = place.run(launcher=("unshare", "-m", "bash", "-c", small, "small"), **settings)
    assert code == 1, output
    (line,) = [each for each in output.splitlines() if each.startswith("error: ")]
    assert "/dev/shm, over which workers hand their batches, is too small" in line
    assert line.endswith("--config.data.num_workers=0")
    assert "Traceback" not in output
    counted(1)
