"""A data set is built once, whole, and again only when its content changes."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from helpers import ROOT, random_layout
from imginav_jax.datasets import imginav_layouts, layout_file, layout_record, packing, palette, preparation
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.system.errors import UserError


def spec(manifest, **changes):
    path = None if manifest is None else str(manifest)
    return dataclasses.replace(preparation.DataSpec(path, None, 32, 24, 0.2, 42), **changes)


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def records(data):
    sources = [LayoutSource(data.directory, split) for split in (preparation.TRAIN, preparation.VALIDATION)]
    return [[source[index] for index in range(len(source))] for source in sources]


def test_every_layout_arrives_once_with_its_pixels_and_names(manifest, tmp_path):
    data = preparation.prepare(spec(manifest), tmp_path / "cache")
    train, validation = records(data)
    assert (len(train), len(validation)) == (8, 2)
    assert {record["scene_id"] for record in train}.isdisjoint(record["scene_id"] for record in validation)
    by_room = {record["room_id"].decode(): record for record in train + validation}
    for index in range(10):
        record = by_room[f"{index:04d}"]
        np.testing.assert_array_equal(layout_record.decode(record["image"]), random_layout(32, index))
        assert record["type"] == (1 if index % 2 == 0 else 0)
        assert record["layout_id"].decode() == f"s{index // 2}/{'scene' if index % 2 == 0 else 'room'}/{index:04d}"
    assert not data.synthetic
    assert data.facts["scenes"] == 5


def test_an_unchanged_manifest_is_reused_and_a_moved_one_too(manifest, tmp_path):
    cache = tmp_path / "cache"
    first = preparation.prepare(spec(manifest), cache)
    before = snapshot(cache)
    assert preparation.prepare(spec(manifest), cache) == first
    assert snapshot(cache) == before
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (*tmp_path.glob("*.png"), manifest):
        (moved / path.name).write_bytes(path.read_bytes())
    assert preparation.prepare(spec(moved / manifest.name), cache).key == first.key


def test_packed_another_way_it_is_the_same_data_set_in_another_folder(manifest, tmp_path, monkeypatch):
    first = preparation.prepare(spec(manifest), tmp_path / "cache")
    before = snapshot(first.directory)
    monkeypatch.setattr(imginav_layouts, "VERSION", "9.0.0")
    monkeypatch.setattr(imginav_layouts.ImginavLayouts, "VERSION", tfds.core.Version("9.0.0"))
    second = preparation.prepare(spec(manifest), tmp_path / "cache")
    assert (second.key, second.fingerprint) == (first.key, first.fingerprint)
    assert second.directory != first.directory
    assert records(second) == records(first)
    assert snapshot(first.directory) == before


def test_what_changes_the_content_changes_the_key(manifest, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    keys = [preparation.prepare(spec(manifest), cache).key]
    Image.fromarray(random_layout(32, 99)).save(tmp_path / "3.png")
    keys.append(preparation.prepare(spec(manifest), cache).key)
    manifest.write_text(manifest.read_text().replace("s0,room", "s1,room"))
    keys.append(preparation.prepare(spec(manifest), cache).key)
    keys.append(preparation.prepare(spec(manifest, seed=43), cache).key)
    keys.append(preparation.prepare(spec(manifest, validation_fraction=0.4), cache).key)
    monkeypatch.setattr(palette, "COLORS", palette.COLORS[::-1])
    keys.append(preparation.prepare(spec(manifest), cache).key)
    assert len(set(keys)) == len(keys)


def test_duplicates_stay_on_one_side(tmp_path, write_manifest):
    rows = []
    for index in range(20):  # layouts 2n and 2n+1 are equal and of different scenes
        Image.fromarray(random_layout(32, index // 2)).save(tmp_path / f"{index}.png", compress_level=index % 2 * 9)
        rows.append((f"s{index}", "room", str(index), f"{index}.png", "0"))
    data = preparation.prepare(spec(write_manifest(rows)), tmp_path / "cache")
    train, validation = ({int(record["room_id"]) // 2 for record in split} for split in records(data))
    assert len(validation) == 2
    assert train.isdisjoint(validation)
    assert data.facts["duplicates"] == 10


def test_bad_rows_and_bad_images_are_reported_together(tmp_path, write_manifest):
    Image.fromarray(random_layout(32)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(random_layout(64)).save(tmp_path / "big.png")
    names = ("good.png", "cut.png", "big.png", "gone.png")
    rows = [("a", "room", "1", name, "0") for name in names] + [("a", "shed", "1", "good.png", "0")]
    with pytest.raises(UserError) as error:
        preparation.prepare(spec(write_manifest(rows)), tmp_path / "cache")
    message = str(error.value)
    assert "4 bad rows" in message
    for expected in ("row 3: ", "cut.png is truncated", "row 4: ", "64x64", "row 5: ", "gone.png does not exist",
                     'row 6: type "shed"'):  # fmt: skip
        assert expected in message
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.fixture
def reads(monkeypatch):
    """The files that were read and decoded, a name each time."""
    found = {"read_layout": [], "decode_layout": []}
    for name, calls in found.items():
        real = getattr(layout_file, name)

        def count(path, *arguments, real=real, calls=calls):
            calls.append(path.name)
            return real(path, *arguments)

        monkeypatch.setattr(layout_file, name, count)
    return found


def test_every_file_is_read_and_decoded_once(manifest, tmp_path, reads):
    names = sorted(f"{index}.png" for index in range(10))
    preparation.prepare(spec(manifest), tmp_path / "cache")
    assert {name: sorted(calls) for name, calls in reads.items()} == {"read_layout": names, "decode_layout": names}
    preparation.prepare(spec(manifest), tmp_path / "cache")
    assert sorted(reads["read_layout"]) == sorted(2 * names)
    assert sorted(reads["decode_layout"]) == names, "what is prepared is not decoded again"


def test_beyond_the_bounds_of_memory_the_bytes_are_the_same(manifest, tmp_path, monkeypatch, reads):
    first = preparation.prepare(spec(manifest), tmp_path / "one")
    monkeypatch.setattr(packing, "_FILE_BYTES", 3 * (tmp_path / "0.png").stat().st_size)
    monkeypatch.setattr(packing, "_RECORD_BYTES", 1)
    second = preparation.prepare(spec(manifest), tmp_path / "two")
    assert (second.key, records(second)) == (first.key, records(first))
    assert 10 + 10 < len(reads["read_layout"]) < 10 + 2 * 10


def test_a_file_that_changes_while_it_is_prepared_is_named(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_FILE_BYTES", 0)
    real = packing.LayoutFiles.take

    def take(files, row):
        if row.path.name in {"3.png", "6.png"}:
            Image.fromarray(random_layout(32, 99)).save(row.path)
        return real(files, row)

    monkeypatch.setattr(packing.LayoutFiles, "take", take)
    with pytest.raises(UserError, match=r"^row 5: .*3\.png changed while the data set was being prepared$"):
        preparation.prepare(spec(manifest), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_damage_that_only_decoding_finds_leaves_nothing(tmp_path, write_manifest):
    rows = []
    for index in range(4):
        Image.fromarray(random_layout(32, index)).save(tmp_path / f"{index}.png")
        rows.append((f"s{index}", "room", str(index), f"{index}.png", "0"))
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"1 bad row\n  row 4: .*2\.png is truncated or damaged"):
        preparation.prepare(spec(write_manifest(rows)), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_no_row_left_and_too_many_foreign_colours(tmp_path, write_manifest):
    with pytest.raises(UserError, match="leaves no layout: 1 rows have is_empty true, 1 have no layout_path"):
        preparation.prepare(
            spec(write_manifest([("a", "room", "1", "x.png", "1"), ("a", "room", "2", "", "0")])), tmp_path / "cache"
        )
    rows = []
    for index in range(4):
        image = random_layout(32, index)
        image[0, : 32 if index == 2 else 0] = 7  # 32 of 4,096 pixels: 0.8 %
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        rows.append((f"s{index}", "room", str(index), f"{index}.png", "0"))
    data = preparation.prepare(spec(write_manifest(rows)), tmp_path / "cache")
    assert data.facts["off_palette_pixels"] == 32
    image[:4] = 7  # another 128: 3.9 %
    Image.fromarray(image).save(tmp_path / "3.png")
    with pytest.raises(UserError, match=r"3\.9% of the pixels are off the palette, at most 2% may be; most in row 5"):
        preparation.prepare(spec(write_manifest(rows)), tmp_path / "cache")


def test_an_unwritable_cache_is_one_line(manifest, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        preparation.prepare(spec(manifest), tmp_path / "file" / "cache")


def test_synthetic_layouts_are_drawn_once_and_say_so(tmp_path):
    data = preparation.prepare(spec(None), tmp_path)
    assert data.synthetic
    assert data.describe()["kind"] == "synthetic"
    assert sum(map(len, records(data))) == 24
    before = snapshot(tmp_path)
    preparation.prepare(spec(None), tmp_path)
    assert snapshot(tmp_path) == before


def _build_slowly(directory, log, barrier):
    barrier.wait(60)

    def build(folder):
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(1)
        (folder / "data").write_text("whole")

    preparation._build_once(directory, build)
    assert (directory / "data").read_text() == "whole"


def test_two_jobs_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    arguments = tmp_path / "set", tmp_path / "log", context.Barrier(2)
    jobs = [context.Process(target=_build_slowly, args=arguments) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_preparation_leaves_nothing_that_looks_finished(tmp_path):
    program = f"""
