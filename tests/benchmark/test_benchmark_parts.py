"""What is around the steps: the arithmetic of start-up, input, preparation and an epoch; nothing slow is started."""

import os
import sys

import pytest

from configs.phase1_2 import get_config
from helpers import tiny_config
from imginav_jax.benchmark.speed import epoch_overhead, input_rate, preparation_cost, startup
from imginav_jax.benchmark.speed.preparation_cost import PreparationCost
from imginav_jax.benchmark.speed.startup import Startup
from imginav_jax.system.errors import RunError

INTERPRETER = sys.executable
TORCH = "torch_dataloader"

# Twice as slow in the second round.
RATES = [
    {"input": 90.0, "first_epoch": 60.0, "decode": 100.0, "batch_decode": 96.0, "png_decode": 10.0, TORCH: 3.0},
    {"input": 45.0, "first_epoch": 30.0, "decode": 50.0, "batch_decode": 50.0, "png_decode": 5.0, TORCH: 1.5},
]


def words(lines):
    return [line.split() for line in lines.splitlines()]


def test_ratios_of_the_input_are_of_each_round():
    found = input_rate.present(RATES)
    assert found.values == {
        "input_images_per_second_per_core": 67.5,
        "first_epoch_images_per_second_per_core": 45,
        "decode_images_per_second_per_core": 75,
        "batch_decode_images_per_second_per_core": 73,
        "png_decode_images_per_second_per_core": 7.5,
        "torch_dataloader_images_per_second_per_core": 2.25,
        "input_to_decode": 0.9,
        "input_to_batch_decode": 0.91875,
        "input_to_png_decode": 9,
        "input_to_torch_dataloader": 30,
    }
    rates = [line[-2:] for line in words(found.table)[1:]]
    assert rates == [["67.5", "1"], ["45", "-"], ["75", "0.9"], ["73", "0.919"], ["7.5", "9"], ["2.25", "30"]]


def test_without_pytorch_there_is_no_ratio_to_it():
    found = input_rate.present([{name: rate for name, rate in RATES[0].items() if name != TORCH}])
    assert [found.values[f"{TORCH}_images_per_second_per_core"], found.values[f"input_to_{TORCH}"]] == [None, None]
    assert words(found.table)[-1][-2:] == ["-", "-"]


def test_starts_by_hand(monkeypatch):
    starts = iter([Startup(1, 20, 5), Startup(3, 40, 20)])
    monkeypatch.setattr(startup, "measure_once", lambda config: next(starts))
    found = startup.measure(get_config("R1"), 2)
    medians = [found.values[key] for key in ("help_seconds", "first_start_seconds", "second_start_seconds")]
    assert medians == [2, 30, 12.5]
    assert found.values["help_seconds_upper_quartile"] == 2.5
    again = words(found.table)[-1]  # ratios 1/4 and 1/2
    assert again == "the same again 12.5 [8.75, 16.2] 0.375 [0.312, 0.438]".split()  # noqa: SIM905


