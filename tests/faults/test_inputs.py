"""Values that are not finite, experiments that are not the same, data that changed, clocks and folders that moved."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import random_layout
from imginav_jax.datasets.imginav_layouts import VERSION
from imginav_jax.runs import checkpoints


@pytest.mark.parametrize(
    ("fault", "step"), [pytest.param("nan:step:3", 13, id="a batch"), pytest.param("nan:evaluation", 12, id="a metric")]
)
@pytest.mark.fault(13, "NaN in a batch, in a metric")
def test_values_that_are_not_finite(begun, whole, counted, fault, step):
    best = checkpoints.find(begun.checkpoints).contents["early_stopping"]["best_step"]
    code, output = begun.run(fault)
    assert code == 1
    assert f"error: step {step} (epoch {3 if step == 13 else 2}): " in output
    (path,) = begun.work.glob("*_not_finite_step_*.json")
    content = json.loads(path.read_text())
    assert content["step"] == step
    assert all(layout.startswith("synthetic_") for layout in content["layouts"])
    assert content["layouts"]
    found = checkpoints.find(begun.checkpoints)
    assert found is not None
    assert found.damaged == {}
    assert best in found.sound or found.contents["early_stopping"]["best_step"] in found.sound
    for each in found.sound:
        assert all(np.isfinite(np.frombuffer(leaf, np.float32)).all() for leaf in begun.restore(each))
    assert begun.run()[0] == 0
    assert begun.end_state() == whole.end_state()
    counted(1)


def contents_of(work):
    """When each path in the workdir was last changed, but for the run's log."""
    return {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.suffix != ".log"}


@pytest.mark.parametrize(
    ("faults", "overrides", "field"),
    [
        ((), {"seed": 7}, "seed 42 there, 7 here"),
        ((), {"batch_size": 5}, "batch_size 4 there, 5 here"),
        ((), {"data__synthetic_size": 31}, "data.layouts 30 layouts"),
        ((), {"data__seed": 7}, "data.seed 42 there, 7 here"),
        ((), {"data__validation_fraction": 0.4}, "data.validation_fraction 0.2 there, 0.4 here"),
        ((), {"model__latent_channels": 8}, "model.latent_channels 16 there, 8 here"),
        ((), {"optimizer__weight_decay": 0.5}, "optimizer.weight_decay 0.01 there, 0.5 here"),
        (("palette",), {}, "data.palette"),
    ],
)
@pytest.mark.fault(14, "changed seed, batch size, data, split, model, optimizer, palette")
def test_another_experiment(begun, counted, faults, overrides, field):
    (log,) = begun.work.glob("*.log")
    before, said = contents_of(begun.work), log.read_text()
    code, output = begun.run(*faults, **overrides)
    assert code == 1
    assert "holds another experiment" in output
    assert field in output
    assert "holds another experiment" in log.read_text().removeprefix(said), "the log has every start"
    assert contents_of(begun.work) == before, "and nothing else has changed"
    counted(1)


@pytest.mark.fault(14, "changed epochs, patience, cadence, devices: allowed")
def test_what_may_change(begun, counted):
    allowed = {
        "num_epochs": 4,
        "early_stopping__patience": 9,
        "samples__every_epochs": 2,
        "checkpoint__every_minutes": 1,
    }
    code, output = begun.run(**allowed, devices=2)
    assert code == 0, output
    assert [row["epoch"] for row in begun.rows()] == ["1", "2", "3", "4"]
    counted(len(allowed) + 1)


def write_manifest(folder, count, size=16):
    folder.mkdir(exist_ok=True)
    lines = ["scene_id,type,room_id,layout_path,is_empty"]
    for index in range(count):
        Image.fromarray(random_layout(size, index)).save(folder / f"{index}.png")
        lines.append(f"s{index // 2},room,{index},{index}.png,false")
    (folder / "layouts.csv").write_text("\n".join(lines) + "\n")
    return folder / "layouts.csv"


