"""What one experiment costs: its steps, PyTorch's in turns, other batch and image sizes; the flags and the JSON."""

import dataclasses
import functools
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import helpers
from configs.phase1_2 import get_config
from helpers import CONFIG, FAST, TINY_BENCHMARK
from imginav_jax.benchmark import parts, program, sampling, turn_process
from imginav_jax.benchmark.pytorch import against, job
from imginav_jax.benchmark.pytorch.job import Job, Ready
from imginav_jax.benchmark.speed import epoch_overhead, input_rate, preparation_cost, scaling, startup, step_cost
from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.benchmark.speed.scaling import Size
from imginav_jax.benchmark.speed.step_cost import StepCost
from imginav_jax.runs.results.benchmark_file import Spread, Timing
from imginav_jax.system.errors import RunError, UserError

run = functools.partial(helpers.run, "benchmark")
XLA_FLAGS = " ".join(f"--{name}={value}" for name, value in FAST.items()).lower()
ONCE = [
    *(option for option in TINY_BENCHMARK if not option.startswith("--rounds")),
    "--config.model.downsampling_steps=1",
    "--rounds=1",
    "--json",
]

# Says that it is ready, then a second more for each sample, in the order in which it is asked.
STUB = """
import json, sys
print(json.dumps("here"), flush=True)
for number, line in enumerate(sys.stdin, 1):
    assert line.strip() == "ab"[(number - 1) % 2]
    print(number, flush=True)
"""


def stub(script):
    return turn_process.start("the stub", [sys.executable, "-c", script])


def test_a_process_takes_its_turns():
    order = []
    with stub(STUB) as process:
        assert process.answer() == "here"
        samplers = {"a": process.sampler("a"), "ours": lambda: order.append("ours") or 0.5, "b": process.sampler("b")}
        assert sampling.take_turns(samplers, 2) == {"a": [1, 3], "ours": [0.5, 0.5], "b": [2, 4]}
    assert order == ["ours", "ours"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no room')", "the stub has ended with exit code 1: no room"),
        ("import os; os._exit(3)", "the stub has ended with exit code 3: it said nothing"),
        ("import os; os.kill(os.getpid(), 9)", "the stub was killed by signal 9: it said nothing"),
        ("print(1, flush=True); raise MemoryError('too large')", ".* exit code 1: MemoryError: too large"),
        (f"{STUB}    sys.exit(f'after sample {{number}}')", "the stub has ended with exit code 1: after sample 1"),
    ],
)
def test_a_process_that_dies_is_one_clear_line(script, message):
    with pytest.raises(RunError, match=f"^{message}$"), stub(script) as process:  # noqa: PT012
        process.answer()
        sampler = process.sampler("a")
        sampler()
        sampler()


SERVED = """
import sys

def prepare(first, second):
    assert "jax" not in sys.modules
    print("loud", first)
    return [first, second["key"]], {"again": lambda: print("louder") or second}
"""


def test_a_function_is_served_in_an_interpreter_of_its_own_and_its_output_is_no_answer(tmp_path):
    (tmp_path / "served.py").write_text(SERVED)
    command = turn_process.command("served:prepare", "one", {"key": None})
    with turn_process.start("the function", command, {**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
        assert process.answer() == ["one", None]
        assert process.ask("again") == {"key": None}
        with pytest.raises(RunError, match=r"^the function has ended with exit code 1: KeyError: 'what'$"):
            process.ask("what")


def test_without_pytorch_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"^PyTorch is not installed: pip install -r tests/requirements\.txt$"):
        against.measure(get_config("R1"), 1)


def test_a_job_for_pytorch_comes_back_as_it_was(tmp_path):
    given = Job("cuda", "float16", True, 16, 32, 3, 1e-4, 0.01, (1.0, 0.05, 0.01, 0.0))
    arrays = {"images": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), "encoder.encoder.0.bias": np.ones(2) / 3}
    job.save(tmp_path, given, arrays)
    found, same = job.load(tmp_path)
    assert dataclasses.replace(found, loss_weights=tuple(found.loss_weights)) == given
    assert same.keys() == arrays.keys()
    assert all((same[name] == arrays[name]).all() for name in arrays)


def test_different_losses_are_different_works():
    against.check_losses(0.9005, 0.9)
    for ours in (0.8, float("nan")):
        with pytest.raises(
            RunError, match=f"^the loss is {ours:.6g}, but PyTorch's is 0.9; these are different works$"
        ):
            against.check_losses(ours, 0.9)


