"""What the experiment costs: the U-Net and the ControlNet that are measured, the clock, the shapes, the file."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from configs.phase1_2 import get_config
from helpers import CONFIG, FAST, ROOT, TINY_BENCHMARK
from imginav_jax.benchmark import program, sampling, table, timing
from imginav_jax.benchmark.phase import autoencoder_cost, phase
from imginav_jax.benchmark.speed import roofline
from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.models.diffusion import steps, unet
from imginav_jax.models.diffusion.steps import Recipe
from imginav_jax.runs.results import benchmark_file
from imginav_jax.runs.results.benchmark_file import (
    AutoencoderCost,
    Benchmark,
    DiffusionCost,
    Spread,
    Timing,
    TrainingStepCost,
)
from imginav_jax.system.errors import UserError
from imginav_jax.traffic import floor

SHAPE = (4, 4, 4)
run = functools.partial(helpers.run, "benchmark")
jit = functools.partial(jax.jit, compiler_options=FAST)


class Clock:
    """Tells the time that works take from it."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def work(self, name, durations):
        remaining = iter(durations)

        def call():
            self.calls.append(name)
            self.now += next(remaining)

        return call


def make_samplers(clock, works):
    return {name: sampling.make_sampler(work, lambda result: None, clock) for name, work in works.items()}


def test_works_are_timed_in_turns_after_a_warm_up():
    clock, rounds = Clock(), []
    samplers = make_samplers(
        clock, {"a": clock.work("a", [9, 1, 7, 4, 7, 2]), "b": clock.work("b", [9, 1, 7, 6, 7, 8])}
    )
    seconds = sampling.take_turns(samplers, 2, lambda: rounds.append(len(clock.calls)))
    assert seconds == {"a": [4, 2], "b": [6, 8]}
    assert "".join(clock.calls) == "aabbaabbaabb"  # the first call of each two settles, untimed
    assert rounds == [8, 12]


def test_a_short_work_is_called_several_times_a_sample():
    clock = Clock()
    samplers = make_samplers(clock, {"short": clock.work("short", [9, 0.02, 9, 0.5, 0.75, 1, 9, 1, 2, 3])})
    assert sampling.take_turns(samplers, 2) == {"short": pytest.approx([0.75, 2])}
    nothing = Clock()
    sampling.take_turns(make_samplers(nothing, {"nothing": nothing.work("nothing", [0] * 400)}), 1)
    assert len(nothing.calls) == sampling.MOST_CALLS + 1 + 2 * sampling.MOST_CALLS


