"""The real program, faults put into it, and the table of what it survived."""

import csv
import dataclasses
import functools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.phase1_2 import get_config
from helpers import ROOT
from imginav_jax.runs import checkpoints, experiment
from imginav_jax.training import state

NAME = "phase1_2_AE_R1_ds1_quick"
STEPS_PER_EPOCH, EPOCHS = 6, 3
SETTINGS = {
    "data.image_size": 16,
    "data.synthetic_size": 30,
    "model.downsampling_steps": 1,
    "model.base_channels": 16,
    "batch_size": 4,
    "num_epochs": EPOCHS,
    "optimizer.learning_rate": 2e-3,
    "samples.count": 2,
}
MEASURED = ("images_per_second", "epoch_seconds", "peak_memory_mib")  # columns that differ from run to run
# Commands in one process: starting each takes longer than what it does.  The package is imported as by `python -m`.
IN_TURN = """
import json, runpy, sys
sys.argv = ["-m"]
import imginav_jax
for module, *sys.argv[1:] in json.loads(sys.stdin.read()):
    sys.argv[0] = module
    try:
        runpy.run_module(f"imginav_jax.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    print(f"{module} has ended well", flush=True)
"""
_INJECT = Path(__file__).with_name("inject.py")


@dataclasses.dataclass
class Place:
    """Where one run lives."""

    folder: Path
    cache: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    def arguments(self, **overrides):
        settings = {**SETTINGS, **{name.replace("__", "."): value for name, value in overrides.items()}}
        return [
            "--config=configs/phase1_2.py:R1,quick",
            f"--workdir={self.work}",
            f"--config.phase_dir={self.folder / 'phase'}",
            f"--config.data.cache_dir={self.cache}",
            *(f"--config.{name}={value}" for name, value in settings.items()),
        ]

    def start(self, *faults, devices=1, launcher=(), environment=None, **overrides):
        """The program with `faults` (see inject.py) in a process group of its own."""
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [*launcher, sys.executable, str(_INJECT), *faults, "--", *self.arguments(**overrides)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *faults, **keywords):
        """Exit code and output of the whole program."""
        process = self.start(*faults, **keywords)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def start_processes(self, *faults_of_each, **keywords):
        """One process for each tuple of faults, in one run."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            coordinator = f"localhost:{free.getsockname()[1]}"
        count = str(len(faults_of_each))
        return [
            self.start(
                *faults,
                environment={
                    "IMGINAV_COORDINATOR": coordinator,
                    "IMGINAV_PROCESSES": count,
                    "IMGINAV_PROCESS": str(index),
                },
                **keywords,
            )
            for index, faults in enumerate(faults_of_each)
        ]

    def run_processes(self, *faults_of_each, **keywords):
        """Exit codes and outputs."""
        processes = self.start_processes(*faults_of_each, **keywords)
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        return [process.returncode for process in processes], outputs

    def rows(self):
        with (self.work / f"{NAME}_metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def end_state(self):
        """All that must not depend on how often the run was cut off."""
        assert (self.folder / "phase" / f"{NAME}_metrics.csv").read_text() == (
            self.work / f"{NAME}_metrics.csv"
        ).read_text()
        found = checkpoints.find(self.checkpoints)
        assert found is not None
        assert found.damaged == {}
        rows = [{name: value for name, value in row.items() if name not in MEASURED} for row in self.rows()]
        stopping = found.contents["early_stopping"]
        return rows, stopping, {step: self.restore(step) for step in (stopping["best_step"], found.step)}

    def restore(self, step):
        return [
            np.asarray(leaf).tobytes()
            for leaf in jax.tree.leaves(checkpoints.restore(self.checkpoints, step, _abstract()))
        ]


@functools.cache
def _abstract():
    config = get_config("R1,quick")
    config.update_from_flattened_dict(SETTINGS)
    _, create = state.of_experiment(experiment.from_config(config))
    here = jax.numpy.zeros(()).sharding
    return jax.tree.map(lambda leaf: leaf.update(sharding=here), jax.eval_shape(create, jax.random.key(0)))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path, cache):
    return Place(tmp_path, cache)


@pytest.fixture(scope="session")
def whole(tmp_path_factory, cache):
    """A run that nothing disturbed."""
    place = Place(tmp_path_factory.mktemp("whole"), cache)
    code, output = place.run()
    assert code == 0, output
    return place


@pytest.fixture
def begun(tmp_path, begun_once, cache):
    """A run that was stopped in its second epoch, with checkpoints of steps 6 and 9."""
    shutil.copytree(begun_once.folder, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path, cache)


@pytest.fixture(scope="session")
def begun_once(tmp_path_factory, cache):
    place = Place(tmp_path_factory.mktemp("begun"), cache)
    code, output = place.run("signal:USR2:step:9")
    assert code == 75, output
    return place


@pytest.fixture(scope="session")
def quick_report(tmp_path_factory):
    """A report's config with little to compute."""
    path = tmp_path_factory.mktemp("config") / "quick_report.py"
    path.write_text(f"""import runpy

def get_config():
    config = runpy.run_path({str(ROOT / "configs" / "report.py")!r})["get_config"]()
    config.probe.steps, config.bootstrap.samples = 20, 50
    return config
""")
    return path


@pytest.fixture
def counted(record_property):
    """Call it with the number of faults that were injected."""
    return lambda number: record_property("injected", number)


def pytest_terminal_summary(terminalreporter):
    rows = []
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.getreports(outcome):
            properties = dict(report.user_properties)
            if "fault" in properties and (report.when == "call" or outcome in ("skipped", "error")):
                rows.append((*properties["fault"], properties.get("injected", "-"), outcome))
    if rows:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{'fault':>5}  {'injected':>8}  {'outcome':8}  what")
        for number, what, injected, outcome in sorted(rows, key=lambda row: (row[0], row[1])):
            terminalreporter.write_line(f"{number:>5}  {injected:>8}  {outcome:8}  {what}")


@pytest.fixture(autouse=True)
def _named(request, record_property):
    (number, what) = request.node.get_closest_marker("fault").args
    record_property("fault", (number, what))