def test_ratios_to_pytorch_are_of_each_round_and_above_one_where_ours_is_faster():
    # Everything was twice as slow in the second round.
    ours, theirs = (
        {"train": [4, 8], "eval": [2, 4], "encode": [1, 2]},
        {"train": [2, 4], "eval": [2, 4], "encode": [3, 6]},
    )
    seconds = {("jax", name): each for name, each in ours.items()}
    seconds |= {("torch", name): each for name, each in theirs.items()}
    values, lines = against.compare(seconds, 12, 0.5001, Ready("PyTorch 9, eager", 0.5))
    for name, ratio in {"train": 0.5, "eval": 1, "encode": 3}.items():
        keys = [f"{name}_ratio_to_torch{quartile}" for quartile in ("", "_lower_quartile", "_upper_quartile")]
        assert [values[key] for key in keys] == [ratio] * 3
    assert (values["train_images_per_second"], values["torch_train_images_per_second"]) == (2, 4)
    lines = lines.splitlines()
    assert lines[1].split() == "train 2 [1.71, 2.4] 4 [3.43, 4.8] 0.5 [0.5, 0.5]".split()  # noqa: SIM905
    assert lines[-2:] == ["PyTorch 9, eager", "Loss of the first batch: 0.500100, PyTorch's 0.500000"]


def test_the_sizes_that_are_scaled_to_by_hand():
    config = get_config("R1")
    config.data.image_size = 128
    assert scaling.batch_series(config) == [Size(8, 128), Size(16, 128), Size(32, 128), Size(64, 128)]
    assert scaling.image_series(config) == [Size(16, 128), Size(4, 256), Size(1, 512)]
    assert len({size.pixels for size in scaling.image_series(config)}) == 1
    config.batch_size = 2
    assert scaling.image_series(config) == [Size(2, 128), Size(1, 256), Size(1, 512)]


def test_growth_is_linear_where_a_pixel_takes_as_long():
    seconds = {Size(8, 128): [1, 4], Size(16, 128): [2, 8], Size(32, 128): [2, 8]}
    points = scaling.relate(list(seconds), seconds)
    growth = [point.ratio_to_linear_growth for point in points]
    assert growth == [Spread(1, 1, 1), Spread(1, 1, 1), Spread(0.5, 0.5, 0.5)]
    values, lines = scaling.present({"batch_size": points})
    found = values["batch_size_scaling"][2]
    assert (found["batch_size"], found["image_size"], found["ratio_to_linear_growth"]) == (32, 128, 0.5)
    assert (found["train_seconds_per_image"], found["train_seconds_per_pixel"]) == (5 / 32, 5 / 32 / 128**2)
    last = lines.splitlines()[-1]
    assert last.split() == "128x128 32 5,000 156 9,537 0.5 [0.5, 0.5]".split()  # noqa: SIM905


def test_sizes_that_the_memory_does_not_hold_are_left_out(monkeypatch):
    def prepare(experiment, names):
        assert names == ("train",)
        step = program.Program(lambda: None, 1.0, 100 * experiment.config.batch_size, 0, 0)
        return SimpleNamespace(programs={"train": step}, works={"train": step.run})

    monkeypatch.setattr(scaling.autoencoder_cost, "prepare", prepare)
    monkeypatch.setattr(scaling, "BATCH_SIZES", (1, 2, 3))
    monkeypatch.setattr(scaling, "IMAGE_SIZES", (16, 32))
    monkeypatch.setattr(scaling, "_memory_limit_mib", lambda: 250)
    config = get_config("R1,quick")
    config.data.image_size = 32
    values = scaling.measure(config, 1).values
    sizes = {key: [(each["batch_size"], each["image_size"]) for each in series] for key, series in values.items()}
    assert sizes == {"batch_size_scaling": [(1, 32), (2, 32)], "image_size_scaling": [(2, 32)]}  # not 8 of 16
    monkeypatch.setattr(scaling, "_memory_limit_mib", lambda: 50)
    with pytest.raises(RunError, match=r"^the memory holds none of these batches; try --config.model\.remat=true$"):
        scaling.measure(config, 1)


def sample_costs():
    speed = Timing(Spread(0.5, 0.25, 0.75), Spread(4, 2.5, 8))
    compute, memory = Spread(0.3, 0.2, 0.4), Spread(0.1, 0.05, 0.15)
    train = StepCost(speed, 7.5, 900, 6e9, compute, compute, memory)
    encode = StepCost(speed, 1.5, 200, 1e9, Spread(0.6, 0.5, 0.7), compute, Spread(0.6, 0.5, 0.7))
    rates = [Rates(2e11, 5e10), Rates(0, 3e10), Rates(4e11, 7e10)]  # medians 2e11 and 5e10, quartiles half way
    return step_cost.present({"train": train, "encode": encode}, 950, rates)


