"""Processes on several nodes: they end together, soon, with one line and the right code."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT
from imginav_jax.devices import distributed
from imginav_jax.system import signals

ENDS_WITHIN = 30  # seconds
GRACE = 2  # instead of 15


@pytest.fixture
def nodes(cluster, site):
    """Call it with what each of the two processes does, in bash; exit code, output and seconds of the job."""

    def run(first, second, *signals):
        script = cluster.project / "launch" / "nodes.sh"
        script.write_text(script.read_text().replace("GRACE=15", f"GRACE={GRACE}"))
        acting = 'case " $* " in *" imginav_jax.main "*) if [ "$IMGINAV_PROCESS" = 0 ]; then'
        cluster.recorder_does(f"{acting} {first}; else {second}; fi ;; esac")
        began = time.monotonic()
        job = cluster.submit("multinode.sh", *signals, **site, STAND_IN_MINUTE="0.1 600")
        cluster.wait(ENDS_WITHIN + 10)
        return cluster.codes(job), cluster.outputs(), time.monotonic() - began

    yield run
    deadline = time.monotonic() + 10
    while left := processes_in(cluster.project):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes_in(folder):
    """The command lines of the processes whose current folder it is, or one below."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (each / "cwd").readlink().is_relative_to(folder):
                found.append((each / "cmdline").read_text().replace("\0", " "))
    return found


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("first", "second", "code", "who"),
    [
        ("exec sleep 300", "exit 3", 3, "process 1 of 2 on 127.0.0.1 has ended with exit code 3"),
        ("exit 4", "exec sleep 300", 4, "process 0 of 2 on localhost has ended with exit code 4"),
        ("kill -9 $$", "exec sleep 300", 137, "process 0 of 2 on localhost has ended with exit code 137"),
        ("exec sleep 300", "kill -9 $$", 137, "process 1 of 2 on 127.0.0.1 has ended with exit code 137"),
    ],
)
def test_all_end_where_one_fails(nodes, first, second, code, who):
    codes, output, seconds = nodes(first, second)
    assert codes == [code]
    assert errors(output) == [f"error: {who}"]
    assert seconds < ENDS_WITHIN - 15 + GRACE
    assert not re.search(r"Killed|line \d+:", output), "bash has nothing to add"


def test_what_xla_says_when_it_aborts_is_dropped(nodes):
    abort = r"printf 'F1125 19:21:55.767071 1 client.h:80] Terminating\n*** trace ***\nerror: mine\n' >&2; exit 134"
    codes, output, _ = nodes("echo before >&2; exit 1", f"echo kept >&2; sleep 1; {abort}")
    assert codes == [1]
    assert "before\n" in output
    assert "kept\n" in output
    assert "error: mine\n" in output
    assert "F1125" not in output
    assert "trace" not in output


