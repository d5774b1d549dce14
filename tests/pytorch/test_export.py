"""Weights for other programs: what was written is what was trained, and loads where this package is not."""

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from jax import export

from helpers import FAST, ROOT, TINY
from imginav_jax import autoencoder
from imginav_jax.export import __main__
from imginav_jax.export.original import export_checkpoint, export_safetensors
from imginav_jax.export.programs import export_programs
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.models import network
from imginav_jax.pytorch.twin import Twin
from imginav_jax.runs import weights
from imginav_jax.system.errors import UserError

CONFIG = dataclasses.replace(TINY, downsampling_steps=1)
SIZE = 32  # pixels


def make_weights(directory, config=CONFIG):
    numbers = np.random.default_rng(0)
    shapes = network.abstract_params(config)
    params = jax.tree.map(lambda leaf: numbers.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    weights.save(directory, config, params, {})
    return directory


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("export") / "imported")


def program(folder, name):
    return export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))


def run_fast(exported, *arrays):
    return np.asarray(jax.jit(exported.call, compiler_options=FAST)(*arrays))


@pytest.mark.parametrize("variational", [False, True], ids=["deterministic", "variational"])
def test_safetensors_hold_every_byte_of_the_originals_state_dict(tmp_path, variational):
    torch.manual_seed(0)
    twin = Twin(latent=4, base=16, steps=1, variational=variational)
    torch.save(twin.checkpoint(), tmp_path / "a.pt")
    config = import_checkpoint(tmp_path / "a.pt", tmp_path / "a")
    export_safetensors(tmp_path / "a", tmp_path / "new" / "a.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "new" / "a.safetensors")
    assert found.keys() == twin.state_dict().keys()
    for name, tensor in twin.state_dict().items():
        assert found[name].dtype == np.float32
        assert found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.numpy().tobytes(), name
    with safetensors.safe_open(tmp_path / "new" / "a.safetensors", "numpy") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    for part in ("encoder", "decoder"):
        expected = {key: value for key, value in twin.config[part].items() if key != "heads"}
        assert metadata["config"][part].items() >= expected.items()
    assert metadata["program"]["jax"] == jax.__version__
    assert import_checkpoint(tmp_path / "new" / "a.safetensors", tmp_path / "b") == config
    first, second = weights.load(tmp_path / "a"), weights.load(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert weights.digest(first) == weights.digest(second)


@pytest.mark.parametrize(
    "change", [{}, {"variational": True, "shortcuts": True}], ids=["plain", "variational with shortcuts"]
)
@pytest.mark.usefixtures("compile_fast")
def test_programs_compute_what_the_autoencoder_does(tmp_path, change):
    directory = make_weights(tmp_path / "a", dataclasses.replace(CONFIG, **change))
    export_programs(directory, tmp_path / "new" / "programs", image_size=SIZE)
    encode, decode = (program(tmp_path / "new" / "programs", name) for name in ("encode", "decode"))
    assert encode.platforms == decode.platforms == ("cpu", "cuda")
    calls = re.findall(r"custom_call @(\w+)", encode.mlir_module() + decode.mlir_module())
    assert set(calls) == {"shape_assertion"}, "nothing that one platform alone has"
    model = autoencoder.load(directory)
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    latents = run_fast(encode, images)
    assert latents.dtype == np.float32
    np.testing.assert_allclose(latents, model.encode(images), rtol=0, atol=1e-5)
    found, expected = run_fast(decode, latents), model.decode(latents)
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3, "only where a value lies between two"
    described = json.loads((tmp_path / "new" / "programs" / "model.json").read_text())
    assert described["encode"] == {"input": "uint8 [b, 32, 32, 3]", "output": "float32 [b, 16, 16, 4]"}
    assert described["decode"] == {"input": "float32 [b, 16, 16, 4]", "output": "uint8 [b, 32, 32, 3]"}
    assert described["image_size"] == SIZE
    assert described["weights_sha256"] == model.digest
    assert described["architecture"] == json.loads(json.dumps(model.config.architecture()))


EXAMPLES = ("torch", "safetensors", "stablehlo")
CHECKS = {
    "torch": 'assert all(type(tensor) is torch.Tensor for tensor in state_dict.values()) and config["encoder"]',
    "safetensors": 'assert all(tensor.dtype == "float32" for tensor in state_dict.values()) and config["encoder"]',
    "stablehlo": "assert pictures.dtype == np.uint8 and pictures.shape == images.shape and latents.dtype == np.float32",
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_readmes_example_loads_it_without_this_package(tmp_path, imported, kind):
    text = (ROOT / "imginav_jax" / "pytorch" / "README.md").read_text()
    (example,) = re.findall(rf"<!-- loads {kind} -->\n```python\n(.*?)```", text, re.DOTALL)
    (name,) = re.findall(rf"--out (\S+) --format {kind}\n", text)
    if kind == "stablehlo":
        export_programs(imported, tmp_path / name, image_size=SIZE)
    else:
        {"torch": export_checkpoint, "safetensors": export_safetensors}[kind](imported, tmp_path / name)
    without = """
import sys
sys.modules["imginav_jax"] = None  # even where the package is installed
try:
    import imginav_jax
except ImportError:
    pass
else:
    sys.exit("the package is here")
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-W", "error", "-c", f"{without}\n{example}\n{CHECKS[kind]}"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_size_of_a_run_without_its_own_is_the_originals(tmp_path, imported):
    export_programs(imported, tmp_path / "programs")
    assert program(tmp_path / "programs", "encode").in_avals[0].shape[1:] == (512, 512, 3)


WRITERS = [
    pytest.param(export_checkpoint, id="torch"),
    pytest.param(export_safetensors, id="safetensors"),
    pytest.param(export_programs, id="stablehlo"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_what_cannot_be_written_leaves_nothing(tmp_path, imported, write):
    (tmp_path / "taken").write_text("mine")
    for directory, out, step, message in (
        (imported, tmp_path / "taken", None, "taken exists already; choose another --out"),
        (imported, tmp_path / "taken" / "out", None, "out cannot be written: "),
        (imported, tmp_path / "out", 7, "has no checkpoint of step 7; there are 0"),
        (tmp_path, tmp_path / "out", None, "is neither a workdir with a checkpoint nor an imported checkpoint"),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as raised:
            write(directory, out, step)
        assert len(str(raised.value).splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_model_that_a_format_cannot_hold_is_named(tmp_path):
    shortcuts = make_weights(tmp_path / "shortcuts", dataclasses.replace(CONFIG, shortcuts=True))
    for write in (export_checkpoint, export_safetensors):
        with pytest.raises(UserError, match=f"^{re.escape(str(shortcuts))}: the model has shortcuts, which "):
            write(shortcuts, tmp_path / "out")
    blind = make_weights(tmp_path / "blind", dataclasses.replace(CONFIG, heads=CONFIG.heads[1:]))
    with pytest.raises(UserError, match=r"^--image_size is 33, expected a multiple of 2 for "):
        export_programs(blind, tmp_path / "out", image_size=33)
    with pytest.raises(UserError, match=f"^{re.escape(str(blind))}: the model has no RGB head, expected one"):
        export_programs(blind, tmp_path / "out", image_size=SIZE)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["blind", "shortcuts"]


@pytest.fixture
def command(monkeypatch, caplog):
    """Runs the command in this process, and returns what it says."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        __main__.main()
        return [record.getMessage() for record in caplog.records]

    monkeypatch.setattr(__main__, "log_to_stdout", lambda: None)  # of the whole process
    caplog.set_level(logging.INFO, "imginav_jax")
    return call


@pytest.mark.parametrize("kind", EXAMPLES)
def test_by_the_command_line(tmp_path, imported, command, kind):
    out = tmp_path / f"a.{kind}"
    options = ["--image_size=32"] if kind == "stablehlo" else []
    assert command(imported, "--out", out, "--format", kind, "--step=0", *options) == [
        f"{out}: the weights after step 0"
    ]
    assert [each.name for each in tmp_path.iterdir()] == [out.name]
    if kind == "stablehlo":
        assert {each.name for each in out.iterdir()} == {"decode.stablehlo", "encode.stablehlo", "model.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "torch", "--image_size=64"], "--image-size is 64, expected none with --format torch"),
        (["--format", "safetensors"], "--out is a.st, expected a name that ends in .safetensors"),
        (
            ["--out", "a.safetensors", "--format", "torch"],
            "--out is a.safetensors, expected another ending with --format torch",
        ),
    ],
)
def test_a_mistake_in_the_options_is_one_line(imported, command, capsys, arguments, message):
    with pytest.raises(SystemExit, match=r"^2$"):
        command(imported, "--out", "a.st", *arguments)
    assert capsys.readouterr().err == f"error: {message}\n"
