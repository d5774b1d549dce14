"""Tiny runs and a report on them, made once for all tests of this folder, by whichever process needs them first."""

import contextlib
import fcntl

import pytest
from tiny_runs import NAMES, train_tiny, write_config

from helpers import run


@contextlib.contextmanager
def make_once(path):
    """Whether `path` is to be made; another process that asks meanwhile waits."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all processes of the test run see."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "report"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trained(shared):
    """R1, R2 and R3, two epochs of twelve steps each; its folders are not to be changed."""
    with make_once(shared / "trained.done") as missing:
        if missing:
            for label in NAMES:
                train_tiny(shared / "trained", f"{label},quick")
            (shared / "trained.done").touch()
    return shared / "trained"


@pytest.fixture(scope="session")
def config_file(shared):
    path = shared / "config.py"
    with make_once(path) as missing:
        return write_config(path, 1) if missing else path


@pytest.fixture(scope="session")
def reported(trained, shared, config_file):
    """The folder of a report by the command line, and what it said."""
    out, said = trained / "report", shared / "said.txt"
    with make_once(said) as missing:
        if missing:
            options = "--out", out, "--config", config_file, "--write-next-config", trained / "phase1_3.py"
            result = run("report", trained / "phase", *options)
            assert result.returncode == 0, result.stderr
            said.write_text(result.stdout)
    return out, said.read_text()
