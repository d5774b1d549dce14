"""Weights of the original as people have them: wrapped, in half precision, without their config, in safetensors."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from helpers import ROOT
from imginav_jax import autoencoder
from imginav_jax.import_torch import import_checkpoint
from imginav_jax.pytorch import tensors
from imginav_jax.pytorch.twin import Twin, to_torch
from imginav_jax.runs import weights
from imginav_jax.system.errors import UserError

FIRST = "encoder.encoder.0.weight"


@pytest.fixture
def twin():
    torch.manual_seed(0)
    return Twin(latent=4, base=16, steps=1)


@pytest.fixture
def said(caplog):
    """What the import says beside its result."""
    caplog.set_level(logging.INFO, "imginav_jax")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "imginav_jax"]


def prefixed(prefix, state_dict):
    return {f"{prefix}{name}": tensor for name, tensor in state_dict.items()}


def lightning(twin, prefix="model.", **hyper_parameters):
    """As Lightning saves a module that holds the autoencoder."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(prefix, twin.state_dict()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.25), "dirpath": "runs"}},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(40.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
        ],
        "lr_schedulers": [],
        "hyper_parameters": hyper_parameters,
    }


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def experiment_file(twin):
    """As the original's trainer reads it."""
    return {
        "experiment": {"name": "AE"},
        "dataset": {"batch_size": 16},
        "autoencoder": {part: twin.config[part] for part in ("encoder", "decoder")},
        "training": {"learning_rate": 1e-4},
    }


def assert_imported(directory, twin, tensor_dict=None):
    found = weights.load(directory)
    expected = tensor_dict or twin.state_dict()
    made = tensors.from_params(found.config, found.params)
    assert list(made) == list(twin.state_dict())
    for name, tensor in expected.items():
        assert made[name].dtype == np.float32
        assert made[name].tobytes() == tensor.float().numpy().tobytes(), name