import pathlib, time
from imginav_jax.datasets import preparation
def build(folder):
    (folder / "half").touch()
    print("begun", flush=True)
    time.sleep(60)
preparation._build_once(pathlib.Path({str(tmp_path / "set")!r}), build)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        os.kill(job.pid, signal.SIGKILL)
    assert not (tmp_path / "set").exists()
    preparation._build_once(tmp_path / "set", lambda folder: (folder / "whole").touch())
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["whole"]
    assert not list(tmp_path.glob("*.incomplete"))


def test_a_rebuild_gives_the_same_bytes(manifest, tmp_path):
    first, second = (preparation.prepare(spec(manifest), tmp_path / name) for name in ("one", "two"))
    contents = [{path.name: path.read_bytes() for path in data.directory.iterdir()} for data in (first, second)]
    assert contents[0] == contents[1]


PURGES = (
    "*train*",
    "*validation*",
    "dataset_info.json",
    "features.json",
    "metadata.json",
    "type.labels.txt",
    "imginav_layouts",
    "layouts.csv",
    "*_scene_*.png",
    "layouts",
    "files.json",
    "*",
)


def purge(cache, pattern, empty=False):
    """Takes files and leaves folders, but for those that are named; or leaves the files too, with nothing in them."""
    found = [path for path in cache.rglob(pattern) if not path.name.endswith(".lock")]
    assert found
    for path in [each for place in found for each in (place, *place.rglob("*")) if each.is_file()]:
        if empty:
            path.write_bytes(b"")
        else:
            path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    cache = tmp_path_factory.mktemp("prepared")
    return preparation.prepare(spec(None), cache), cache


