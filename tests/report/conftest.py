"""Tiny runs and a report on them, made once for all tests of this folder."""

import pytest
from tiny_runs import NAMES, train_tiny, write_config

from helpers import run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """R1, R2 and R3, two epochs of twelve steps each; its folders are not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    for label in NAMES:
        train_tiny(folder, f"{label},quick")
    return folder


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config") / "report.py", 1)


@pytest.fixture(scope="session")
def reported(trained, config_file):
    """The folder of a report by the command line, and what it said."""
    out = trained / "report"
    options = "--out", out, "--config", config_file, "--write-next-config", trained / "phase1_3.py"
    result = run("report", trained / "phase", *options)
    assert result.returncode == 0, result.stderr
    return out, result.stdout