def refusal(tmp_path, path, config=None):
    """The line with which a file is refused; nothing has been written."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as raised:
        import_checkpoint(path, tmp_path / "out", config)
    assert sorted(tmp_path.iterdir()) == before
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_the_prefix_of_a_wrapper_is_left_out(tmp_path, twin, said, prefix):
    payload = {**twin.checkpoint(), "state_dict": prefixed(prefix, twin.state_dict())}
    torch.save(payload, tmp_path / "a.pt")
    import_checkpoint(tmp_path / "a.pt", tmp_path / "a")
    assert_imported(tmp_path / "a", twin)
    assert said() == [f"The prefix {prefix} is left out of the tensors' names"]


def test_a_prefix_of_some_is_refused(tmp_path, twin):
    state = twin.state_dict()
    state[f"module.{FIRST}"] = state.pop(FIRST)
    torch.save({**twin.checkpoint(), "state_dict": state}, tmp_path / "a.pt")
    expected = "the tensors of encoder and decoder have the prefixes '', 'module.', expected the same for all"
    assert refusal(tmp_path, tmp_path / "a.pt") == f"{tmp_path / 'a.pt'}: {expected}"


def test_a_bare_state_dict_with_the_originals_yaml_computes_what_pytorch_did(tmp_path, twin):
    """The names of later versions, too, where the last layer stands apart."""
    renamed = {"encoder.encoder.9.": "encoder.latent_proj.", "encoder.encoder.": "encoder.feature_extractor."}
    state = twin.state_dict()
    for old, new in renamed.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    torch.save(prefixed("module.", state), tmp_path / "a.pth")
    import_checkpoint(tmp_path / "a.pth", tmp_path / "a", write_yaml(tmp_path / "ae.yaml", experiment_file(twin)))
    assert_imported(tmp_path / "a", twin)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    with torch.no_grad():
        latents, outputs = twin.encoder(to_torch(images)), twin(to_torch(images))
    found = autoencoder.load(tmp_path / "a")
    np.testing.assert_allclose(found.encode(images), latents.permute(0, 2, 3, 1), rtol=0, atol=1e-4)
    rgb = ((outputs["rgb"].permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
    assert np.abs(found.reconstruct(images).images.astype(float) - rgb).max() <= 1


def test_the_yaml_may_have_encoder_and_decoder_at_its_top(tmp_path, twin):
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    import_checkpoint(tmp_path / "a.pt", tmp_path / "a", write_yaml(tmp_path / "ae.yaml", twin.config))
    assert_imported(tmp_path / "a", twin)


def test_a_file_without_config_asks_for_one(tmp_path, twin):
    torch.save(twin.state_dict(), tmp_path / "bare.pt")
    torch.save(lightning(twin), tmp_path / "lightning.ckpt")
    safetensors.torch.save_file(twin.state_dict(), tmp_path / "a.safetensors")
    for name in ("bare.pt", "lightning.ckpt", "a.safetensors"):
        expected = "it has no dict 'config': give --config FILE.yaml, the original's of this model"
        assert refusal(tmp_path, tmp_path / name) == f"{tmp_path / name}: {expected}"


def test_a_config_beside_the_files_own_must_be_the_same(tmp_path, twin):
    torch.save(twin.checkpoint(), tmp_path / "a.pt")
    same = experiment_file(twin)
    same["autoencoder"]["encoder"] = {**same["autoencoder"]["encoder"], "norm_groups": 8, "name": "AE"}
    import_checkpoint(tmp_path / "a.pt", tmp_path / "a", write_yaml(tmp_path / "same.yaml", same))
    assert_imported(tmp_path / "a", twin)
    cases = {
        "decoder.heads[2].type": ("'ClassificationHead'", None, lambda config: config["decoder"]["heads"].pop()),
        "decoder.heads[1].num_classes": (10, 9, lambda config: config["decoder"]["heads"][1].update(num_classes=9)),
        "encoder.variational": (False, True, lambda config: config["encoder"].update(variational=True)),
    }
    for field, (here, there, change) in cases.items():
        other = yaml.safe_load(yaml.safe_dump(twin.config))
        change(other)
        path = write_yaml(tmp_path / "other.yaml", other)
        expected = f"config.{field} is {here} in the file itself, but {there} in --config {path}"
        assert refusal(tmp_path, tmp_path / "a.pt", path) == f"{tmp_path / 'a.pt'}: {expected}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "is not YAML: expected ',' or ']', but got '<stream end>' in line 1"),
        ("a: !!python/object/apply:os.mkdir [was_here]", "is not YAML: could not determine a constructor for the tag"),
        ("a: !!timestamp x", "is not YAML: "),
        ("[" * 600, "is not YAML: "),
        ("a: &a [*a]", "has no sections encoder and decoder, under autoencoder or at its top"),
        ("hello", "has no sections encoder and decoder"),
        ("", "has no sections encoder and decoder"),
        ("autoencoder: {encoder: {}}", "has no sections encoder and decoder"),
        ("{encoder: {latent_channels: many}, decoder: {}}", ": config.decoder.latent_channels is 4, expected the enco"),
        ("{encoder: {base_channels: 20}, decoder: {base_channels: 20}}", ": config.encoder.base_channels is 20, expec"),
    ],
)
def test_a_yaml_that_cannot_be_used_is_one_line(tmp_path, twin, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    path = tmp_path / "ae.yaml"
    path.write_text(text)
    line = refusal(tmp_path, tmp_path / "a.pt", path)
    assert line.startswith(f"--config {path}{'' if message[0] == ':' else ' '}{message}")
    assert len(line) < 1000


def test_a_yaml_that_is_not_there_is_one_line(tmp_path, twin):
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    path = tmp_path / "ae.yaml"
    assert refusal(tmp_path, tmp_path / "a.pt", path) == f"--config {path} cannot be read: No such file or directory"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_half_precision_is_converted(tmp_path, twin, said, dtype, ending):
    state = twin.to(dtype).state_dict()
    path = tmp_path / f"a.{ending}"
    if ending == "pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    import_checkpoint(path, tmp_path / "a", write_yaml(tmp_path / "ae.yaml", twin.config))
    assert_imported(tmp_path / "a", twin, state)
    assert said() == [f"The tensors are converted from {str(dtype).removeprefix('torch.')} to float32"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
def test_other_dtypes_are_refused(tmp_path, twin, dtype):
    state = {name: tensor.to(dtype) for name, tensor in twin.state_dict().items()}
    torch.save({**twin.checkpoint(), "state_dict": state}, tmp_path / "a.pt")
    assert f"tensors that are not float32: {FIRST} is {str(dtype).removeprefix('torch.')}, " in refusal(
        tmp_path, tmp_path / "a.pt"
    )


@pytest.mark.parametrize("prefix", ["model.", "autoencoder.", "model.autoencoder._orig_mod."])
def test_a_checkpoint_of_lightning(tmp_path, twin, prefix):
    torch.save(lightning(twin, prefix), tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "a", write_yaml(tmp_path / "ae.yaml", experiment_file(twin)))
    assert_imported(tmp_path / "a", twin)


def test_hyperparameters_of_lightning_may_hold_the_config(tmp_path, twin):
    for name, held in (("top", twin.config), ("nested", experiment_file(twin))):
        torch.save(lightning(twin, lr=1e-4, **held), tmp_path / f"{name}.ckpt")
        import_checkpoint(tmp_path / f"{name}.ckpt", tmp_path / name)
        assert_imported(tmp_path / name, twin)


def test_what_lightning_keeps_beside_the_autoencoder_is_named(tmp_path, twin):
    payload = lightning(twin, **twin.config)
    payload["state_dict"] |= {"discriminator.0.weight": torch.zeros(1), "steps": torch.tensor(3)}
    torch.save(payload, tmp_path / "a.ckpt")
    expected = "surplus tensors: discriminator.0.weight, steps"
    assert refusal(tmp_path, tmp_path / "a.ckpt") == f"{tmp_path / 'a.ckpt'}: {expected}"


def test_safetensors_need_no_pytorch(tmp_path, twin):
    """By the command line, with all of its options."""
    state, metadata = twin.to(torch.bfloat16).state_dict(), {"format": "pt", "config": json.dumps(twin.config)}
    safetensors.torch.save_file(prefixed("module.", state), tmp_path / "a.safetensors", metadata)
    write_yaml(tmp_path / "ae.yaml", experiment_file(twin))
    program = """
