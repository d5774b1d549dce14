"""What people's folders do to a run: files that a purge has taken, and folders that may only be read."""

import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from imginav_jax.datasets import preparation

LEFT = "*-v*/imginav_layouts/*/"
CAN_UNSHARE = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
in_a_namespace = pytest.mark.skipif(not CAN_UNSHARE, reason="this user may not mount anything")


def run_in_namespace(mounts, module, *arguments):
    """Exit code and output of a command that sees other mounts than this process does."""
    command = [sys.executable, "-m", f"imginav_jax.{module}", *map(str, arguments)]
    script = "\n".join(["set -e", *mounts, 'exec "$@"'])
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "namespace", *command],
        cwd=ROOT,
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
    "report": ("PHASE", "--out", "OUT/report"),
}


@in_a_namespace
@pytest.mark.fault(37, "a run, its phase folder and its data set that may only be read")
def test_what_only_reads_a_run_needs_no_right_to_write(whole, tmp_path, counted):
    layout = next(whole.cache.glob("synthetic-*/layouts/*.png"))
    mounts = read_only(whole.folder, whole.cache)
    code, output = run_in_namespace(mounts, "encode", whole.work, "--out", tmp_path / "latents")
    assert code == 0, output
    assert f"The statistics are in {tmp_path / 'latents'} alone" in output
    assert (tmp_path / "latents" / "latent_statistics.json").exists()
    places = {"WORK": whole.work, "PHASE": whole.folder / "phase", "LAYOUT": layout, "OUT": tmp_path}
    for module, arguments in READERS.items():
        named = [str(places.get(each) or each.replace("OUT/", f"{tmp_path}/")) for each in arguments]
        code, output = run_in_namespace(mounts, module, *named)
        assert code == 0, f"{module}: {output}"
    code, output = run_in_namespace(mounts, "report", whole.folder / "phase")
    assert code == 1
    assert f"error: --out {whole.folder / 'phase' / 'report'} cannot be written: Read-only file system" in output
    assert "Measuring" not in output
    code, output = run_in_namespace(mounts, "encode", whole.work, "--out", whole.folder / "latents")
    assert code == 1
    assert "Traceback" not in output
    counted(len(READERS) + 3)
