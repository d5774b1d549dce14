"""The log that a run keeps itself."""

import logging
import signal
from pathlib import Path

import pytest

from imginav_jax.system.errors import UserError
from imginav_jax.system.log_file import LogFile
from imginav_jax.system.progress import logger
from imginav_jax.system.signals import Interrupted


@pytest.fixture(autouse=True)
def talkative():
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


def start(path, error=None, opened=True):
    with LogFile(path) as log:
        logger.info("said before, %d", 1)
        if opened:
            log.open()
        logger.info("said after, %s", "ü")
        if error is not None:
            raise error


def test_each_start_is_appended_with_what_was_said_before_it_was_opened(tmp_path, monkeypatch):
    path = tmp_path / "new" / "run.log"
    monkeypatch.setenv("LSB_JOBID", "101")
    monkeypatch.setenv("LSB_JOBINDEX", "0")
    start(path)
    first = path.read_text()
    assert first.count("said before, 1") == first.count("said after, ü") == 1
    places = [first.index(each) for each in ("==== started", "said before", "said after", "==== ended")]
    assert places == sorted(places)
    assert ", LSF job 101 ====" in first
    monkeypatch.delenv("LSB_JOBID")
    start(path)
    second = path.read_text().removeprefix(first)
    assert second.count("==== started") == second.count("said before, 1") == 1
    assert "LSF" not in second


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("config.seed is -1"), "error: config.seed is -1\n==== ended"),
        (Interrupted(signal.SIGUSR2), "stopped by SIGUSR2, exit code 75\n==== ended"),
        (KeyError("x"), "raise error\nKeyError: 'x'\n==== ended"),
    ],
)
def test_what_ended_it_is_its_last_line(tmp_path, error, text):
    with pytest.raises(type(error)):
        start(tmp_path / "run.log", error)
    assert text in (tmp_path / "run.log").read_text()


def test_a_start_that_never_opens_it_leaves_nothing(tmp_path):
    with pytest.raises(UserError):
        start(tmp_path / "run.log", UserError("no"), opened=False)
    assert not list(tmp_path.iterdir())


def test_but_where_there_is_one_or_a_signal_has_come_it_is_written(tmp_path):
    path = tmp_path / "new" / "run.log"
    with pytest.raises(Interrupted):
        start(path, Interrupted(signal.SIGUSR2), opened=False)
    first = path.read_text()
    assert "said before, 1" in first
    assert "stopped by SIGUSR2, exit code 75" in first
    with pytest.raises(UserError):
        start(path, UserError("no layouts"), opened=False)
    assert "error: no layouts\n" in path.read_text().removeprefix(first)


def test_a_full_disk_loses_lines_and_no_run(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "run.log").symlink_to("/dev/full")
    start(tmp_path / "run.log")
