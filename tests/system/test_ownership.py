"""One owner at a time, on file systems with flock, without, and with one of a single node."""

import contextlib
import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from helpers import ROOT
from imginav_jax.system import ownership
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.ownership import InUseError, own, own_output

FLOCKS = ("flock", "none", "of one node")
_CHILD = """
import errno, fcntl, sys, time
from pathlib import Path
real, kind = fcntl.flock, sys.argv[1]
def flock(handle, how):
    if kind == "none":
        raise OSError(errno.ENOSYS, "no flock")
    if kind == "flock":
        real(handle, how)
fcntl.flock = flock
from imginav_jax.system.ownership import own
"""


def start(kind, code, *arguments, environment=None):
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD + code, kind, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


@contextlib.contextmanager
def owner_elsewhere(kind, path, environment=None):
    """Another process that owns `path` until it is killed."""
    code = "with own(Path(sys.argv[2]), 'it'):\n    print('owned', flush=True)\n    time.sleep(300)"
    with start(kind, code, path, environment=environment) as process:
        try:
            assert process.stdout.readline() == "owned\n"
            yield process
        finally:
            process.kill()


@pytest.fixture(params=FLOCKS)
def kind(request, monkeypatch):
    real = ownership.fcntl.flock

    def flock(handle, how):
        if request.param == "none":
            raise OSError(errno.ENOSYS, "no flock")
        if request.param == "flock":
            real(handle, how)

    monkeypatch.setattr(ownership.fcntl, "flock", flock)
    return request.param


def test_a_second_start_names_the_owner_and_touches_nothing(kind, tmp_path):
    path = tmp_path / "new" / ".lock"
    with owner_elsewhere(kind, path, {"LSB_JOBID": "101", "LSB_JOBINDEX": "2"}) as process:
        before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
        begun = time.monotonic()
        message = (
            rf"^it is in use by process {process.pid} on \S+, LSF job 101\[2\], since .* delete its lock file {path}$"
        )
        with pytest.raises(InUseError, match=message), own(path, "it"):
            pass
        assert time.monotonic() - begun < 1
        assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before


def test_a_killed_owner_leaves_nothing_locked(kind, tmp_path):
    path = tmp_path / ".lock"
    with owner_elsewhere(kind, path) as process:
        process.kill()
        process.wait()
        assert path.exists()
        begun = time.monotonic()
        with own(path, "it"):
            assert time.monotonic() - begun < 3
        assert not path.exists()


def test_the_same_process_is_refused_too(kind, tmp_path):
    with own(tmp_path / ".lock", "it"):
        with pytest.raises(InUseError, match=f"process {os.getpid()} "), own(tmp_path / ".lock", "it"):
            pass
        assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize("kind", FLOCKS)
def test_only_one_of_many_is_inside(kind, tmp_path):
    code = """
for _ in range(4):
    with own(Path(sys.argv[2]), "it", wait=True):
        counter = Path(sys.argv[3])
        number = int(counter.read_text())
        time.sleep(0.02)
        counter.write_text(str(number + 1))
"""
    counter = tmp_path / "counter"
    counter.write_text("0")
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(start(kind, code, tmp_path / ".lock", counter)) for _ in range(4)]
        assert [each.wait(timeout=120) for each in started] == [0] * 4
    assert counter.read_text() == "16"
    assert [each.name for each in tmp_path.iterdir()] == ["counter"]


def write_foreign(path):
    """A lock whose owner was on a machine that this one knows nothing of."""
    owner = dataclasses.replace(ownership._myself(), host="node-7", kernel="another", pid=4242, token="theirs")
    path.write_text(json.dumps(dataclasses.asdict(owner)))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ownership, "_SECONDS_OF_SILENCE", 1.0)
    monkeypatch.setattr(ownership, "_SECONDS_A_BEAT", 0.2)
    monkeypatch.setattr(ownership, "_SECONDS_TO_SETTLE", 0.1)


def test_a_dead_node_does_not_keep_its_lock(kind, tmp_path, impatient):
    path = tmp_path / ".lock"
    write_foreign(path)
    with own(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "4242\nother-node\n1\n", "{}", "\0"])
def test_a_lock_of_another_program_is_taken_over_once_it_is_silent(kind, tmp_path, impatient, content):
    path = tmp_path / ".lock"
    path.write_text(content)
    with own(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_an_owner_on_another_node_that_lives_is_left_alone(kind, tmp_path, impatient):
    path, over = tmp_path / ".lock", threading.Event()
    write_foreign(path)
    theirs = path.read_text()

    def beat():
        while not over.wait(0.2):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(InUseError, match="process 4242 on node-7"), own(path, "it"):
            pass
    finally:
        over.set()
        heart.join()
    assert path.read_text() == theirs


def test_an_owner_that_was_held_up_finds_out_and_removes_nothing(tmp_path, impatient):
    path = tmp_path / ".lock"
    with own(path, "it") as owner:
        owner.check()
        write_foreign(path)
        with pytest.raises(RunError, match="it has been taken over by process 4242 on node-7"):
            owner.check()
    assert json.loads(path.read_text())["pid"] == 4242


def test_a_lock_file_that_somebody_cleared_away_comes_back(tmp_path, impatient):
    path = tmp_path / ".lock"
    with own(path, "it") as owner:
        path.unlink()
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        owner.check()
        with pytest.raises(InUseError), own(path, "it"):
            pass


def test_file_systems_without_hard_links(kind, tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(ownership.os, "link", link)
    with own(tmp_path / ".lock", "it"), pytest.raises(InUseError), own(tmp_path / ".lock", "it"):
        pass
    with own(tmp_path / ".lock", "it"):
        pass


def test_folders_that_were_made_for_a_lock_go_with_it(tmp_path):
    with own_output(tmp_path / "a" / "b", "it"):
        assert [each.name for each in (tmp_path / "a").iterdir()] == [".b.lock"]
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"--workdir .*file/a cannot be written: "),
        own_output(tmp_path / "file" / "a", f"--workdir {tmp_path}/file/a"),
    ):
        pass