@pytest.fixture
def prepared(prepared_once, tmp_path):
    """A data set of synthetic layouts, and a copy of the cache in which it is."""
    data, cache = prepared_once
    return data, Path(shutil.copytree(cache, tmp_path / "cache"))


def files_of(cache):
    return {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pattern", PURGES)
@pytest.mark.parametrize("version", ["this", "an earlier"])
def test_what_a_purge_has_taken_is_made_anew(prepared_once, prepared, pattern, version):
    first, cache = prepared
    if version == "an earlier" and pattern != "files.json":
        purge(cache, "files.json")
    purge(cache, pattern)
    data = preparation.prepare(spec(None), cache)
    assert (data.key, data.facts, records(data)) == (first.key, first.facts, records(first))
    needless = {"files.json", "type.labels.txt"}  # no reader needs them
    expected = {name: content for name, content in files_of(prepared_once[1]).items() if name.name not in needless}
    assert expected.items() <= files_of(cache).items()
    assert not list(cache.glob("*.gone"))


@pytest.mark.parametrize("pattern", ["*train*", "features.json", "*_scene_*.png"])
def test_a_file_with_nothing_in_it_is_as_good_as_gone(prepared, pattern):
    first, cache = prepared
    purge(cache, pattern, empty=True)
    assert records(preparation.prepare(spec(None), cache)) == records(first)


def test_what_an_earlier_version_has_prepared_is_used_as_it_is(prepared):
    first, cache = prepared
    purge(cache, "files.json")
    before = snapshot(cache)
    assert records(preparation.prepare(spec(None), cache)) == records(first)
    assert preparation.is_prepared(cache, first.key)
    assert snapshot(cache) == before


def test_a_half_gone_data_set_whose_manifest_is_gone_is_one_line(manifest, tmp_path):
    data = preparation.prepare(spec(manifest), tmp_path / "cache")
    manifest.unlink()
    purge(tmp_path / "cache", "*validation*")
    assert not preparation.is_prepared(tmp_path / "cache", data.key)
    with pytest.raises(UserError, match=r"manifest .*layouts\.csv does not exist"):
        preparation.prepare(spec(manifest), tmp_path / "cache")


def test_a_whole_data_set_is_read_where_nothing_can_be_written(prepared, monkeypatch):
    first, cache = prepared

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    for name in ("open", "mkdir", "rename", "replace", "unlink"):
        real = getattr(os, name)

        def only_read(path, *arguments, real=real, name=name, **options):
            writes = name != "open" or (arguments and arguments[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            return refuse() if writes and str(path).startswith(str(cache)) else real(path, *arguments, **options)

        monkeypatch.setattr(os, name, only_read)
    assert records(preparation.prepare(spec(None), cache)) == records(first)


def _build_where_files_are_gone(directory, log, barrier):
    def is_whole(folder):
        return (folder / "data").exists()

    def build(folder):
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(1)
        (folder / "data").write_text("whole")

    barrier.wait(60)
    preparation._build_once(directory, build, is_whole)
    assert (directory / "data").read_text() == "whole"


def test_two_jobs_at_once_mend_once(tmp_path):
    (tmp_path / "set").mkdir()
    context = multiprocessing.get_context("spawn")
    arguments = tmp_path / "set", tmp_path / "log", context.Barrier(2)
    jobs = [context.Process(target=_build_where_files_are_gone, args=arguments) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json"])
def test_a_damaged_description_is_one_line_that_says_what_to_do(prepared, name):
    first, cache = prepared
    for path in cache.rglob(name):
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match=rf"{first.directory.name} cannot be read: .*; delete it, and it is prepared"):
        preparation.prepare(spec(None), cache)