import sys
sys.modules["torch"] = None
from imginav_jax import import_torch
sys.argv = "import_torch a.safetensors --config ae.yaml --out a".split()
import_torch.main()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "The prefix module. is left out of the tensors' names" in result.stdout
    assert "The tensors are converted from bfloat16 to float32" in result.stdout
    assert "1 downsampling steps, 4 latent channels, 16 base channels" in result.stdout
    assert_imported(tmp_path / "a", twin, state)


def test_safetensors_that_cannot_be_used_are_one_line(tmp_path, twin):
    path = tmp_path / "a.safetensors"
    for content in (b"", b"hello, world", b"\xff" * 64):
        path.write_bytes(content)
        assert refusal(tmp_path, path).startswith(f"{path} is not a file of safetensors: Error while deserializing")
    assert refusal(tmp_path, tmp_path / "b.safetensors") == f"{tmp_path / 'b.safetensors'} is not a file"
    safetensors.torch.save_file(twin.state_dict(), path, {"config": "{"})
    assert refusal(tmp_path, path) == f"{path}: config in the metadata is not JSON"
    safetensors.torch.save_file(twin.state_dict(), path, {"config": "[1]"})
    assert refusal(tmp_path, path) == f"{path}: config is 'list', expected a dict"
    safetensors.torch.save_file({FIRST: torch.zeros(2).to(torch.float8_e4m3fn)}, path)
    assert refusal(tmp_path, path) == f"{path}: {FIRST} is F8_E4M3, expected float32"