def test_a_start_ends_with_the_line_of_the_first_step_and_its_failure_is_one_line(tmp_path, monkeypatch):
    def program(script):
        path = tmp_path / "program"
        path.write_text(f"#!{INTERPRETER} -S\nimport sys, time\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(startup.sys, "executable", str(path))

    program("print('Compiled', flush=True); print('First step  step 1', flush=True); time.sleep(60)")
    assert 0 < startup._time_start([], "First step", {}) < 30
    program("sys.exit('error: no room')")
    with pytest.raises(RunError, match=r"imginav_jax\.main --help has ended with exit code 1: error: no room$"):
        startup._time_start(["--help"], "--config", {})


def test_the_help_is_timed_to_its_end(tmp_path, monkeypatch):
    path = tmp_path / "program"
    path.write_text(f"#!{INTERPRETER} -S\nimport time\nprint('--config', flush=True)\ntime.sleep(1)\n")
    path.chmod(0o755)
    monkeypatch.setattr(startup.sys, "executable", str(path))
    assert startup._time_start(["--help"], "--config", {}, to_its_end=True) > 1
    assert startup._time_start(["--help"], "--config", {}) < 1


def test_the_config_of_a_start_has_its_overrides_and_folders_of_its_own(tmp_path):
    config = get_config("R2,quick")
    config.batch_size = 3
    found = {}
    exec(startup._config_file(config, tmp_path), found)
    read = found["get_config"]()
    assert (read.batch_size, read.experiment, read.data.manifest) == (3, "R2", None)
    assert (read.data.cache_dir, read.phase_dir) == (f"{tmp_path}/cache", f"{tmp_path}/phase")


def test_growth_from_fewer_layouts_to_more_is_of_each_round(monkeypatch):
    drawn, seconds = [], {(1000, 0): 2, (2000, 0): 3, (1000, 1): 4, (2000, 1): 10}

    def write_manifest(directory, count, size, seed):
        drawn.append(count)
        return directory / "layouts.csv"

    def measure_apart(spec, cache):
        count = int(spec.manifest.split("/")[-2])
        return PreparationCost(seconds[count, int(cache.name.removeprefix("cache"))], count / 10)

    monkeypatch.setattr(preparation_cost.synthetic, "write_manifest", write_manifest)
    monkeypatch.setattr(preparation_cost, "_measure_apart", measure_apart)
    found = preparation_cost.measure(get_config("R1"), 2)
    assert drawn == [1000, 2000]
    assert found.values["prepare_1000_layouts_seconds"] == 3
    assert found.values["prepare_2000_layouts_peak_memory_mib_lower_quartile"] == 200
    assert (found.values["prepare_seconds_ratio"], found.values["prepare_memory_ratio"]) == (2, 2)
    last = words(found.table)[-1]  # ratios 1.5 and 2.5
    assert last == "2,000 6.5 [4.75, 8.25] 2 [1.75, 2.25] 200 [200, 200] 2 [2, 2]".split()  # noqa: SIM905


def test_the_overhead_of_an_epoch_is_of_each_round():
    values, lines = epoch_overhead.present(50, 3, [(10, 9), (20, 19)])  # 10 % and 5 %
    overhead = [values[f"epoch_overhead_fraction{quartile}"] for quartile in ("", "_lower_quartile", "_upper_quartile")]
    assert overhead == pytest.approx([0.075, 0.0625, 0.0875])
    assert (values["epoch_steps"], values["epoch_train_seconds"], values["epoch_steps_alone_seconds"]) == (50, 15, 14)
    assert (values["epoch_images_per_second"], values["steps_alone_images_per_second"]) == (10, 150 / 14)
    epoch, steps, _, overhead = words(lines)[1:]
    assert epoch == "an epoch's training 15 [12.5, 17.5] 10".split()  # noqa: SIM905
    assert steps[-1] == "10.7"
    assert " ".join(overhead).startswith("Not spent in steps 7.5 [6.25, 8.75] %")


def test_layouts_are_prepared_in_a_process_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation_cost, "COUNTS", (10, 20))
    values = preparation_cost.measure(tiny_config(tmp_path), 1).values
    assert values["prepare_10_layouts_seconds"] > 0
    assert values["prepare_20_layouts_peak_memory_mib"] > 10
    missing = preparation_cost.DataSpec("missing.csv", None, 32, 1, 0.1, 0)
    with pytest.raises(RunError, match=r"^the process that prepares layouts has ended .* 1: .*missing\.csv"):
        preparation_cost._measure_apart(missing, tmp_path)


def test_the_input_is_measured_in_other_processes_and_this_one_keeps_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(input_rate, "_LAYOUTS", 20)
    cores = os.sched_getaffinity(0)
    values = input_rate.measure(tiny_config(tmp_path), 1).values
    assert all(value is None or value > 0 for value in values.values())
    assert os.sched_getaffinity(0) == cores
