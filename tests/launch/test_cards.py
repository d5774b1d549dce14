"""Each card's settings, what a person has set already, and what is refused."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from imginav_jax.devices import cards
from imginav_jax.system.errors import UserError
from launch.conftest import CARDS

FRACTION, ALLOCATOR = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR"


@pytest.fixture
def found(cluster, monkeypatch):
    """Call it with what nvidia-smi is to say, and variables."""

    def find(label, count=1, **environment):
        cluster.set_card(label, count)
        monkeypatch.setenv("PATH", f"{cluster.binaries}:/usr/bin:/bin")
        return cards.find(environment)

    return find


def shell(cluster, label, script='env -0; printf "X=%s" "${LD_LIBRARY_PATH-}"', **environment):
    """The variables of a shell that has evaluated the settings, and what was said."""
    cluster.set_card(label)
    result = subprocess.run(
        ["bash", "-euc", f'settings=$("$0" -m imginav_jax.cards); eval "$settings"; {script}', sys.executable],
        cwd=ROOT,
        env=cluster.environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )
    variables = dict(line.split("=", 1) for line in result.stdout.split("\0") if line)
    return variables, result


@pytest.mark.parametrize(
    ("label", "precision", "fraction"),
    [("V100 16 GB", "float16", ".88"), ("V100 32 GB", "float16", ".92"), ("L40S", "bfloat16", ".92")],
)
def test_a_known_card(found, label, precision, fraction):
    card = found(label)
    name, memory, driver = CARDS[label].split(", ")
    assert (card.name, str(card.memory_mib), card.driver, card.count) == (name, memory, driver, 1)
    assert card.tuning.label == label
    chosen = cards.settings(card, {"HOME": "/home/a"})
    assert chosen["IMGINAV_PRECISION"] == precision
    assert (chosen[FRACTION], chosen[ALLOCATOR]) == (fraction, "default")
    assert chosen["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    assert chosen["JAX_PLATFORMS"] == "cuda,cpu"
    assert chosen["JAX_COMPILATION_CACHE_DIR"].endswith(label.lower().replace(" ", "_"))
    assert "XLA_FLAGS" not in chosen
    assert "JAX_DEFAULT_MATMUL_PRECISION" not in chosen


@pytest.mark.parametrize(
    "said",
    ["Tesla V100S-PCIE-32GB, 32510, 1.2", "Tesla V100-SXM2-32GB-LS, 32768, 1.2", "Tesla V100-DGXS-32GB, 32505, 1.2"],
)
def test_other_v100s(found, said):
    assert found(said).tuning.label == "V100 32 GB"


@pytest.mark.parametrize("said", [CARDS["unknown"], "NVIDIA L40, 46068, 1.2", "NVIDIA L40S, [N/A], 1.2"])
def test_an_unknown_card_has_safe_defaults(found, said):
    card = found(said)
    assert card.tuning is cards.UNKNOWN
    chosen = cards.settings(card, {})
    assert chosen["IMGINAV_PRECISION"] == "float32"
    assert not {FRACTION, ALLOCATOR} & set(chosen)
    assert "NOT KNOWN here: safe defaults" in cards.describe(card, {})[0]


def test_no_card(found, cluster, monkeypatch):
    for card in (found(None), found("L40S", CUDA_VISIBLE_DEVICES=""), found("L40S", JAX_PLATFORMS="cpu")):
        assert card.tuning is cards.NONE
        assert cards.settings(card, {}) == {"IMGINAV_PRECISION": "float32", "IMGINAV_WORKERS": "0"}
        assert cards.describe(card, {})[0].startswith("no card (")
    cluster.command("nvidia-smi", "#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert cards.find({}).name == "nvidia-smi failed: No devices were found"


@pytest.mark.parametrize("hidden", ["", "-1", "none", "NoDevFiles", "-1,0", "void", " ", ",0", "1", "cuda:0"])
def test_cards_are_hidden_as_cuda_hides_them(found, cluster, hidden):
    card = found("L40S", CUDA_VISIBLE_DEVICES=hidden)
    assert card.tuning is cards.NONE
    assert cards.settings(card, {}) == {"IMGINAV_PRECISION": "float32", "IMGINAV_WORKERS": "0"}
    variables, _ = shell(cluster, "L40S", CUDA_VISIBLE_DEVICES=hidden)
    assert variables["IMGINAV_CARD"] == "none"
    assert "JAX_PLATFORMS" not in variables


@pytest.mark.parametrize(
    ("visible", "count"),
    [("0,-1", 1), ("0,-1,1", 1), ("0,1,none", 2), ("1,9,0", 1), (" 0, 1", 2), ("GPU-1,GPU-2", 2), ("GPU-1,-1", 1)],
)
def test_cards_are_counted_up_to_the_first_entry_that_names_none(found, visible, count):
    card = found("V100 32 GB", 4, CUDA_VISIBLE_DEVICES=visible)
    assert (card.count, card.tuning.label) == (count, "V100 32 GB")


def test_several_cards_and_those_that_are_granted(found, cluster):
    assert found("V100 32 GB", 2).count == 2
    assert found("V100 32 GB", 4, CUDA_VISIBLE_DEVICES="1,3").count == 2
    assert found("L40S", CUDA_VISIBLE_DEVICES="GPU-1234").tuning.label == "L40S"
    lines = f'echo "{CARDS["L40S"]}"\necho "{CARDS["V100 16 GB"]}"\n'
    cluster.command("nvidia-smi", f"#!/bin/sh\n{lines}")
    mixed = cards.find({})
    assert (mixed.tuning, mixed.memory_mib) == (cards.UNKNOWN, 16160)
    assert cards.find({"CUDA_VISIBLE_DEVICES": "1"}).tuning.label == "V100 16 GB"


def test_float32_is_float32_unless_tf32_is_asked_for(found):
    card, name = found("L40S"), "JAX_DEFAULT_MATMUL_PRECISION"
    asked = {"IMGINAV_PRECISION": "float32"}
    assert cards.settings(card, asked)[name] == "highest"
    assert cards.settings(card, {**asked, "IMGINAV_TF32": "0"})[name] == "highest"
    assert cards.settings(card, {**asked, "IMGINAV_TF32": "1"})[name] == "tensorfloat32"
    with pytest.raises(UserError, match="IMGINAV_TF32 is 'yes', expected 0 or 1"):
        cards.settings(card, {**asked, "IMGINAV_TF32": "yes"})
    with pytest.raises(UserError, match="IMGINAV_PRECISION is 'fp16', expected float32, bfloat16, float16"):
        cards.settings(card, {"IMGINAV_PRECISION": "fp16"})


@pytest.mark.parametrize(
    ("variables", "workers"),
    [
        ({"LSB_DJOB_NUMPROC": "1"}, 0),
        ({"LSB_DJOB_NUMPROC": "4"}, 3),
        ({"LSB_DJOB_NUMPROC": "8", "LSB_MCPU_HOSTS": "a 4 b 4"}, 3),
        ({"LSB_DJOB_NUMPROC": "32"}, 4),
        ({}, 4),
    ],
)
def test_loader_workers(variables, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    assert cards.loader_workers(variables) == workers
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert cards.loader_workers(variables) == min(workers, 1)


def test_cudnn_on_a_v100():
    with pytest.raises(UserError, match=r"pip install nvidia-cudnn-cu12==9\.10\.2\.21"):
        cards.check_cudnn("Tesla V100-SXM2-16GB", "9.11.0.98")
    for name, version in (("Tesla V100-SXM2-16GB", "9.10.2.21"), ("NVIDIA L40S", "9.20.0.1"), ("Tesla V100", None)):
        cards.check_cudnn(name, version)
    with pytest.raises(UserError):
        cards.check_cudnn("Tesla V100S-PCIE-32GB", "10.1")


def test_an_installed_cudnn_that_is_too_new_ends_the_job(cluster):
    wheel = cluster.folder / "packages" / "nvidia_cudnn_cu12-9.11.0.98.dist-info"
    wheel.mkdir(parents=True)
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cudnn-cu12\nVersion: 9.11.0.98\n")
    _, result = shell(cluster, "V100 16 GB", PYTHONPATH=str(wheel.parent))
    assert result.returncode == 1
    assert result.stderr == (
        "error: cuDNN 9.11.0.98 has no kernels for Tesla V100-SXM2-16GB; install the last one that has: "
        "pip install nvidia-cudnn-cu12==9.10.2.21\n"
    )
    _, result = shell(cluster, "L40S", PYTHONPATH=str(wheel.parent))
    assert result.returncode == 0


def test_the_banner_names_card_versions_and_settings(found):
    card = found("V100 16 GB")
    first, second, third = cards.describe(card, cards.settings(card, {}))
    assert first == "Tesla V100-SXM2-16GB, 16,160 MiB, driver 535.161.08, settings for V100 16 GB"
    assert second.startswith("jaxlib 0.")
    assert "cuDNN" in second
    assert "IMGINAV_PRECISION=float16" in third
    assert f"{FRACTION}=.88" in third


def test_lines_for_a_shell(cluster):
    variables, result = shell(cluster, "V100 16 GB", XLA_PYTHON_CLIENT_MEM_FRACTION="", IMGINAV_CACHE="/it's a cache")
    assert result.returncode == 0
    assert variables["IMGINAV_CARD"] == "V100 16 GB"
    assert variables["JAX_COMPILATION_CACHE_DIR"] == f"/it's a cache/xla/{os.getuid()}/v100_16_gb"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in variables
    assert "card: Tesla V100-SXM2-16GB, 16,160 MiB, driver 535.161.08, settings for V100 16 GB" in result.stderr
    variables, result = shell(cluster, "unknown")
    assert "NVIDIA T1000, 4,096 MiB, driver 550.54.15, NOT KNOWN here: safe defaults" in result.stderr
    assert variables["JAX_COMPILATION_CACHE_DIR"] == str(cluster.folder / "home/.cache/imginav_jax/xla/nvidia_t1000")


def test_what_is_set_already_wins(cluster):
    given = {FRACTION: ".5", "IMGINAV_WORKERS": "0", ALLOCATOR: "platform", "JAX_COMPILATION_CACHE_DIR": "/c"}
    variables, _ = shell(cluster, "L40S", **given)
    assert given.items() <= variables.items()
    variables, _ = shell(cluster, "L40S", XLA_PYTHON_CLIENT_MEM_FRACTION=".4")
    assert variables[FRACTION] == ".4"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in variables


def test_cuda_libraries_of_a_module_are_not_found(cluster):
    ours, module = cluster.folder / "lib", cluster.folder / "cuda"
    for folder, name in ((ours, "libhwloc.so.15"), (module, "libcudnn.so.9")):
        folder.mkdir()
        (folder / name).touch()
    variables, result = shell(cluster, "L40S", LD_LIBRARY_PATH=f"{module}:{ours}")
    assert variables["LD_LIBRARY_PATH"] == str(ours)
    assert f"LD_LIBRARY_PATH without {module}" in result.stderr


def test_a_mistake_is_one_line(cluster):
    _, result = shell(cluster, "L40S", IMGINAV_PRECISION="fp8")
    assert result.returncode == 1
    assert result.stderr == "error: IMGINAV_PRECISION is 'fp8', expected float32, bfloat16, float16\n"


def test_it_needs_the_standard_library_alone():
    code = "import sys; from imginav_jax.devices import cards; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert loaded - {"imginav_jax", "__main__"} <= sys.stdlib_module_names