def test_the_keys_of_the_json_carry_units_and_the_first_step_has_the_short_ones():
    values = sample_costs().values
    assert (values["train_images_per_second"], values["encode_seconds_per_batch_lower_quartile"]) == (4, 0.25)
    assert (values["train_roofline_fraction"], values["encode_roofline_fraction"]) == (0.3, 0.6)
    short = ("compile_seconds", "memory_mib", "flops_per_image", "roofline_fraction", "peak_memory_mib")
    assert [values[key] for key in short] == [7.5, 900, 6e9, 0.3, 950]
    assert (values["matrix_product_flops_per_second"], values["copy_bytes_per_second_upper_quartile"]) == (2e11, 6e10)


def test_the_table_has_a_line_for_every_step():
    _, train, encode, _, machine, peak = sample_costs().table.splitlines()
    assert train.split() == "train 4 [2.5, 8] 500 0.3 [0.2, 0.4] 0.3 0.1 6 900 7.5".split()  # noqa: SIM905
    assert encode.split() == "encode 4 [2.5, 8] 500 0.6 [0.5, 0.7] 0.3 0.6 1 200 1.5".split()  # noqa: SIM905
    assert machine.endswith("200 GFLOP/s in a large matrix product, 50 GB/s in a large copy")
    assert peak.endswith("950 MiB")


def test_the_parts_are_the_steps_and_what_is_around_them(monkeypatch):
    called = []
    monkeypatch.setattr(step_cost, "measure", lambda config, rounds, names: called.append((config, rounds, *names)))
    for module in (input_rate, startup, preparation_cost, epoch_overhead):
        name = module.__name__.rsplit(".")[-1]
        monkeypatch.setattr(module, "measure", lambda config, rounds, name=name: called.append((config, rounds, name)))
    for measure in (*parts.PARTS.values(), parts.measure_steps):
        measure("config", 3)
    steps = ["train_step", "eval_step", "encode", "decode"]
    assert list(parts.PARTS) == [*steps, "input", "startup", "preparation", "epoch"]
    every, around = (
        ["train", "eval", "encode", "decode"],
        ["input_rate", "startup", "preparation_cost", "epoch_overhead"],
    )
    assert called == [*(("config", 3, name) for name in every + around), ("config", 3, *every)]


def test_the_steps_are_measured_and_printed():
    result = run(*ONCE, XLA_FLAGS=XLA_FLAGS)
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[lines.index("") + 4 :][:4]] == ["train", "eval", "encode", "decode"]
    values = json.loads(last)
    conditions = ("experiment", "device_kind", "precision", "image_size", "batch_size", "rounds")
    assert [values[key] for key in conditions] == ["R1", "cpu", "float32", 32, 2, 1]
    for name in ("train", "eval", "encode", "decode"):
        assert values[f"{name}_images_per_second"] == values[f"{name}_images_per_second_lower_quartile"] > 0
        assert values[f"{name}_memory_fraction"] > 0
        assert values[f"{name}_roofline_fraction"] >= values[f"{name}_compute_fraction"] > 0
    assert values["flops_per_image"] > 2 * values["eval_flops_per_image"]
    assert values["peak_memory_mib"] >= values["memory_mib"] == values["train_memory_mib"]


def test_pytorch_takes_turns_and_computes_the_same_loss():
    result = run("--against-torch", *ONCE, XLA_FLAGS=XLA_FLAGS)
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout.splitlines()[-1])
    assert values["loss"] == pytest.approx(values["torch_loss"], rel=1e-4)
    assert "channels last, float32, eager, " in values["torch_form"]
    for name in ("train", "eval", "encode"):
        ratio = values[f"{name}_images_per_second"] / values[f"torch_{name}_images_per_second"]
        assert values[f"{name}_ratio_to_torch"] == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scaling", "--against-torch"], "error: --against-torch and --scaling exclude each other; give one of them"),
        (["--only=encode", "--phase"], "error: --only and --phase exclude each other; give one of them"),
        (["--scaling", "--out=folder"], "error: --out is of --phase alone; nothing else writes a file"),
        (
            ["--only=train"],
            f"error: flag --only=train: value should be one of <{'|'.join((*parts.PARTS, *parts.TRAFFIC_ONLY))}>",
        ),
        (["--config.precision=float8"], "error: config.precision is float8, expected float32 or bfloat16 or float16"),
    ],
)
def test_wrong_input_is_one_line_and_a_failure(arguments, message):
    result = run(CONFIG, *arguments)
    assert result.returncode == (1 if "config." in message else 2)
    assert result.stderr.strip() == message