def without_traces(said):
    script = f"project=any; . '{ROOT}/launch/nodes.sh'; without_traces"
    result = subprocess.run(["bash", "-c", script], input=said, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def test_only_what_belongs_to_a_lost_process_is_dropped():
    """The lines of XLA and of Python's faulthandler are as they came from a run whose process 0 was killed."""
    said = """\
before
E1125 20:13:28.759906    8346 coordination_service_agent.cc:289] Polled an error from coordination service.
W1125 20:13:28.759906    8346 gpu.cc:28] kept
F1125 20:13:28.759971    8346 client.h:80] Terminating process because the JAX distributed service detected errors.
Additional GRPC error information from remote target coordination_service while calling /xla/PollForError:
:UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"Socket closed"}
*** Check failure stack trace: ***
    @     0x7fd747620634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
    @     0x7fd74eaa71f5  (unknown)
Fatal Python error: Aborted

Thread 0x00007fd74f1edb80 (most recent call first):
  File "<string>", line 10 in <module>

Extension modules: jaxlib.cpu_feature_guard, numpy._core._multiarray_umath (total: 2)
Traceback (most recent call last):
  File "kept.py", line 1, in <module>

error: kept
W1125 20:13:18.883360    8189 preemption_sync_manager.cc:147] Failed to retrieve preemption notice
E1125 20:13:18.883499    8189 coordination_service_agent.cc:289] heartbeat late
after
E1125 20:13:18.883499    8189 coordination_service_agent.cc:289] heartbeat late
"""
    assert without_traces(said) == [
        "before",
        "W1125 20:13:28.759906    8346 gpu.cc:28] kept",
        "Traceback (most recent call last):",
        '  File "kept.py", line 1, in <module>',
        "",
        "error: kept",
        "after",
    ]


def test_a_save_that_the_lost_process_broke_off_is_dropped_whole():
    """Orbax's lines and XLA's, mixed as they came from a run whose process 0 was killed while it saved."""
    said = """\
before
F1127 14:01:02.406571   20001 client.h:80] Terminating process because the JAX distributed service detected errors.
E1127 14:01:02.406848 140014054799040 async_checkpointer.py:264] [process=1] Failed to run 3 Handler Commit operations
Traceback (most recent call last):
  File "async_checkpointer.py", line 219, in <lambda>
    lambda key, timeout_ms: barrier_sync_fn(key=key, timeout_ms=timeout_ms)
                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
jax.errors.JaxRuntimeError: UNAVAILABLE: Failed to send RPC to coordination service.
Additional GRPC error information from remote target coordination_service while calling /xla/Barrier:
:UNKNOWN:Error received from peer  {grpc_message:"recvmsg:Connection reset by peer", grpc_status:14}

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "async_checkpointer.py", line 155, in _background_wait_for_commit_futures
    raise TimeoutError(
TimeoutError: Timed out while waiting for async_commit_complete barrier.
*** Check failure stack trace: ***
    @     0x7f5825a40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
Fatal Python error: Aborted

Thread 0x00007f578effd6c0 (most recent call first):
  File "multihost.py", line 309 in _fn

Extension modules: yaml._yaml, jaxlib.cpu_feature_guard (total: 2)
error: kept
Traceback (most recent call last):
  File "kept.py", line 1, in <module>
"""
    assert without_traces(said) == [
        "before",
        "error: kept",
        "Traceback (most recent call last):",
        '  File "kept.py", line 1, in <module>',
    ]


def test_the_first_may_finish_long_after_the_others(nodes):
    codes, output, _ = nodes("sleep 4", "exit 0")
    assert (codes, errors(output)) == ([0], [])


def test_a_warning_reaches_the_first_process_and_the_job_is_requeued(nodes):
    waiting = (
        "[ -e again ] || { trap 'touch again told; exit 75' USR2; for i in $(seq 99); do sleep 0.1; done; exit 1; }"
    )
    follows = "[ -e again ] || { until [ -e told ]; do sleep 0.1; done; exit 75; }"
    codes, output, _ = nodes(waiting, follows, "-W", "0:30")
    assert codes == [75, 0]
    assert errors(output) == []


def test_the_signals_are_those_that_stop_the_program():
    found = re.search(r"SIGNALS=\((.*?)\)", (ROOT / "launch" / "nodes.sh").read_text())
    assert found is not None
    assert [f"SIG{name}" for name in found[1].split()] == [each.name for each in signals.STOPPING]


@pytest.mark.parametrize(("name", "code"), [("HUP", 129), ("USR1", 138), ("XCPU", 152)])
def test_a_signal_lets_the_first_process_save(nodes, cluster, name, code):
    saving = f"trap \"trap '' {name}; touch told; sleep {GRACE + 2}; touch saved; exit {code}\" {name}"
    first = f"{saving}; for i in $(seq 99); do sleep 0.1; done; exit 1"
    second = f"until [ -e told ]; do sleep 0.1; done; exit {code}"
    codes, output, _ = nodes(first, second, "-W", "2:00", "-wa", name, "-wt", "100")
    assert codes == [code]
    assert (cluster.project / "saved").exists()
    assert errors(output) == []


def test_a_process_that_was_warned_before_they_met_is_requeued_too(nodes):
    first = "[ -e again ] || { touch again; trap '' USR2; exec sleep 300; }"
    codes, output, seconds = nodes(first, "[ -e twice ] || { touch twice; sleep 1; exit 75; }")
    assert codes == [75, 0]
    assert errors(output) == []
    assert seconds < ENDS_WITHIN + 5


def test_without_blaunch_nothing_is_started(cluster, site):
    (cluster.binaries / "blaunch").unlink()
    job = cluster.submit("multinode.sh", **site)
    cluster.wait()
    assert cluster.codes(job) == [1]
    expected = "error: blaunch is not installed here: no process can be started on another node"
    assert errors(cluster.outputs()) == [expected]
    assert not list(cluster.folder.glob("*.arguments"))


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(code, index, port, **variables):
    """A process of two that runs `code` when it has met the other."""
    lines = [
        "from imginav_jax.devices import distributed",
        "from imginav_jax.system import signals",
        "from imginav_jax.system.errors import RunError",
        "distributed._JOIN_SECONDS = int(os.environ.get('SECONDS_TO_JOIN', 100))",
        "distributed._LAST_SECONDS = 1",
        "distributed.initialize(signals.Stop())",
    ]
    joined = {"IMGINAV_COORDINATOR": f"127.0.0.1:{port}", "IMGINAV_PROCESSES": "2", "IMGINAV_PROCESS": str(index)}
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(["import os, sys", *lines, code])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **joined, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(*processes, seconds=ENDS_WITHIN + 30):
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_nobody_meets_ends_with_one_line(index):
    port = free_port()
    codes, (output,) = ends(start("", index, port, SECONDS_TO_JOIN="2"))
    assert codes == [1]
    assert output == f"error: process {index} of 2 has not met the others at 127.0.0.1:{port} within 2 seconds\n"


def test_a_proxy_is_not_for_the_nodes_of_a_job():
    port = free_port()
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    code = "print(os.environ['no_proxy'], flush=True)"
    processes = [start(code, index, port, **proxies, no_proxy="example.org") for index in (0, 1)]
    codes, outputs = ends(*processes)
    assert codes == [0, 0], outputs
    assert outputs == ["example.org,127.0.0.1\n"] * 2


def test_hosts_that_are_exempt_already_stay_so():
    variables = {"LSB_MCPU_HOSTS": "a 4 b 4", "NO_PROXY": "x.org, b", "no_grpc_proxy": "y.org"}
    distributed.exempt_from_proxies("a:10101", variables)
    assert variables["no_proxy"] == variables["NO_PROXY"] == "x.org,b,a"
    assert variables["no_grpc_proxy"] == "y.org,a,b"
    variables = {"no_proxy": "z.org", "NO_PROXY": "x.org"}
    distributed.exempt_from_proxies("[::1]:10101", variables)
    assert (variables["no_proxy"], variables["NO_PROXY"]) == ("z.org,::1", "x.org,::1")


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_waits_for_no_other(failing):
    port, began = free_port(), time.monotonic()
    waits = """
from jax.experimental import multihost_utils
for step in range(10000):
    multihost_utils.sync_global_devices(str(step))
"""
    fails = "from jax.experimental import multihost_utils\nmultihost_utils.sync_global_devices('0')\n"
    fails += "try: raise RunError('the disk is full')\nexcept RunError as error:\n"
    fails += "    distributed.leave()\n    sys.exit(f'error: {error}')"
    processes = [start(fails if index == failing else waits, index, port) for index in (0, 1)]
    codes, outputs = ends(*processes)
    assert codes[failing] == 1
    assert codes[1 - failing] != 0
    assert errors(outputs[failing]) == ["error: the disk is full"]
    assert "Traceback" not in "".join(outputs)
    assert time.monotonic() - began < ENDS_WITHIN
