"""Results in two files: what comes back, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from imginav_jax.runs.results import control_file, noise_file
from imginav_jax.runs.results.control_file import Control, MeasuredLatent, Point, Trial
from imginav_jax.runs.results.noise_file import Noise, NoisePoint, NoisyLatent
from imginav_jax.system.errors import UserError


def make_control():
    random = np.random.default_rng(0)
    counts = {"walls_demanded": random.random(3), "walls_demanded_found": random.random((3, 3))}
    points = tuple(Point(step, 1e9 * step, 0.5 * step, counts) for step in (0, 10))
    trial = Trial(0, points, points, counts, random.random((3, 4)), np.zeros(3))
    pictures = np.zeros((2, 3, 8, 8), np.uint8)
    shape, features = (16, 16, 4), random.random((3, 4))
    latent = MeasuredLatent("R1", "R1", "a_run", "1f", shape, 1.0, 1e9, 2e9, counts, features, (trial,), pictures)
    return Control(
        "NVIDIA L40S", "gpu", 1, "0.1", "bfloat16", 128, "key", "walls", 16, 20, 10, 8, (0, 4, 5),
        random.random((3, 4)), random.random((5, 4)), np.zeros(3), (latent,),
    )  # fmt: skip


def make_noise():
    points = tuple(NoisePoint(sigma, bits, {"layouts": np.ones(3)}) for sigma, bits in ((0.0, np.inf), (0.5, 12.0)))
    return Noise("key", 128, (0, 4, 5), (NoisyLatent("R1", "a_run", "1f", (16, 16, 4), points),))


def assert_alike(one, other):
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_alike(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_alike(mine, theirs)
    else:
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)


@pytest.mark.parametrize(("module", "make"), [(control_file, make_control), (noise_file, make_noise)])
def test_what_is_saved_comes_back(module, make, tmp_path):
    made = make()
    path = tmp_path / "folder" / "control_nvidia-l40s_bfloat16.json"
    module.save(path, made)
    assert_alike(module.load(path), made)
    assert json.loads(path.read_text())["format_version"] == module.FORMAT_VERSION


def test_the_files_of_a_device_are_found_by_their_names(tmp_path):
    path = tmp_path / control_file.file_name("NVIDIA L40S", "bfloat16")
    assert path.name == "control_nvidia-l40s_bfloat16.json"
    assert noise_file.beside(path).name == "noise_nvidia-l40s_bfloat16.json"
    control_file.save(path, make_control())
    noise_file.save(noise_file.beside(path), make_noise())
    assert control_file.find(tmp_path) == [path]
    assert noise_file.find(tmp_path) == [noise_file.beside(path)]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    path = tmp_path / "control_x.json"
    control_file.save(path, make_control())
    kept = path.read_text()
    control_file.save(path, dataclasses.replace(make_control(), features=np.ones((3, 4))))
    path.write_text(kept)
    with pytest.raises(UserError, match=r"belongs to another control_x\.npz; measure again"):
        control_file.load(path)


def test_damage_is_named(tmp_path):
    path = tmp_path / "control_x.json"
    with pytest.raises(UserError, match="cannot be read"):
        control_file.load(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="holds no JSON object"):
        control_file.load(path)
    path.write_text('{"format_version": 0}')
    with pytest.raises(UserError, match="format_version 0, expected 1; measure again"):
        control_file.load(path)
    control_file.save(path, make_control())
    content = json.loads(path.read_text())
    del content["held_out"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged"):
        control_file.load(path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(UserError, match="is damaged"):
        control_file.load(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        control_file.save(tmp_path / "file" / "control_x.json", make_control())