def test_medians_quartiles_and_ratios_by_hand():
    assert timing.spread([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert timing.spread([1, 2]) == Spread(1.5, 1.25, 1.75)
    found = timing.summarize([5, 1, 2, 4, 3], 6)
    assert found == Timing(Spread(3, 2, 4), Spread(2, 1.5, 3))
    # The second round was twice as slow for both: ratios 3, 2, 1, although the medians are 4 and 2.
    assert timing.paired_ratio([3, 8, 4], [1, 4, 4]) == Spread(2, 1.5, 2.5)


def test_a_stepper_hands_the_donated_state_on():
    double = program.compile_program(lambda state, by: (state * by, state.sum()), jnp.ones(3), 2.0, donates_first=True)
    assert double.compile_seconds > 0
    assert double.memory_mib > 0
    step = program.Stepper(double.run, jnp.ones(3), 2.0)
    assert [float(step()[1]) for _ in range(3)] == [3, 6, 12]


def test_the_fractions_of_the_roofline_by_hand():
    probes = roofline.Probes(product=lambda: None, copy=lambda: None, product_side=10)
    assert probes.rates(2, 4) == Rates(2 * 10**3 / 2, 2 * 2**28 / 4)
    step = program.Program(lambda: None, compile_seconds=1, memory_mib=1, flops=100, bytes_accessed=30)
    # Round 1: 2 s of arithmetic and 1.5 s of memory traffic in 4 s; round 2: 1 s and 3 s in 4 s.
    found = roofline.fractions(step, [4, 4], [Rates(50, 20), Rates(100, 10)])
    assert found.compute == Spread(0.375, 0.3125, 0.4375)
    assert found.memory == Spread(0.5625, 0.46875, 0.65625)
    assert found.roofline is found.memory


def test_the_bytes_of_a_program_are_what_it_reads_and_writes():
    negate = program.compile_program(lambda x: -x, jnp.ones(1000))
    assert (negate.flops, negate.bytes_accessed) == (0, 8000)


def test_flops_by_hand_and_as_xla_counts_them():
    def conv(x, kernel, dilation=1):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(1, 1), (1, 1)], (dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = jnp.ones((2, 8, 6, 3)), jnp.ones((3, 3, 3, 5))
    taps = (3 * 8 - 2) * (3 * 6 - 2)  # of the kernel, all places together; at the border one of three is on padding
    for function, expected in (
        (lambda x, kernel: jax.jit(jnp.matmul)(x, kernel[0, 0]), 2 * (2 * 8 * 6 * 5) * 3),
        (conv, 2 * (2 * 5 * 3) * taps),
        (functools.partial(conv, dilation=2), 2 * (2 * 5 * 3) * taps),  # every value meets every weight once, as above
    ):
        assert floor.count_flops(jax.make_jaxpr(function)(x, kernel).jaxpr) == expected
    params = jax.eval_shape(lambda: unet.init_unet(SHAPE, jax.random.key(0)))
    state = jax.eval_shape(lambda params: steps.create_state(params, Recipe()), params)
    step = jax.jit(functools.partial(steps.unet_step, recipe=Recipe()))
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = step.trace(state, jax.ShapeDtypeStruct((64, *SHAPE), np.float32), key)
    analysis = traced.lower().cost_analysis()  # with what is not counted here, such as norms
    assert floor.count_flops(traced.jaxpr.jaxpr) == pytest.approx(analysis["flops"], rel=0.05)
    assert floor.count_flops(traced.jaxpr.jaxpr) < analysis["flops"]


def test_the_shapes_of_the_real_size_by_hand():
    shapes = phase.latent_shapes(512, 16)
    assert shapes == {
        "R1": (64, 64, 16),
        "R2": (32, 32, 16),
        "R3": (16, 16, 16),
        "R1_unshuffle_2": (32, 32, 64),
        "R1_unshuffle_4": (16, 16, 256),
        "V1": (64, 64, 4),
        "V2": (32, 32, 16),
        "V3": (16, 16, 64),
    }
    assert phase.group_by_shape(shapes) == {
        (64, 64, 16): ("R1",),
        (32, 32, 16): ("R2", "V2"),
        (16, 16, 16): ("R3",),
        (32, 32, 64): ("R1_unshuffle_2",),
        (16, 16, 256): ("R1_unshuffle_4",),
        (64, 64, 4): ("V1",),
        (16, 16, 64): ("V3",),
    }


def test_the_runs_differ_in_their_downsampling_steps_alone():
    config = get_config("R2,quick")
    config.init_from = "somewhere"
    runs = phase.experiments(config)
    assert {run: exp.model.downsampling_steps for run, exp in runs.items()} == {"R1": 3, "R2": 4, "R3": 5}
    models = {dataclasses.replace(exp.model, downsampling_steps=1) for exp in runs.values()}
    assert len(models) == 1
    assert (config.model.downsampling_steps, config.init_from) == (4, "somewhere")
    assert all(exp.config.init_from is None for exp in runs.values())
    assert {exp.model.shortcuts for exp in runs.values()} == {False}
    assert {exp.model.shortcuts for exp in phase.experiments(get_config("R3,shortcuts")).values()} == {True}
    with pytest.raises(UserError, match=r"^config\.experiment is V1 shortcuts, expected one of R1, R2, R3$"):
        phase.experiments(get_config("V1,shortcuts"))


def test_the_layouts_are_synthetic_ones_and_not_empty():
    config = get_config("R1")
    config.batch_size, config.data.image_size = 7, 32
    batch = autoencoder_cost.synthetic_batch(config)
    assert batch.image.shape == (7, 32, 32, 3)
    assert len({image.tobytes() for image in np.asarray(batch.image)}) == 7
    assert set(batch.type.tolist()) == {0, 1}
    assert batch.mask.all()


def sample_benchmark():
    """Values that differ from field to field."""
    spread = Spread(0.5, 0.25, 0.75)
    measured = Timing(spread, Spread(4, 2.5, 8))
    step = TrainingStepCost(1000, 40.5, 2e9, measured, Spread(1, 0.9, 1.1))
    runs = (
        AutoencoderCost("R1", 3, (64, 64, 16), 786143, 7.5, 900.0, 6e10, measured, measured, measured),
        AutoencoderCost("R2", 4, (32, 32, 16), 3119455, 8.5, 950.0, 7e10, measured, measured, measured),
    )
    latents = (DiffusionCost(("R2", "V2"), (32, 32, 16), step, dataclasses.replace(step, flops_per_image=3e9)),)
    return Benchmark("NVIDIA L40S", "gpu", 1, "0.10.2", "bfloat16", 512, 16, 10, runs, latents)


def test_results_come_back_as_they_were(tmp_path):
    benchmark = sample_benchmark()
    path = benchmark_file.save(tmp_path / "phase", benchmark)
    assert path == tmp_path / "phase" / "benchmark_nvidia-l40s_bfloat16.json"
    assert benchmark_file.load(path) == benchmark
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        benchmark_file.save(tmp_path / "file", benchmark)


def test_the_table_has_a_line_for_everything_measured():
    lines = table.render(sample_benchmark()).splitlines()
    assert lines[0].startswith("1 x NVIDIA L40S (gpu), bfloat16, 16 images of 512x512 a batch; medians of 10 rounds")
    (run,) = (line.split() for line in lines if line.startswith("R1"))
    assert run == "R1 64x64x16 4 [2.5, 8] 4 [2.5, 8] 4 [2.5, 8] 60 900 7.5 786,143".split()  # noqa: SIM905
    unet, controlnet = (line.split() for line in lines if line.startswith("R2, V2"))
    assert unet == "R2, V2 32x32x16 500 [250, 750] 1 [0.9, 1.1] 4 2 40 1,000".split()  # noqa: SIM905
    assert controlnet[-3:] == ["3", "40", "1,000"]


def damage(content, change):
    place, value = change
    *outer, last = place
    for key in outer:
        content = content[key]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((["format_version"], 2), "has format_version 2, expected 1; measure again"),
        ((["format_version"], None), "is no benchmark: it has no format_version"),
        ((["rounds"], None), "is damaged: missing or unknown fields rounds"),
        ((["batch_size"], "many"), "is damaged: batch_size is 'many'"),
        ((["batch_size"], True), "is damaged: batch_size is True"),
        ((["autoencoders"], 3), "is damaged: autoencoders is 3"),
        ((["autoencoders", 1, "extra"], 3), r"is damaged: autoencoders\[1\]: missing or unknown fields extra"),
        ((["autoencoders", 0, "train"], []), r"is damaged: autoencoders\[0\].train is \[\]"),
        ((["diffusion", 0, "unet", "memory_mib"], float("nan")), r"is damaged: diffusion\[0\].unet.memory_mib is nan"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, change, message):
    content = json.loads(json.dumps(sample_benchmark().dump()))
    damage(content, change)
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^{path} {message}$"):
        benchmark_file.load(path)


def test_a_file_that_is_cut_off_or_no_benchmark_is_one_clear_line(tmp_path):
    path = benchmark_file.save(tmp_path, sample_benchmark())
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        benchmark_file.load(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="cannot be read: it holds no JSON object"):
        benchmark_file.load(path)


def test_results_and_the_work_for_pytorch_are_read_without_jax():
    program = """
import sys
from imginav_jax.benchmark import sampling  # PyTorch's process needs this and the next
from imginav_jax.benchmark.pytorch import job
from imginav_jax.runs.results import benchmark_file
from imginav_jax.datasets import palette
assert not {"jax", "flax", "tensorflow", "clu"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_package_needs_no_tensorflow_and_its_flags_no_jax():
    program = """
import sys
from imginav_jax.benchmark import __main__
assert not {"jax", "flax"} & set(sys.modules)
from imginav_jax.benchmark import table
from imginav_jax.benchmark.phase import phase
assert not {"tensorflow", "clu"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_phase_of_one_run_and_its_latent_is_measured(monkeypatch, compile_fast):
    monkeypatch.setattr(phase, "DOWNSAMPLING_STEPS", {"R1": 3})
    monkeypatch.setattr(phase, "latent_shapes", lambda *given: {"R1": (4, 4, 4)})
    config = get_config("R1,quick")
    for option in TINY_BENCHMARK[1:-1]:
        key, value = option.removeprefix("--config.").split("=")
        config.update_from_flattened_dict({key: int(value)})
    found = phase.measure(config, 2)
    (run,) = found.autoencoders
    assert (run.run, run.downsampling_steps, run.latent_shape, run.parameters) == ("R1", 3, (4, 4, 4), 195_315)
    (diffusion,) = found.diffusion
    assert (diffusion.names, diffusion.latent_shape) == (("R1",), (4, 4, 4))
    assert diffusion.unet.seconds_ratio_to_r1 == Spread(1, 1, 1)
    assert run.train_flops_per_image
    assert diffusion.controlnet.flops_per_image


@pytest.mark.slow
def test_the_phase_is_measured_written_and_printed(tmp_path):
    flags = " ".join(f"--{name}={value}" for name, value in FAST.items()).lower()
    result = run("--phase", *TINY_BENCHMARK, "--out", tmp_path / "new" / "out", "--json", XLA_FLAGS=flags)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    path = tmp_path / "new" / "out" / "benchmark_cpu_float32.json"
    found = benchmark_file.load(path)
    assert f"Results      {path}" in result.stdout
    assert json.loads(result.stdout.splitlines()[-1]) == json.loads(path.read_text())
    assert table.render(found) in result.stdout
    assert (found.image_size, found.batch_size, found.rounds, found.num_devices) == (32, 2, 2, 1)
    runs = [(each.run, each.downsampling_steps, each.latent_shape, each.parameters) for each in found.autoencoders]
    assert runs == [
        ("R1", 3, (4, 4, 4), 195_315),
        ("R2", 4, (2, 2, 4), 776_755),
        ("R3", 5, (1, 1, 4), 3_094_707),
    ]
    assert [(each.names, each.latent_shape) for each in found.diffusion] == [
        (("R1",), (4, 4, 4)),
        (("R2", "V2"), (2, 2, 4)),
        (("R3",), (1, 1, 4)),
        (("R1_unshuffle_2",), (2, 2, 16)),
        (("R1_unshuffle_4",), (1, 1, 64)),
        (("V1",), (4, 4, 1)),
        (("V3",), (1, 1, 16)),
    ]
    assert found.diffusion[0].unet.seconds_ratio_to_r1 == Spread(1, 1, 1)
    assert all(each.train_flops_per_image for each in found.autoencoders)


@pytest.mark.slow
def test_the_memory_table_is_printed_and_nothing_is_written(tmp_path):
    tiny = [option for option in TINY_BENCHMARK if not option.startswith("--rounds")]
    result = run("--memory", *tiny, f"--config.phase_dir={tmp_path / 'phase'}")
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("| R")]
    assert [row.split(" | ")[:3] for row in rows] == [
        [f"| {each}", "float32", remat] for each in ("R1", "R2", "R3") for remat in ("off", "on")
    ]
    assert all(row.endswith("| 64 | 64 | 64 |") for row in rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["--phase"], "error: --config is missing"),
        (2, ["--phase", "--memory", CONFIG], "error: --phase and --memory exclude each other; give one of them"),
        (
            1,
            ["--memory", "--config=configs/phase1_2.py:V1"],
            "error: config.experiment is V1, expected one of R1, R2, R3",
        ),
        (
            2,
            ["--phase", CONFIG, "extra"],
            "error: unknown argument extra; options are --config, --config.KEY=VALUE, --only,",
        ),
        (2, ["--memory", CONFIG, "--card=T4"], "error: flag --card=T4: value should be one of <V100|L40S|A100|H100>"),
        (2, ["--traffic", CONFIG], "error: --traffic needs --card, one of V100, L40S, A100, H100"),
        (
            2,
            ["--traffic", CONFIG, "--card=V100", "--only=input"],
            "error: --only=input has no traffic; expected one of",
        ),
        (2, ["--only=unet_step", CONFIG], "error: --only=unet_step is of --traffic alone"),
        (
            2,
            ["--phase", CONFIG, "--card=V100"],
            "error: --card is of --memory and --traffic alone; everything else measures the device",
        ),
        (2, ["--phase", CONFIG, "--rounds=0"], "error: flag --rounds=0: 0 is not a positive integer"),
        (
            2,
            ["--phase", CONFIG, "--config.batchsize=3"],
            'error: unknown config key "batchsize"; did you mean batch_size?',
        ),
        (
            1,
            ["--phase", CONFIG, "--config.data.image_size=48"],
            "error: config.data.image_size is 48, expected a multiple",
        ),
        (
            1,
            ["--phase", "--config=configs/phase1_2.py:V1"],
            "error: config.experiment is V1, expected one of R1, R2, R3",
        ),
        (
            1,
            ["--phase", CONFIG, "--out=/dev/null/out"],
            "error: --out /dev/null/out cannot be written: Not a directory",
        ),
    ],
)
def test_wrong_input_is_one_line_and_a_failure(code, arguments, message):
    result = run(*arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
