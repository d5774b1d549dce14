"""Latents of a run's data set: what other programs read, what an interruption leaves, and what is refused."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import time

import grain
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from helpers import ROOT, TINY, complaint, random_layout, run, statistics_of, tiny_config
from imginav_jax import autoencoder
from imginav_jax.datasets import layout_record, preparation
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.latents import storage
from imginav_jax.latents.decoding import decode
from imginav_jax.latents.encoding import encode
from imginav_jax.latents.storage import StoredLatents
from imginav_jax.runs import weights
from imginav_jax.system import files
from imginav_jax.system.errors import UserError
from imginav_jax.system.ownership import InUseError
from imginav_jax.training import train


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The workdir of a run of one epoch on thirty synthetic layouts of 32x32."""
    folder = tmp_path_factory.mktemp("run")
    train.train(tiny_config(folder, num_epochs=1), str(folder / "work"))
    return folder / "work"


@pytest.fixture(scope="module")
def encoded(work, tmp_path_factory):
    """Its latents in float32, several shards a split."""
    out = tmp_path_factory.mktemp("encoded") / "latents"
    encode(work, out, dtype="float32", shard_examples=7)
    return out


def start(module, *arguments):
    command = [sys.executable, "-m", f"imginav_jax.{module}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def read_all(directory, split):
    stored = StoredLatents(directory)
    return np.stack([stored.read(split, index).latent for index in range(stored.description.examples[split])])


def assert_same(found, expected):
    """Every value; not every byte, for protocol buffers order a map's entries as each process likes."""
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in expected.iterdir())
    for name in ("latents.json", "latent_statistics.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    here, there = StoredLatents(found), StoredLatents(expected)
    for split, count in there.description.examples.items():
        for index in range(count):
            one, other = here.read(split, index), there.read(split, index)
            assert one[1:] == other[1:]
            assert one.latent.tobytes() == other.latent.tobytes()


def layouts(work, split):
    """The images that the run was trained or validated on."""
    description = json.loads(next(work.glob("*_experiment.json")).read_text())
    source = LayoutSource(preparation.prepared_directory(work.parent / "cache", description["data"]["key"]), split)
    return [{**layout, "image": layout_record.decode(layout["image"])} for layout in source]


def statistics_json(directory):
    return json.loads((directory / "latent_statistics.json").read_text())


def test_tfds_alone_reads_both_splits(work, encoded):
    builder = tfds.builder_from_directory(encoded)
    assert builder.info.metadata["data_kind"] == "synthetic"
    model = autoencoder.load(work)
    assert builder.info.metadata["digest"] == model.digest
    assert len(list(encoded.glob("*.array_record-*-of-*"))) == 4 + 1
    assert not [path for path in encoded.iterdir() if "progress" in path.name or "tmp" in path.name]
    for split, count in (("train", 25), ("validation", 5)):
        found, expected = list(builder.as_data_source(split)), layouts(work, split)
        assert len(found) == len(expected) == count
        batch = grain.MapDataset.source(builder.as_data_source(split)).batch(5)[0]
        np.testing.assert_array_equal(batch["latent"], [record["latent"] for record in found[:5]])
        for record, layout in zip(found, expected, strict=True):
            assert record["latent"].dtype == np.float32
            assert record["latent"].shape == (4, 4, 16)
            for key in ("type", "scene_id", "room_id", "layout_id"):
                assert record[key] == layout[key]
        images = np.stack([layout["image"] for layout in expected])
        stored = np.stack([record["latent"] for record in found])
        np.testing.assert_array_equal(stored, model.encode(images))
        np.testing.assert_array_equal(model.decode(stored), model.reconstruct(images).images)


def test_statistics_are_those_of_the_whole_training_split(encoded, work):
    found = statistics_json(encoded)
    values = read_all(encoded, "train")
    cells = values.reshape(-1, 16).astype(np.float64)
    for name, expected in (("mean", cells.mean(0)), ("std", cells.std(0)), ("correlation", np.corrcoef(cells.T))):
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-9)
    assert found["origin"]["images"] == 25
    assert found["cells"] == 25 * 16
    model = autoencoder.load(work)
    normalised = model.normalize(values)
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.std((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(model.denormalize(normalised), values, rtol=1e-5, atol=1e-6)
    assert normalised.dtype == model.denormalize(normalised).dtype == np.float32
    (step,) = (work / "checkpoints").glob("*/latent_statistics.json")
    assert json.loads(step.read_text()) == found


def test_four_devices_and_float16_by_the_command_line(work, encoded, tmp_path):
    result = run("encode", work, "--out", tmp_path / "a", "--shard_examples", 10, devices=4)
    assert result.returncode == 0, result.stderr
    assert "25 training layouts" in result.stdout
    found, expected = statistics_json(tmp_path / "a"), statistics_json(encoded)
    for name in ("mean", "std", "min", "max", "kurtosis", "correlation", "scale_factor", "high_frequency_share"):
        # Latents of about 1 are themselves rounded in another way where a device has fewer of them.
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6)
    halves, exact = read_all(tmp_path / "a", "validation"), read_all(encoded, "validation")
    assert halves.dtype == np.float16
    np.testing.assert_allclose(halves, exact, rtol=1e-3, atol=1e-6)
    images = np.stack([layout["image"] for layout in layouts(work, "validation")]) / 127.5
    model = autoencoder.load(work)
    errors = [((model.decode(each) / 127.5 - images) ** 2).mean() for each in (halves, exact)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_an_interrupted_job_goes_on_and_ends_as_if_nothing_had_happened(work, encoded, tmp_path, monkeypatch, caplog):
    out, opened = tmp_path / "latents", []
    open_shard = storage.open_shard

    def fail_at_the_third(*arguments):
        opened.append(arguments[-1].name)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return open_shard(*arguments)

    monkeypatch.setattr(storage, "open_shard", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        encode(work, out, dtype="float32", shard_examples=7)
    assert not out.exists()
    with pytest.raises(
        UserError, match=r"latents\.partial holds another experiment .dtype float32 there, float16 here"
    ):
        encode(work, out, dtype="float16", shard_examples=7)
    with pytest.raises(UserError, match="latents holds no encoded latents"):
        StoredLatents(out)
    with caplog.at_level("INFO", "imginav_jax"):
        encode(work, out, dtype="float32", shard_examples=7)
    assert "Continuing with" in caplog.text
    assert set(opened[3:]).isdisjoint(opened[:1])
    assert not list(tmp_path.glob("*.partial"))
    assert_same(out, encoded)
    with caplog.at_level("INFO", "imginav_jax"):
        encode(work, out, dtype="float32", shard_examples=7)
    assert "has been encoded already. Nothing was changed." in caplog.text
    with pytest.raises(UserError, match=r"--out .*format array_record there, npy here"):
        encode(work, out, dtype="float32", format="npy", shard_examples=7)


def test_a_shard_that_another_process_holds_is_left_to_it(work, encoded, tmp_path, monkeypatch, caplog):
    out = tmp_path / "latents"
    open_shard, nested = storage.open_shard, []

    def meet_another(*arguments):
        if not nested:  # this process holds the first shard now
            nested.append(True)
            with caplog.at_level("INFO", "imginav_jax"):
                assert encode(work, out, dtype="float32", shard_examples=7, share=True) is None
            assert "being encoded by other processes" in caplog.text
            with pytest.raises(InUseError, match=rf"of --out {out} is in use by process {os.getpid()} on "):
                encode(work, out, dtype="float32", shard_examples=7)
        return open_shard(*arguments)

    monkeypatch.setattr(storage, "open_shard", meet_another)
    assert encode(work, out, dtype="float32", shard_examples=7, share=True) is not None
    assert_same(out, encoded)


def test_an_output_has_one_owner(work, encoded, tmp_path, monkeypatch):
    out = tmp_path / "latents"
    open_shard, nested = storage.open_shard, []

    def meet_another(*arguments):
        if not nested:
            nested.append(True)
            before = sorted(tmp_path.rglob("*"))
            with pytest.raises(
                InUseError, match=rf"--out {out} is in use by process {os.getpid()} on .*\.latents\.lock"
            ):
                encode(work, out, dtype="float32", shard_examples=7)
            assert sorted(tmp_path.rglob("*")) == before
        return open_shard(*arguments)

    monkeypatch.setattr(storage, "open_shard", meet_another)
    encode(work, out, dtype="float32", shard_examples=7)
    assert_same(out, encoded)
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
def test_a_killed_process_is_continued_by_two_at_once(work, tmp_path):
    arguments = work, "--dtype", "float32", "--shard_examples", 1
    whole = run("encode", *arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "latents"
    with start("encode", *arguments, "--out", out) as killed:
        while not list(tmp_path.glob("latents.partial/progress/*.json")):
            assert killed.poll() is None
            time.sleep(0.001)
        killed.kill()
    assert not out.exists()
    arguments = *arguments, "--share", "--out", out
    with start("encode", *arguments) as first, start("encode", *arguments) as second:
        printed = first.communicate(timeout=300)[0] + second.communicate(timeout=300)[0]
    assert first.returncode == second.returncode == 0
    assert "Continuing with" in printed
    assert not out.with_name("latents.partial").exists()
    assert_same(out, tmp_path / "whole")


@pytest.mark.parametrize("name", ["l[1]", "l*", "l\\1"])
def test_an_output_may_have_any_name(work, encoded, tmp_path, name):
    encode(work, tmp_path / name, dtype="float32", shard_examples=7)
    assert_same(tmp_path / name, encoded)


def test_npy_files_hold_the_same(work, encoded, tmp_path):
    encode(work, tmp_path / "npy", dtype="float32", format="npy", shard_examples=7)
    with (tmp_path / "npy" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    for split in ("train", "validation"):
        of_split, expected = [row for row in rows if row["split"] == split], layouts(work, split)
        for row, layout, latent in zip(of_split, expected, read_all(encoded, split), strict=True):
            np.testing.assert_array_equal(np.load(tmp_path / "npy" / row["file"]), latent)
            assert row["layout_id"] == layout["layout_id"].decode()
            assert row["type"] == ("room", "scene")[layout["type"]]
    assert (tmp_path / "npy" / "latent_statistics.json").read_bytes() == (
        encoded / "latent_statistics.json"
    ).read_bytes()
    assert decode(tmp_path / "npy", tmp_path / "pictures", count=3) == 6
    (tmp_path / "npy" / "train" / "000002.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"000002\.npy cannot be read"):
        decode(tmp_path / "npy", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_decode_returns_the_models_pictures(work, encoded, tmp_path):
    result = run("decode", encoded, "--out", tmp_path / "pictures")
    assert result.returncode == 0, result.stderr
    model = autoencoder.load(work)
    with (tmp_path / "pictures" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [layout for split in ("train", "validation") for layout in layouts(work, split)]
    made = model.reconstruct(np.stack([layout["image"] for layout in expected])).images
    for row, layout, image in zip(rows, expected, made, strict=True):
        assert row["layout_id"] == layout["layout_id"].decode()
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / row["file"])), image)
    assert "exists already; choose another --out" in complaint(run("decode", encoded, "--out", tmp_path / "pictures"))


def test_latents_of_another_model_are_refused(work, encoded, tmp_path, tiny_params):
    weights.save(tmp_path / "other", TINY, tiny_params, {})
    arguments = encoded, "--out", tmp_path / "pictures", "--checkpoint", tmp_path / "other"
    assert "holds latents of another model" in complaint(run("decode", *arguments))
    assert not (tmp_path / "pictures").exists()
    gone = shutil.copytree(encoded, tmp_path / "moved")
    description = {**json.loads((gone / "latents.json").read_text()), "checkpoint": str(tmp_path / "nowhere")}
    (gone / "latents.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="nowhere, which is gone; say where it is by --checkpoint"):
        decode(gone, tmp_path / "pictures")
    (gone / "latents-train.array_record-00001-of-00004").unlink()
    with pytest.raises(UserError, match=r"moved lacks latents-train\.array_record-00001-of-00004"):
        decode(gone, tmp_path / "pictures", work)


def test_an_imported_checkpoint_takes_a_manifest(manifest, tmp_path, tiny_params):
    weights.save(tmp_path / "tiny", TINY, tiny_params, {})
    with pytest.raises(UserError, match="an imported checkpoint, which has no data: give --manifest"):
        encode(tmp_path / "tiny", tmp_path / "a")
    with pytest.raises(UserError, match="image_size is 30, expected a multiple of 4"):
        encode(tmp_path / "tiny", tmp_path / "a", image_size=30)
    model = autoencoder.load(tmp_path / "tiny")
    with pytest.raises(UserError, match=r"has no statistics of its latents; make them: python -m imginav_jax\.encode"):
        model.normalize(np.zeros((1, 4)))
    options = {"manifest": str(manifest), "cache_dir": str(tmp_path / "cache"), "dtype": "float32"}
    with pytest.raises(UserError, match=r"0\.png is 32x32, expected 512x512"):
        encode(tmp_path / "tiny", tmp_path / "a", **options)
    found = encode(tmp_path / "tiny", tmp_path / "a", image_size=32, **options)
    assert found is not None
    np.testing.assert_allclose(found.std, statistics_of(read_all(tmp_path / "a", "train")).std, rtol=1e-6)
    np.testing.assert_allclose(model.normalize(found.mean), 0, atol=1e-6)
    path = tmp_path / "tiny" / "checkpoints" / "0" / "latent_statistics.json"
    path.write_text(path.read_text().replace(model.digest, "0" * 64))
    with pytest.raises(UserError, match="holds statistics of other weights; make them"):
        autoencoder.load(tmp_path / "tiny").normalize(np.zeros((1, 4)))


def test_planted_channels_are_named_at_the_end(manifest, tmp_path, tiny_params):
    """The last layer decides the latent's channels: one is made constant, one the double of another."""
    params = jax.tree.map(np.array, tiny_params)
    last = params["encoder"]["to_latent"]
    last["kernel"][..., 1] *= 1e-4
    last["kernel"][..., 3], last["bias"][3] = 2 * last["kernel"][..., 0], 5
    weights.save(tmp_path / "tiny", TINY, params, {})
    places = "--manifest", manifest, "--cache_dir", tmp_path / "cache", "--image_size", 32
    result = run("encode", tmp_path / "tiny", "--out", tmp_path / "a", *places)
    assert result.returncode == 0, result.stderr
    assert "DEAD: channel 1\n" in result.stdout
    assert "EQUAL up to a factor: channel 0 and channel 3\n" in result.stdout


def test_bad_input_is_one_line_and_leaves_nothing(work, tmp_path):
    (tmp_path / "empty").mkdir()
    line = complaint(run("encode", tmp_path / "empty", "--out", tmp_path / "a"))
    assert "empty is neither a workdir with a checkpoint nor an imported checkpoint" in line
    line = complaint(run("decode", tmp_path / "empty", "--out", tmp_path / "a"))
    assert "empty holds no encoded latents" in line
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="empty holds no encoded latents"):
        encode(work, tmp_path / "empty")


@pytest.mark.parametrize("format", ["array_record", pytest.param("npy", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_the_job_can_go_on(work, tmp_path, format):  # noqa: A002
    """A limit on the size of files stands in for the full disk: the system refuses to write on."""

    limit = "bash", "-c", 'ulimit -f 1; exec "$@"', "limited"  # one KiB
    arguments = work, "--out", tmp_path / "a", "--format", format, "--dtype", "float32"
    assert "a cannot be written" in complaint(run("encode", *arguments, wrapper=limit))
    assert not (tmp_path / "a").exists()
    assert run("encode", *arguments).returncode == 0
    StoredLatents(tmp_path / "a")


def test_a_changed_manifest_is_noticed(tmp_path):
    rows = [(f"s{i // 2}", "room", str(i), f"{i}.png", "false") for i in range(10)]
    for index in range(11):
        Image.fromarray(random_layout(32, index)).save(tmp_path / f"{index}.png")
    header = ("scene_id", "type", "room_id", "layout_path", "is_empty")
    path = tmp_path / "layouts.csv"
    path.write_text("\n".join(",".join(row) for row in [header, *rows]))
    config = tiny_config(tmp_path, num_epochs=1)
    config.data.manifest = str(path)
    train.train(config, str(tmp_path / "work"))
    path.write_text("\n".join(",".join(row) for row in [header, *rows, ("s9", "room", "10", "10.png", "0")]))
    with pytest.raises(UserError, match=r"has changed since .* was trained on it"):
        encode(tmp_path / "work", tmp_path / "a")
    assert encode(tmp_path / "work", tmp_path / "a", manifest=str(path)) is not None
    assert sum(StoredLatents(tmp_path / "a").description.examples.values()) == 11
    assert not list((tmp_path / "work").glob("checkpoints/*/latent_statistics.json"))


@pytest.mark.parametrize(
    ("format", "gone", "message"),
    [
        ("array_record", "features.json", r"lacks features\.json; delete the folder"),
        ("array_record", "latents-*", r"lacks latents-train\.array_record-0+-of-\d+ and \d+ more of its files; delete"),
        ("npy", "index.csv", r"lacks index\.csv; delete the folder, and imginav_jax\.encode makes it anew"),
        ("npy", "train/000001.npy", r"lacks train/000001\.npy; delete the folder"),
    ],
)
def test_half_gone_latents_are_one_line_that_says_what_to_do(work, tmp_path, format, gone, message):  # noqa: A002
    out = tmp_path / "latents"
    encode(work, out, format=format)
    for path in out.glob(gone):
        path.unlink()
    with pytest.raises(UserError, match=message):
        StoredLatents(out)
    with pytest.raises(UserError, match=message):
        encode(work, out, format=format)


def test_a_damaged_description_of_latents_is_one_line(encoded, tmp_path):
    out = shutil.copytree(encoded, tmp_path / "latents")
    (out / "dataset_info.json").write_text("garbage")
    with pytest.raises(
        UserError, match=r"latents cannot be read: .*; delete the folder, and imginav_jax\.encode makes"
    ):
        StoredLatents(out)


def test_an_index_that_a_spreadsheet_has_saved_is_read(work, tmp_path):
    encode(work, tmp_path / "latents", format="npy")
    index, expected = tmp_path / "latents" / "index.csv", read_all(tmp_path / "latents", "train")
    content = index.read_text()
    index.write_bytes(("\ufeffsep=;\r\n" + content.replace(",", ";")).encode())
    np.testing.assert_array_equal(read_all(tmp_path / "latents", "train"), expected)
    index.write_text(content.replace("train,", '"train,', 1))
    with pytest.raises(UserError, match=r"index\.csv: line 2: a quote is opened in this line and never closed"):
        StoredLatents(tmp_path / "latents")


def test_statistics_that_cannot_be_put_beside_the_weights_stay_with_the_latents(work, tmp_path, monkeypatch, caplog):
    real = files.write_json

    def refuse(path, content):
        if path.is_relative_to(work):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        real(path, content)

    monkeypatch.setattr(files, "write_json", refuse)
    caplog.set_level("INFO", logger="imginav_jax")
    assert encode(work, tmp_path / "latents") is not None
    assert (tmp_path / "latents" / "latent_statistics.json").exists()
    (line,) = [each for each in caplog.messages if "The statistics are in" in each]
    assert f"The statistics are in {tmp_path / 'latents'} alone: {work / 'checkpoints'}" in line
