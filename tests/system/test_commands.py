"""The front door, and what every command answers: help, a mistake in its options, a module that is no command."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import CONFIG, ROOT, complaint, run
from imginav_jax.system.process import start

MODULES = [command.module for command in start.COMMANDS.values()]


def front_door(*arguments):
    command = [sys.executable, "-m", "imginav_jax", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def misuse(result):
    """Returns the one line of a mistake in the options."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_every_command_is_listed_with_what_it_does(arguments):
    result = front_door(*arguments)
    assert result.returncode == 0
    for name, command in start.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", result.stdout, re.MULTILINE)


def test_the_doors_are_the_commands():
    package = ROOT / "imginav_jax"
    doors = [
        str(path.relative_to(package).with_suffix("")).replace("/", ".").removesuffix(".__main__")
        for path in package.rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    ]
    assert sorted(doors) == sorted([*MODULES, "__main__"])


def test_versions_and_devices():
    result = front_door("--version")
    assert result.returncode == 0, result.stderr
    found = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert {"imginav_jax", "jax", "jaxlib", "flax", "python", "platform"} < found.keys()
    assert "cpu" in found["devices"]


@pytest.mark.parametrize("module", MODULES)
def test_help_shows_an_example_and_succeeds(module):
    result = run(module, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert re.search(rf"^example: .*python -m imginav_jax\.{module}\b", result.stdout, re.MULTILINE)


def test_a_command_of_the_front_door_is_the_module(tmp_path):
    by_name, by_module = front_door("latent_colors", "x", "--out", "y.svg"), run("latent_colors", "x", "--out", "y.svg")
    assert misuse(by_name) == misuse(by_module) == "--out is y.svg, expected a name that ends in .png"
    assert misuse(front_door("reprot")) == "unknown command reprot; did you mean report?"
    assert misuse(front_door("xyzzy")).startswith("unknown command xyzzy; expected one of train, report, ")


@pytest.mark.parametrize("module", ["training.train", "system.files", "runs", "no.such.module"])
def test_a_module_that_is_no_command_says_so(module):
    assert misuse(run(module)) == f"imginav_jax.{module} is no command; `python -m imginav_jax` lists them"


@pytest.mark.parametrize("options", [["-um", "imginav_jax"], ["-u", "-W", "error", "-m", "imginav_jax"]])
def test_python_may_have_options_of_its_own(options):
    result = subprocess.run([sys.executable, *options, "reprot"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert misuse(result) == "unknown command reprot; did you mean report?"


@pytest.mark.parametrize("option", ["--image-size=0", "--image_size=0", "--image_size", "--images_per_device=0"])
def test_options_have_hyphens_and_underscores_are_accepted(option):
    said = misuse(run("encode", "x", "--out", "y", option))
    assert said.startswith(f"argument {option.partition('=')[0].replace('_', '-')}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing, the config file and experiment; for example: python -m imginav_jax.main --config="),
        (
            [CONFIG, "--config.batchsize=8"],
            'unknown config key "batchsize"; did you mean batch_size? All are listed in ',
        ),
        ([CONFIG, "--config.patience=8"], 'unknown config key "patience"; did you mean early_stopping.patience? All'),
        ([CONFIG, "--config.xyzzy=8"], 'unknown config key "xyzzy"; All are listed in configs/phase1_2.py'),
        (["--config=configs/nowhere.py:R1"], "--config configs/nowhere.py does not exist"),
        (["--config={folder}/broken.py"], "--config {folder}/broken.py fails in line 2: "),
        (["--config={folder}/syntax.py"], "--config {folder}/syntax.py fails in line "),
        (["--config={folder}/empty.py"], "--config {folder}/empty.py has no function get_config"),
        (
            ["--config={folder}/none.py"],
            "--config {folder}/none.py: get_config returns NoneType, expected a ConfigDict",
        ),
        (["--config={folder}/nameless.py"], "--config {folder}/nameless.py has no field "),
        (["--config={folder}/seedless.py:R1"], "--config {folder}/seedless.py has no field data.seed"),
        (["--config={folder}/dataless.py:R1"], "--config {folder}/dataless.py has no group of fields data"),
        (["--config={folder}/text.py:R1"], "--config {folder}/text.py has batch_size '16', expected int"),
    ],
)
def test_a_mistake_in_the_config_is_one_line(tmp_path, arguments, message):
    files = {
        "broken": "def get_config():\n    return 1 / 0\n",
        "syntax": "def get_config(:\n",
        "empty": "",
        "none": "def get_config():\n    pass\n",
        "nameless": "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n",
    }
    own = "from configs.phase1_2 import get_config as own\ndef get_config(name):\n    config = own(name)\n"
    files |= {
        "seedless": f"{own}    del config.data.seed\n    return config\n",
        "dataless": f"{own}    del config.data\n    return config\n",
        "text": f"{own}    del config.batch_size\n    config.batch_size = '16'\n    return config\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    said = misuse(run("main", *(each.format(folder=tmp_path) for each in arguments)))
    assert said.startswith(message.format(folder=tmp_path))


def test_overrides_may_stand_before_the_config():
    assert (
        complaint(run("main", "--config.batch_size=0", CONFIG))
        == "error: config.batch_size is 0, expected a number above 0"
    )
    assert complaint(run("main", "--config.batch_size=0", *CONFIG.split("="))).startswith(
        "error: config.batch_size is 0"
    )


def test_a_line_of_the_log_does_not_break_the_bar_of_a_terminal():
    code = """
from imginav_jax.system.progress import Progress, log_to_stdout, logger
log_to_stdout()
with Progress("Working", 3, "things") as progress:
    progress.advance()
    logger.info("a line")
    progress.advance()
"""
    parent, child = pty.openpty()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=child, stderr=child, check=True)
    os.close(child)
    shown = b""
    while chunk := _read(parent):
        shown += chunk
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    (line,) = [line for line in lines if "a line" in line]
    assert re.fullmatch(r"\d\d:\d\d:\d\d a line", line.rpartition("\r")[2]), "on a line of its own"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


def test_the_rooms_are_small():
    package = ROOT / "imginav_jax"
    folders = [package, *(path for path in package.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    assert {str(path): len(list(path.glob("*.py"))) for path in folders if len(list(path.glob("*.py"))) > 12} == {}
    assert [path.name for path in folders if not (path / "README.md").exists() and list(path.glob("*.py"))] == []
    assert all(
        len(path.read_text().splitlines()) <= 200
        for path in [*package.rglob("README.md"), *Path(ROOT / "launch").glob("README.md")]
    )
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
