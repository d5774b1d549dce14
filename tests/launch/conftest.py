"""A cluster to submit to: stand-ins for LSF and nvidia-smi, a copy of the project, a Python that only records."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from helpers import ROOT

LSF = Path(__file__).parent / "stand_ins" / "lsf.py"
CARDS = {
    "V100 16 GB": "Tesla V100-SXM2-16GB, 16160, 535.161.08",
    "V100 32 GB": "Tesla V100-PCIE-32GB, 32510, 535.161.08",
    "L40S": "NVIDIA L40S, 46068, 550.54.15",
    "unknown": "NVIDIA T1000, 4096, 550.54.15",
}
# Instead of the program: its arguments, a line each, and its environment. Each start takes
# one exit code of the folder `codes` by moving its file: jobs that start together never take the same.
_RECORDER = """#!/bin/bash
case " $* " in *" imginav_jax.preflight "*) [ ! -e {folder}/unchecked ] || exit 0 ;; esac
case " $* " in *" imginav_jax.cards --check "*) echo "checked the card"; exit 0 ;; esac
case " $* " in *" imginav_jax.cards "* | *" imginav_jax.preflight "*) exec {python} "$@" ;; esac
record={folder}/${{LSB_JOBID:-0}}.${{LSB_JOBINDEX:-0}}.${{IMGINAV_PROCESS:-0}}
printf '%s\\n' "$@" >"$record.arguments"
env -0 >"$record.environment"
pwd >"$record.cwd"
echo "recorded $*"
# what a test adds
for code in {folder}/codes/*; do
  mv "$code" "$record.code" 2>/dev/null || continue
  exit "$(cat "$record.code")"
done
exit 0
"""


@dataclasses.dataclass
class Recorded:
    arguments: list[str]
    environment: dict[str, str]
    cwd: Path


@dataclasses.dataclass
class Cluster:
    """One folder with everything in it; its path has a space."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "the project"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def binaries(self) -> Path:
        return self.folder / "bin"

    @property
    def venv(self) -> Path:
        return self.folder / "a venv"

    def command(self, name, text):
        path = self.binaries / name
        path.write_text(text)
        path.chmod(0o755)

    def set_card(self, label, count=1):
        """What nvidia-smi says on every node; None: it is not installed."""
        (self.binaries / "nvidia-smi").unlink(missing_ok=True)
        if label is not None:
            self.command("nvidia-smi", "#!/bin/sh\n" + f'echo "{CARDS.get(label, label)}"\n' * count)

    def environment(self, **variables):
        """A submitter's: nothing but what is given, and where commands are."""
        path = f"{self.binaries}:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.folder / "home"), **variables}

    def bash(self, script, *arguments, cwd=None, **variables):
        """A script run as it stands, with a submitter's environment of `variables`."""
        return self._run(["bash", script, *arguments], None, cwd, variables)

    def submit(self, script, *options, cwd=None, **variables):
        """bsub < script; the job's number."""
        with (self.project / "launch" / script).open() as file:
            said = self._run(["bsub", *options], file, cwd, variables)
        assert said.returncode == 0, said.stderr
        return said.stdout.partition("<")[2].partition(">")[0]

    def _run(self, command, stdin, cwd, variables):
        return subprocess.run(
            list(map(str, command)),
            stdin=stdin or subprocess.DEVNULL,
            cwd=cwd or self.project,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def states(self):
        """Of every element of every job, "101[1]": "DONE"."""
        found = sorted(self.state.glob("jobs/*/status/*"))
        return {f"{path.parent.parent.name}[{path.name}]": path.read_text() for path in found}

    def wait(self, seconds=60):
        """Until every job has ended; its states."""
        deadline = time.monotonic() + seconds
        while set(states := self.states().values()) - {"DONE", "EXIT"}:
            assert time.monotonic() < deadline, (self.states(), self.outputs())
            time.sleep(0.1)
        return list(states)

    def job_file(self, job, name):
        return (self.state / "jobs" / str(job) / name).read_text()

    def codes(self, job, index=0):
        return [int(line) for line in self.job_file(job, f"codes.{index}").split()]

    def outputs(self):
        """What the jobs have said, whether or not it went anywhere."""
        return "\n".join(path.read_text() for path in sorted(self.state.glob("jobs/*/output.*")))

    def recorded(self, job=0, index=0, process=0) -> Recorded:
        name = f"{job}.{index}.{process}"
        arguments = (self.folder / f"{name}.arguments").read_text().splitlines()
        variables = (self.folder / f"{name}.environment").read_text().split("\0")
        environment = dict(line.split("=", 1) for line in variables if line)
        return Recorded(arguments, environment, Path((self.folder / f"{name}.cwd").read_text().strip()))

    def exit_codes(self, *codes):
        """Of the next runs of the recorder."""
        folder = self.folder / "codes"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, code in enumerate(codes):
            (folder / f"{number:03}").write_text(str(code))

    def recorder_does(self, bash):
        """Lets the recorder do that in the end of each start, before it takes an exit code."""
        marker = "# what a test adds\n"
        path = self.venv / "bin" / "python"
        before, _, after = path.read_text().partition(marker)
        assert after
        path.write_text(before + bash + "\n" + after)

    def skip_checks(self):
        """For a test of what comes after the checks before a submission, which take seconds."""
        (self.folder / "unchecked").touch()

    def use_real_python(self):
        self._write_python(f'#!/bin/sh\nexec {sys.executable} "$@"\n')

    def _write_python(self, text):
        path = self.venv / "bin" / "python"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def build(self):
        for folder in (self.project, self.binaries, self.folder / "home"):
            folder.mkdir(parents=True)
        shutil.copytree(ROOT / "launch", self.project / "launch")
        (self.project / "launch" / "site.env").unlink(missing_ok=True)
        for name in ("imginav_jax", "configs"):
            (self.project / name).symlink_to(ROOT / name)
        for name in ("bsub", "bjobs", "blaunch"):
            state = f"STAND_IN_STATE='{self.state}'"
            self.command(name, f'#!/bin/sh\n{state} exec {sys.executable} {LSF} {name} "$@"\n')
        folder = str(self.folder).replace(" ", "\\ ")
        self._write_python(_RECORDER.format(python=sys.executable, folder=folder))
        Image.new("RGB", (512, 512)).save(self.folder / "layout.png")
        rows = "scene_id,type,room_id,layout_path,is_empty\ns1,scene,0,layout.png,false\n"
        (self.folder / "layouts.csv").write_text(rows)
        self.set_card("L40S")
        return self

    def close(self):
        """Ends the supervisors of jobs that have not ended, and what those run."""
        for path in self.state.glob("jobs/*/pid"):
            pid = int(path.read_text())
            command = ["ps", "-o", "pid=", "--ppid", str(pid)]
            children = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            for group in (pid, *map(int, children.split())):
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "a cluster").build()
    yield cluster
    cluster.close()


@pytest.fixture
def site(cluster):
    """The variables that every job needs here."""
    return {"IMGINAV_VENV": str(cluster.venv), "IMGINAV_MANIFEST": str(cluster.folder / "layouts.csv")}
