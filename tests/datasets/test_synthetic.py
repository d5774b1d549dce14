"""Synthetic layouts: palette, class shares, wall thickness, scenes with their rooms, and the written files."""

import csv
import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imginav_jax.datasets import synthetic
from imginav_jax.datasets.palette import CLASS_NAMES, CLASSES, on_palette, one_hot
from imginav_jax.datasets.synthetic import SyntheticLayout, generate_scene, write_manifest
from imginav_jax.system.process import workers

COLUMNS = ["scene_id", "type", "room_id", "layout_path", "is_empty"]
SEED = 7


@pytest.fixture(scope="module")
def layouts() -> list[SyntheticLayout]:
    found: list[SyntheticLayout] = []
    index = 0
    while len(found) < 300:
        found += generate_scene(SEED, index, 128)
        index += 1
    return found[:300]


def _read(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_scene_depends_on_seed_and_index_alone() -> None:
    first, again = generate_scene(SEED, 3, 64), generate_scene(SEED, 3, 64)
    assert [layout.image.tobytes() for layout in first] == [layout.image.tobytes() for layout in again]
    for seed, index in ((SEED + 1, 3), (SEED, 4)):
        assert generate_scene(seed, index, 64)[0].image.tobytes() != first[0].image.tobytes()


@pytest.mark.parametrize("size", [32, 100, 256])
def test_every_pixel_is_on_the_palette(size: int) -> None:
    for layout in generate_scene(SEED, 1, size):
        assert layout.image.shape == (size, size, 3)
        assert layout.image.dtype == np.uint8
        assert on_palette(layout.image).all()


def test_class_shares(layouts: list[SyntheticLayout]) -> None:
    shares = np.stack([one_hot(layout.image).mean((0, 1)) for layout in layouts])
    background = shares[:, CLASS_NAMES.index("background")]
    assert 0.80 <= background.mean() <= 0.90
    assert np.quantile(background, 0.03) > 0.65
    assert np.quantile(background, 0.97) < 0.98
    present = (shares > 0).mean(0)
    assert (present > 0.05).all(), dict(zip(CLASS_NAMES, present, strict=True))
    assert shares.sum(1) == pytest.approx(1), "each pixel has exactly one class"


def test_single_walls_are_8_to_10_pixels_thick() -> None:
    """Runs of wall colour along rows and columns: the commonest lengths are one wall's thickness."""
    lengths: Counter[int] = Counter()
    for index in range(6):
        for layout in generate_scene(SEED, index, 512):
            wall = (layout.image == np.array(CLASSES["wall"])).all(-1)
            for lines in (wall, wall.T):
                edges = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
                starts, ends = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
                lengths.update((ends - starts).tolist())
    thin = sum(lengths[length] for length in (8, 9, 10))
    crossing = sum(number for length, number in lengths.items() if 3 <= length <= 30)  # no fringe, not along a wall
    assert lengths.most_common(1)[0][0] in (8, 9, 10)
    assert thin > 0.5 * crossing


def test_scene_comes_first_with_its_own_rooms() -> None:
    for index in range(20):
        scene, *rooms = generate_scene(SEED, index, 32)
        assert (scene.type, scene.room_id, scene.scene_id) == ("scene", "0000", f"synthetic_{index:06d}")
        assert 2 <= len(rooms) <= 4
        assert {room.type for room in rooms} == {"room"}
        assert {room.scene_id for room in rooms} == {scene.scene_id}
        assert len({room.room_id for room in rooms} - {"0000"}) == len(rooms)


def test_a_quarter_are_scenes(layouts: list[SyntheticLayout]) -> None:
    assert 0.2 < np.mean([layout.type == "scene" for layout in layouts]) < 0.3


def test_rooms_repeat_the_furniture_of_their_scene() -> None:
    """A class that a room shows is in its scene too."""
    shown = hidden = 0
    for index in range(20):
        scene, *rooms = (one_hot(layout.image).any((0, 1)) for layout in generate_scene(SEED, index, 256))
        shown += sum((room & scene).sum() for room in rooms)
        hidden += sum((room & ~scene).sum() for room in rooms)
    assert hidden < 0.03 * shown  # a lamp may hide what is below it at the small scale


def test_plan_does_not_depend_on_size() -> None:
    for index in range(10):
        small, large = generate_scene(SEED, index, 32), generate_scene(SEED, index, 64)
        assert [layout.room_id for layout in small] == [layout.room_id for layout in large]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_manifest_has_exactly_count_layouts(tmp_path: Path, count: int) -> None:
    reports: list[int] = []
    manifest = write_manifest(tmp_path, count, 32, SEED, reports.append)
    rows = _read(manifest)
    assert manifest == tmp_path / "layouts.csv"
    assert manifest.read_text().splitlines()[0].split(",") == COLUMNS
    assert len(rows) == count == sum(reports) == len(list((tmp_path / "layouts").iterdir()))
    expected = [layout for index in range(4) for layout in generate_scene(SEED, index, 32)][:count]
    for row, layout in zip(rows, expected, strict=True):
        assert (row["scene_id"], row["type"], row["room_id"]) == (layout.scene_id, layout.type, layout.room_id)
        assert row["is_empty"] == "false"
        assert not Path(row["layout_path"]).is_absolute()
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / row["layout_path"])), layout.image)


def test_files_are_the_same_for_any_number_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for cores in (1, 2):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        write_manifest(tmp_path / str(cores), 42, 32, SEED)  # more than eight scenes, so that two cores share them
        written.append(_files(tmp_path / str(cores)))
    assert written[0] == written[1]
    assert len(written[0]) == 42 + 1


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        generate_scene(-1, 0, 32)


def test_without_memory_that_processes_share_the_same_is_drawn(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    monkeypatch.setattr(synthetic, "FEW_SCENES", 0)
    write_manifest(tmp_path / "a", 5, 32, 0)
    monkeypatch.undo()
    write_manifest(tmp_path / "b", 5, 32, 0)  # few: no process starts
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 6
