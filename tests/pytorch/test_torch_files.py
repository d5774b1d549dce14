"""PyTorch's checkpoints in and out, as their user meets it: files, exit codes, one line for a mistake."""

import argparse
import collections
import datetime
import fractions
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch

from helpers import ROOT, run
from imginav_jax import autoencoder
from imginav_jax.export_torch import export_checkpoint
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.pytorch import torch_pickle
from imginav_jax.pytorch.twin import HEADS, Twin
from imginav_jax.runs import weights
from imginav_jax.system.errors import UserError


@pytest.fixture
def twin():
    torch.manual_seed(0)
    return Twin(latent=4, base=16, steps=2)


def assert_same_tensors(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_in_and_out_again_by_the_command_line_returns_every_byte(tmp_path, twin):
    torch.save(twin.checkpoint(), tmp_path / "AE_checkpoint_best.pt")
    imported = run("import_torch", tmp_path / "AE_checkpoint_best.pt", "--out", tmp_path / "imported")
    assert imported.returncode == 0, imported.stderr
    assert "2 downsampling steps, 4 latent channels, 16 base channels" in imported.stdout
    exported = run("export_torch", tmp_path / "imported", "--out", tmp_path / "new" / "again.pt")
    assert exported.returncode == 0, exported.stderr
    found = torch.load(tmp_path / "new" / "again.pt", weights_only=True)
    assert_same_tensors(found["state_dict"], twin.state_dict())
    Twin(latent=4, base=16, steps=2).load_state_dict(found["state_dict"])
    assert found["config"]["type"] == "Autoencoder"
    for part in ("encoder", "decoder"):
        expected = {key: value for key, value in twin.config[part].items() if key != "heads"}
        assert found["config"][part].items() >= expected.items()
    for head, expected in zip(found["config"]["decoder"]["heads"], twin.config["decoder"]["heads"], strict=True):
        assert head.items() >= expected.items()
        assert head["in_channels"] == 8


@pytest.mark.parametrize(
    ("heads", "variational"),
    [(HEADS[::-1], False), (HEADS[:1], False), (HEADS, True)],
    ids=["another order", "RGB alone", "variational"],
)
def test_out_and_in_again_returns_every_byte(tmp_path, heads, variational):
    torch.manual_seed(0)
    twin = Twin(latent=3, base=32, steps=1, activation="GELU", groups=4, heads=heads, variational=variational)
    twin.config["decoder"]["heads"][0] |= {"name": "mine", "norm_groups": 2, "activation": "ReLU"}
    state = {name.replace(f".{heads[0][0]}.", ".mine."): tensor for name, tensor in twin.state_dict().items()}
    torch.save({"state_dict": state, "config": twin.config}, tmp_path / "a.pt")
    config = import_checkpoint(tmp_path / "a.pt", tmp_path / "a")
    export_checkpoint(tmp_path / "a", tmp_path / "b.pt")
    assert_same_tensors(torch.load(tmp_path / "b.pt", weights_only=True)["state_dict"], state)
    assert import_checkpoint(tmp_path / "b.pt", tmp_path / "b") == config
    assert config.variational == ("encoder.mu_head.weight" in state)
    first, second = weights.load(tmp_path / "a"), weights.load(tmp_path / "b")
    assert first.config == second.config == config
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert weights.digest(first) == weights.digest(second)


def test_a_pickle_that_would_run_code_does_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was_here"),)

    for name, save in (("zip", torch.save), ("plain", lambda payload, path: path.write_bytes(pickle.dumps(payload)))):
        path = tmp_path / f"{name}.pt"
        save({"state_dict": {"encoder.encoder.0.weight": Hostile()}, "config": {}}, path)
        result = run("import_torch", path, "--out", tmp_path / "out")
        assert result.returncode == 1
        assert (
            f"error: {path} is not a checkpoint of tensors and plain values alone; nothing in it was run"
            in result.stderr
        )
        assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["plain.pt", "zip.pt"]


class Trainer:
    """Of a person's own code."""

    def __init__(self):
        self.epochs = 3


BESIDE = {
    "best_loss": np.float64(0.25),
    "epoch": np.int64(7),
    "done": np.bool_(True),
    "curve": np.arange(3.0),
    "curves": np.array([{}], object),
    "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("runs/a")),
    "on_windows": pathlib.PureWindowsPath("C:/runs"),
    "history": collections.defaultdict(list, loss=[0.5, np.float32(0.25)]),
    "last": collections.deque([1, 2], 5),
    "at": datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC),
    "share": fractions.Fraction(1, 3),
    "kinds": (frozenset("ab"), slice(3), torch.Size([2]), torch.float16, torch.device("cpu"), torch.__version__),
    "generator": np.random.RandomState(0).get_state(),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older"])
def test_plain_things_beside_the_weights_are_let_through(tmp_path, twin, is_zip):
    torch.save({**twin.checkpoint(), **BESIDE}, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    before = set(torch.serialization.get_safe_globals())
    import_checkpoint(tmp_path / "a.pt", tmp_path / "a")
    assert set(torch.serialization.get_safe_globals()) == before
    export_checkpoint(tmp_path / "a", tmp_path / "b.pt")
    assert_same_tensors(torch.load(tmp_path / "b.pt", weights_only=True)["state_dict"], twin.state_dict())
    found = torch_pickle.load(tmp_path / "a.pt")
    assert (found["best_loss"], found["epoch"], found["done"]) == (0.25, 7, True)
    assert {type(found[name]) for name in ("best_loss", "epoch", "done")} == {float, int, bool}
    assert (found["history"], found["last"]) == ({"loss": [0.5, 0.25]}, [1, 2])
    assert not any(isinstance(found[name], type(BESIDE[name])) for name in ("args", "at", "curve", "curves"))


def test_numbers_of_numpy_may_stand_in_the_config(tmp_path, twin):
    payload = twin.checkpoint()
    payload["config"]["encoder"]["latent_channels"] = np.int64(4)
    torch.save(payload, tmp_path / "a.pt")
    assert import_checkpoint(tmp_path / "a.pt", tmp_path / "a").latent_channels == 4


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older"])
def test_what_is_not_plain_is_named_with_its_place(tmp_path, twin, is_zip):
    payload = {**twin.checkpoint(), "all": {"trainers": [1, Trainer()]}, "optimizer": torch.optim.SGD}
    torch.save(payload, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    result = run("import_torch", tmp_path / "a.pt", "--out", tmp_path / "out")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert (
        f"error: {tmp_path / 'a.pt'} is not a checkpoint of tensors and plain values alone; nothing in it was run: "
        in line
    )
    assert f"{Trainer.__module__}.Trainer" in line
    if is_zip:
        assert "torch.optim.sgd.SGD" in line
        assert "['all']['trainers'][1]" in line
    assert not (tmp_path / "out").exists()


def nest(value, kind=list):
    """It in ten places of a list, which is in ten places of another one, and so on: ten to the fortieth, in a kB."""
    for _ in range(40):
        value = kind([value] * 10)
    return value


def test_a_small_file_of_shared_lists_costs_nothing(tmp_path, twin):
    payload = {**twin.checkpoint(), "all": nest(Trainer()), "more": [Trainer() for _ in range(9)]}
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"Trainer \(at \['all'\](\[0\])*, \['more'\]\[0\], .*, and elsewhere\); save"):
        import_checkpoint(tmp_path / "a.pt", tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "field"),
    [
        *[("encoder", "latent_channels"), ("encoder", "in_channels"), ("encoder", "downsampling_steps")],
        *[("decoder", "activation"), ("decoder", "upsampling_steps"), ("decoder", "heads")],
    ],
)
def test_shared_lists_in_the_config_are_named_in_short(tmp_path, twin, part, field):
    payload = twin.checkpoint()
    payload["config"][part][field] = nest(1)
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"config\.\w+\.{field}(\[0\])? is \[\[\[?\.\.\.") as raised:
        import_checkpoint(tmp_path / "a.pt", tmp_path / "out")
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("call", [os.system, subprocess.Popen, eval, exec], ids=lambda call: call.__name__)
def test_a_call_is_named_and_not_made(tmp_path, twin, call):
    class Hostile:
        def __reduce__(self):
            return call, (f"open({str(tmp_path / 'was_here')!r}, 'w')",)

    torch.save({**twin.checkpoint(), "best_loss": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"nothing in it was run: it holds \S*{call.__name__}"):
        import_checkpoint(tmp_path / "a.pt", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["a.pt"]


def without(name):
    return lambda payload: payload["state_dict"].pop(name)


def with_tensor(name, tensor):
    return lambda payload: payload["state_dict"].update({name: tensor})


def with_config(part, **fields):
    return lambda payload: payload["config"][part].update(fields)


def with_head(index, **fields):
    return lambda payload: payload["config"]["decoder"]["heads"][index].update(fields)


FIRST = "encoder.encoder.0.weight"  # 16x3x3x3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda payload: payload.pop("config"), "it has no dict 'config'"),
        (lambda payload: payload.update(state_dict=[1]), "it has no dict 'state_dict'"),
        (without(FIRST), f"missing tensors: {FIRST}"),
        (with_tensor("encoder.extra.weight", torch.zeros(1)), "surplus tensors: encoder.extra.weight"),
        (with_tensor(FIRST, torch.zeros(16, 3, 3)), f"{FIRST} is 16x3x3, expected 16x3x3x3"),
        (with_tensor(FIRST, torch.full((16, 3, 3, 3), torch.nan)), f"values that are not finite: {FIRST}"),
        (with_tensor(FIRST, torch.zeros(16, 3, 3, 3, dtype=torch.float16)), f"{FIRST} is float16"),
        (with_tensor(FIRST, torch.zeros(16, 3, 3, 3, dtype=torch.bfloat16)), f"{FIRST} is bfloat16"),
        (with_tensor(FIRST, "text"), f"{FIRST} is str"),
        (with_config("encoder", variational="yes"), "config.encoder.variational is 'yes', expected true or false"),
        (with_config("encoder", variational=True), "missing tensors: encoder.feature_extractor.0.weight"),
        (with_config("encoder", in_channels=1), "config.encoder.in_channels is 1, expected 3"),
        (with_config("encoder", downsampling_steps=8), "downsampling_steps is 8, expected a whole number from 1 to 7"),
        (with_config("encoder", latent_channels="4"), "config.decoder.latent_channels is 4, expected the encoder's 4"),
        (with_config("encoder", base_channels=24), "config.decoder.base_channels is 16, expected the encoder's 24"),
        (with_config("decoder", upsampling_steps=3), "upsampling_steps is 3, expected the encoder's"),
        (with_config("decoder", heads={}), "config.decoder.heads is {}, expected a list"),
        (with_config("decoder", heads=["rgb"]), "config.decoder.heads[0] is 'rgb', expected a dict"),
        (with_head(0, type="DepthHead"), "heads[0].type is 'DepthHead', expected RGBHead"),
        (with_head(0, final_activation="sigmoid"), "heads[0].final_activation is 'sigmoid', expected tanh"),
        (with_head(1, num_classes=0), "heads[1].num_classes is 0, expected a whole number above 0"),
        (with_head(1, num_classes=9), "decoder.heads.segmentation.head.3.weight is 10x8x3x3, expected 9x8x3x3"),
        (with_head(1, name="rgb"), "heads that differ in name"),
        (with_head(2, in_channels=5), "heads[2].in_channels is 5, expected 8"),
        (lambda payload: payload["config"].pop("decoder"), "config.decoder is None, expected a dict"),
        (with_head(0, type=["RGBHead"]), "heads[0].type is ['RGBHead'], expected RGBHead"),
        (with_head(0, activation=["SiLU"]), "heads[0].activation is ['SiLU'], expected one of CELU"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_and_nothing_written(tmp_path, twin, change, message):
    payload = twin.checkpoint()
    payload["state_dict"] = dict(payload["state_dict"])
    change(payload)
    path = tmp_path / "bad.pt"
    torch.save(payload, path)
    with pytest.raises(UserError) as raised:
        import_checkpoint(path, tmp_path / "out")
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["bad.pt"]


def test_an_unknown_activation_is_answered_with_the_known_ones(tmp_path, twin):
    payload = twin.checkpoint()
    for part in ("encoder", "decoder"):
        payload["config"][part]["activation"] = "PReLU"
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"config\.encoder\.activation is 'PReLU', expected one of CELU, ELU"):
        import_checkpoint(tmp_path / "a.pt", tmp_path / "out")


def test_a_config_that_claims_far_more_than_the_tensors_is_answered_at_once(tmp_path, twin):
    payload = twin.checkpoint()
    for part, steps in (("encoder", "downsampling_steps"), ("decoder", "upsampling_steps")):
        payload["config"][part] |= {"base_channels": 4096, steps: 7}
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(UserError, match="missing tensors"):
        import_checkpoint(tmp_path / "a.pt", tmp_path / "out")


def test_files_and_folders_that_cannot_be_used(tmp_path, twin):
    torch.save(twin.checkpoint(), tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "taken").mkdir()
    for name in ("half.pt", "text.pt", "empty.pt"):
        with pytest.raises(UserError, match=f"{name} is not a checkpoint"):
            import_checkpoint(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere\.pt is not a file"):
        import_checkpoint(tmp_path / "nowhere.pt", tmp_path / "out")
    with pytest.raises(UserError, match="taken exists already"):
        import_checkpoint(tmp_path / "good.pt", tmp_path / "taken")
    with pytest.raises(UserError, match=r"good\.pt exists already"):
        export_checkpoint(tmp_path / "taken", tmp_path / "good.pt")
    with pytest.raises(UserError, match="taken is neither a workdir with a checkpoint nor an imported"):
        export_checkpoint(tmp_path / "taken", tmp_path / "out.pt")
    with pytest.raises(UserError, match=r"out.* cannot be written"):
        import_checkpoint(tmp_path / "good.pt", tmp_path / "text.pt" / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.pt").exists()


def test_without_pytorch_the_error_names_it(tmp_path):
    program = f"""
import sys
sys.modules["torch"] = None
from imginav_jax import export_torch, import_torch
sys.argv = ["import_torch", "a.pt", "--out", {str(tmp_path / "out")!r}]
import_torch.main()
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == "error: PyTorch reads these files and is not installed: pip install torch"


def test_what_was_imported_computes_what_pytorch_did(tmp_path, twin):
    torch.save(twin.checkpoint(), tmp_path / "a.pt")
    import_checkpoint(tmp_path / "a.pt", tmp_path / "a")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents, outputs = twin.encoder(scaled), twin(scaled)
    found = autoencoder.load(tmp_path / "a")
    np.testing.assert_allclose(found.encode(images), latents.permute(0, 2, 3, 1), rtol=0, atol=1e-4)
    made = found.reconstruct(images)
    rgb = ((outputs["rgb"].permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
    assert np.abs(made.images.astype(float) - rgb).max() <= 1
    assert (made.classes == outputs["segmentation"].argmax(1).numpy()).mean() > 0.999
    np.testing.assert_allclose(made.room_scene_probabilities, outputs["classification"].softmax(1), atol=1e-4)