@pytest.mark.fault(15, "a changed manifest")
def test_a_changed_manifest(place, counted, tmp_path):
    place.cache = tmp_path / "cache"
    manifest = write_manifest(tmp_path / "data", 20)
    assert place.run(data__manifest=manifest, num_epochs=1)[0] == 0
    write_manifest(tmp_path / "data", 24)
    code, output = place.run(data__manifest=manifest, num_epochs=1)
    assert code == 1
    assert "data.layouts 20 layouts" in output
    shutil.rmtree(place.work)
    shutil.rmtree(place.folder / "phase")
    code, output = place.run(data__manifest=manifest, num_epochs=1)
    assert code == 0
    assert "24 layouts of" in output, "the data set was rebuilt"
    counted(1)


@pytest.mark.fault(18, "bad images: damaged, another size, another mode, missing")
def test_bad_images(place, counted, tmp_path):
    place.cache = tmp_path / "cache"
    manifest = write_manifest(tmp_path / "data", 12)
    whole = (tmp_path / "data" / "1.png").read_bytes()
    (tmp_path / "data" / "1.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(random_layout(32)).save(tmp_path / "data" / "3.png")
    Image.fromarray(random_layout(16)).convert("L").save(tmp_path / "data" / "5.png")
    (tmp_path / "data" / "7.png").unlink()
    code, output = place.run(data__manifest=manifest)
    assert code == 1
    for row in (3, 5, 7, 9):  # the header is row 1
        assert f"row {row}" in output, output
    assert not place.work.exists()
    counted(4)


@pytest.mark.fault(18, "a bad image among many: memory stays bounded")
def test_many_images(place, counted, tmp_path):
    """Sixty times the pixels, decoded 300 MiB, may not take more memory than a few of them."""
    peaks = []
    for count in (5, 300):
        manifest = write_manifest(tmp_path / f"data{count}", count, size=592)
        (tmp_path / f"data{count}" / "2.png").write_bytes(b"no PNG")
        process = place.start(data__manifest=manifest, data__image_size=592)
        with process.stdout:
            output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 1
        assert "row 4" in output, output
        peaks.append(usage.ru_maxrss / 1024)  # MiB
    assert peaks[1] - peaks[0] < 60
    counted(1)


@pytest.mark.parametrize("way", ["absolute", "dots", "link"])
@pytest.mark.fault(19, "paths that leave data.root: absolute, by dots, by a link")
def test_paths_that_leave_the_root(place, counted, tmp_path, way):
    manifest = write_manifest(tmp_path / "data", 12)
    outside = tmp_path / "outside.png"
    Image.fromarray(random_layout(16)).save(outside)
    (tmp_path / "data" / "link.png").symlink_to(outside)
    path = {"absolute": str(outside), "dots": "../outside.png", "link": "link.png"}[way]
    manifest.write_text(manifest.read_text() + f"s9,room,99,{path},false\n")
    code, output = place.run(data__manifest=manifest, data__root=tmp_path / "data")
    assert code == 1
    assert "row 14" in output, output
    assert not place.work.exists()
    counted(1)


@pytest.mark.fault(20, "two jobs prepare the same data at once")
def test_two_jobs_at_once(place, counted, tmp_path):
    place.cache = tmp_path / "cache"
    other = type(place)(tmp_path / "other", place.cache)
    jobs = [each.start(num_epochs=1) for each in (place, other)]
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert len(list(place.cache.glob(f"*-v{VERSION}"))) == 1
    assert place.end_state() == other.end_state()
    counted(1)


@pytest.mark.fault(24, "the clock set back a day, the workdir moved")
def test_the_clock_and_the_place(begun, whole, counted):
    moved = begun.folder / "elsewhere"
    begun.work.rename(moved / "work") if moved.exists() else (moved.mkdir(), begun.work.rename(moved / "work"))
    shutil.move(begun.folder / "phase", moved / "phase")
    begun.folder = moved
    code, output = begun.run("clock:-86400")
    assert code == 0, output
    assert "from the checkpoint of step 10" in output
    assert begun.end_state() == whole.end_state()
    counted(2)
