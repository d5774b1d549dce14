"""Less memory for the same result: remat, accumulation, what training needs, and what is said where it is too much."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs.phase1_2 import get_config
from helpers import ROOT, random_batch
from imginav_jax import cards
from imginav_jax.benchmark.phase import memory
from imginav_jax.devices import chips, target
from imginav_jax.devices.mesh import batch_sharding, explain_out_of_memory, memory_limit_mib, memory_mib
from imginav_jax.models import inference, losses
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.runs import experiment
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.training import compiled, run, screen, steps, train
from imginav_jax.training.state import create_state, make_optimizer

OPTIMIZER = make_optimizer(1e-3, 0.01)
BATCH = 8
# Of a gradient as a whole, by norm, and of the losses.  In 16 bits what XLA fuses in another way it rounds otherwise.
ROUNDING = {"float32": (1e-6, 1e-6), "bfloat16": (5e-3, 1e-4), "float16": (1e-3, 1e-5)}
SMALL = AutoencoderConfig(latent_channels=4, base_channels=16, downsampling_steps=1)


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    """Machine code of less quality in a third of the time; what XLA computes, and in what memory, it decides before."""
    options = target.compiler_options
    fast = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "compiler_options", lambda **keywords: options(**keywords) | fast)
        yield


def one_device():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


@functools.cache
def compile_step(precision, remat, accumulate_steps):
    """A function that makes a fresh state, and the training step, which donates it."""
    config = dataclasses.replace(SMALL, compute_dtype=precision, remat=remat)
    create = functools.partial(create_state, config=config, optimizer=OPTIMIZER)
    mesh = one_device()
    inputs = compiled.abstract_inputs(create, (BATCH, 16), mesh)
    step = compiled.compile_train_step(config, losses.LossWeights(), OPTIMIZER, inputs, mesh, accumulate_steps)
    place = functools.partial(jax.device_put, device=jax.tree.map(lambda leaf: leaf.sharding, inputs[0]))
    return lambda: place(jax.jit(create)(jax.random.key(0))), step


def take_step(precision, remat=False, accumulate_steps=1, scale=None):
    """The metrics, the gradient (ten times AdamW's first moment) and the loss scale after a first step."""
    create, step = compile_step(precision, remat, accumulate_steps)
    state = create()
    if scale is not None:
        scales = state.loss_scale
        state = state._replace(
            loss_scale=scales._replace(scale=jax.device_put(np.float32(scale), scales.scale.sharding))
        )
    state, measured = step(state, jax.device_put(random_batch(BATCH), batch_sharding(one_device())))
    gradient = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.opt_state[0].mu)])
    return jax.device_get(measured), gradient, jax.device_get(state.loss_scale)


@pytest.mark.parametrize(
    ("precision", "remat", "accumulate_steps"),
    [
        ("float32", True, 1),
        ("float32", False, 2),
        ("float32", True, 4),
        ("bfloat16", True, 4),
        ("float16", True, 4),
    ],
)
def test_remat_and_accumulation_change_nothing_beyond_rounding(precision, remat, accumulate_steps):
    expected, whole, _ = take_step(precision)
    found, gradient, scale = take_step(precision, remat, accumulate_steps)
    of_gradient, of_losses = ROUNDING[precision]
    np.testing.assert_allclose(found[:4], expected[:4], rtol=of_losses)
    np.testing.assert_allclose(found.grad_norm, expected.grad_norm, rtol=of_gradient)
    assert found.param_norm == expected.param_norm
    assert np.linalg.norm(gradient - whole) <= of_gradient * np.linalg.norm(whole)
    if precision == "float16":
        assert (float(found.skipped), int(scale.good_steps)) == (0, 1)


def test_sixteen_bits_are_precise_where_sums_over_pixels_are_taken():
    """The gradient of a bias is one: in bfloat16 it was once wrong by half and more."""
    _, exact, _ = take_step("float32")
    for precision, bound in (("bfloat16", 3e-2), ("float16", 5e-3)):
        _, gradient, _ = take_step(precision)
        assert np.linalg.norm(gradient - exact) <= bound * np.linalg.norm(exact)


def test_an_overflow_in_one_part_skips_the_step():
    for remat, accumulate_steps in ((False, 1), (True, 4)):
        found, _, scale = take_step("float16", remat, accumulate_steps, scale=2.0**24)
        assert (float(found.skipped), float(scale.scale), int(scale.good_steps)) == (1, 2.0**23, 0)


def test_every_device_has_its_share_of_every_part():
    """Two devices hold rows 0 to 3 and 4 to 7; each part has two rows of either."""
    parts = steps.split_batch(random_batch(BATCH), 2)
    assert parts.index.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    np.testing.assert_array_equal(parts.image[1, 2], random_batch(BATCH).image[5])


def config_of(run_name="R1", **overrides):
    config = get_config(run_name)
    config.update_from_flattened_dict(overrides)
    return config


def needed_mib(**overrides):
    found = memory.train_memory_mib(experiment.from_config(config_of(**overrides)), jax.devices()[0])
    assert found is not None
    return found


def test_accumulation_needs_less_memory():
    whole, half = (memory_mib(compile_step("float32", False, parts)[1].memory_analysis()) for parts in (1, 2))
    assert half < 0.7 * whole  # measured: 0.56


def test_remat_needs_less_than_40_percent():
    small = {"data.image_size": 128, "batch_size": 4}
    assert needed_mib(**small, **{"model.remat": True}) < 0.4 * needed_mib(**small)  # measured: 0.34


@pytest.mark.slow
def test_remat_needs_less_than_60_percent_at_full_size():
    plain = needed_mib()
    assert needed_mib(**{"model.remat": True}) < 0.6 * plain  # measured: 3,017 of 9,769 MiB


def test_the_cpu_computes_16_bit_convolutions_in_float32():
    """So the table leaves 16 bits out there; should this fail, it need not."""
    exp = experiment.from_config(config_of(**{"precision": "bfloat16", "data.image_size": 16, "batch_size": 1}))
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), np.uint8)
    create = functools.partial(create_state, config=exp.model, optimizer=OPTIMIZER)
    params = jax.eval_shape(create, jax.random.key(0)).params
    text = jax.jit(functools.partial(inference.encode, config=exp.model)).lower(params, images).compile().as_text()
    assert set(re.findall(r"= (\w+)\[\S* convolution\(", text)) == {"f32"}


@pytest.fixture
def taken(monkeypatch):
    """The programs that a table is made of, in its order; none is compiled."""
    programs = []

    def mib(exp, device):
        fields = exp.config
        sizes = fields.batch_size, fields.accumulate_steps
        programs.append((device.platform, exp.model.downsampling_steps, fields.precision, exp.model.remat, *sizes))
        return None if fields.batch_size == 64 else fields.batch_size * (300.0 if exp.model.remat else 1000.0)

    monkeypatch.setattr(memory, "train_memory_mib", mib)
    return programs


def test_the_table_shows_what_fits_on_which_card(taken):
    config, target = config_of(accumulate_steps=2), memory.this_device()
    text = memory.render(config, target, memory.measure(config, target))
    heading, _, header, rule, *rows = text.splitlines()
    assert "batches of layouts of 512x512, taken in 2 parts" in heading
    assert "bfloat16 and float16 are left out" in heading
    assert "V100 16 GB 14,193 MiB" in heading
    assert "ahead of time" not in heading
    assert header == "| run | precision | remat | 4 | 8 | 16 | 32 | 64 | V100 16 GB | V100 32 GB | L40S |"
    assert rule.count("---") == 11
    assert rows[0] == "| R1 | float32 | off | 4,000 | 8,000 | 16,000 | 32,000 | too large | 8 | 16 | 32 |"
    assert rows[5] == "| R3 | float32 | on | 1,200 | 2,400 | 4,800 | 9,600 | too large | 32 | 32 | 32 |"
    assert len(rows) == 6
    assert len(set(taken)) == 30
    assert config.batch_size == 16


@pytest.mark.parametrize(
    ("chip", "precision", "limits", "fits"),
    [
        ("V100", "float16", "V100 16 GB 14,193 MiB, V100 32 GB 29,882 MiB", "8 | 16"),
        ("L40S", "bfloat16", "L40S 41,823 MiB", "32"),
    ],
)
def test_the_table_of_a_card_that_is_not_here(monkeypatch, taken, chip, precision, limits, fits):
    monkeypatch.setattr(chips, "device", lambda name: SimpleNamespace(platform="gpu", device_kind=name))
    config, target = config_of(), memory.card(chip)
    heading, _, header, _, *rows = memory.render(config, target, memory.measure(config, target)).splitlines()
    assert f"({limits})" in heading
    assert f"the compiler's estimate for {chip} (jax" in heading
    assert "Compiled ahead of time, without the card: cuDNN's work space is not included." in heading
    assert header.startswith("| run | precision | remat | 4 | 8 | 16 | 32 | 64 | " + chip)
    assert rows[0] == f"| R1 | float32 | off | 4,000 | 8,000 | 16,000 | 32,000 | too large | {fits} |"
    assert [row.split(" | ")[1] for row in rows] == 3 * ["float32", "float32", precision, precision]
    assert len(set(taken)) == 60
    assert {platform for platform, *_ in taken} == {"gpu"}


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({}, "jax-cuda12-pjrt is missing, nvidia-cuda-nvcc-cu12 is missing"),
        (
            {"jax-cuda12-pjrt": jax.__version__},
            f"jax-cuda12-pjrt is {jax.__version__}, nvidia-cuda-nvcc-cu12 is missing",
        ),
        (
            {"jax-cuda12-pjrt": "0.4.36", "nvidia-cuda-nvcc-cu12": "12.9.86"},
            "jax-cuda12-pjrt is 0.4.36, nvidia-cuda-nvcc-cu12 is 12.9.86",
        ),
    ],
)
def test_a_compiler_for_cards_that_is_missing_is_one_line_with_the_command(monkeypatch, installed, said):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError) as error:
        memory.card("L40S")
    command = f"pip install --no-deps jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12"
    assert str(error.value) == f"JAX {jax.__version__} cannot compile for a card here: {said}; {command}"


def test_every_chip_of_the_cards_can_be_compiled_for():
    assert tuple(chips.CHIPS) == cards.CHIPS
    assert all(tuning.memory_mib > 16_000 and tuning.chip for tuning in cards.TUNINGS)


COMPILE_FOR = """
import json, sys
from configs.phase1_2 import get_config
from imginav_jax.benchmark.phase import memory
from imginav_jax.runs import experiment

target = memory.card(sys.argv[1])
found = []
for precision, remat in zip((target.precisions[0], *target.precisions[1:] * 2), (False, False, True)):
    config = get_config("R1")
    config.precision, config.model.remat, config.model.downsampling_steps = precision, remat, 1
    config.batch_size, config.data.image_size = 4, 128
    found.append(memory.train_memory_mib(experiment.from_config(config), target.device))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("chip", cards.CHIPS)
def test_a_card_needs_less_in_16_bits_and_still_less_with_remat(chip):
    try:
        chips.check_installed()
    except UserError as error:
        pytest.skip(str(error))
    result = subprocess.run(
        [sys.executable, "-c", COMPILE_FOR, chip],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "CUDA_ROOT"} | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    single, half, half_remat = json.loads(result.stdout.splitlines()[-1])
    assert half < 0.7 * single
    assert half_remat < 0.7 * half


def test_memory_that_is_exhausted_is_one_line_with_what_to_try():
    error = jax.errors.JaxRuntimeError
    with pytest.raises(RunError) as found, explain_out_of_memory():
        raise error("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes.\nBuffer 1: ...")
    assert str(found.value).splitlines() == [
        "the device's memory is too small; try in this order: a smaller --config.batch_size or a larger "
        "--config.accumulate_steps, --config.model.remat=true, a 16-bit --config.precision"
    ]
    with pytest.raises(error, match="INTERNAL"), explain_out_of_memory():
        raise error("INTERNAL: something else")


@pytest.mark.parametrize("moment", ["compile", "first step"])
def test_a_run_that_exhausts_memory_ends_with_that_line(tmp_path, monkeypatch, moment):
    def exhaust(*_arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    def compile_steps(*arguments):
        return exhaust() if moment == "compile" else compiled.compile_steps(*arguments)._replace(train=exhaust)

    monkeypatch.setattr(run, "compile_steps", compile_steps)
    config = config_of(
        "R1,quick",
        **{
            "data.image_size": 32,
            "data.synthetic_size": 30,
            "data.cache_dir": str(tmp_path / "cache"),
            "model.base_channels": 16,
            "model.downsampling_steps": 1,
            "phase_dir": str(tmp_path / "phase"),
        },
    )
    with pytest.raises(RunError, match="memory is too small; try in this order"):
        train.train(config, str(tmp_path / "work"))


def test_the_screen_says_what_the_device_has(caplog):
    class Device:
        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return None if self.limit is None else {"bytes_limit": self.limit * 2**20}

    class Mesh:
        def __init__(self, *limits):
            self.local_devices = [Device(limit) for limit in limits]

    assert memory_limit_mib(Mesh(None)) is None
    assert memory_limit_mib(Mesh(29_000, 14_193)) == 14_193
    with caplog.at_level("INFO", logger="imginav_jax"):
        screen.say_compiled(786_143, 12.3, 9_769, 14_193)
        screen.say_compiled(786_143, 12.3, 9_769, None)
    assert "a training step needs 9,769 MiB of 14,193 MiB that the device has; took" in caplog.messages[0]
    assert "a training step needs 9,769 MiB; took 12.3 s" in caplog.messages[1]


def test_parts_that_do_not_divide_are_named():
    with pytest.raises(UserError, match=r"batch_size is 16, expected a multiple of config\.accumulate_steps, 3"):
        experiment.from_config(config_of(accumulate_steps=3))
    with pytest.raises(UserError, match=r"accumulate_steps is 0, expected a number above 0"):
        experiment.from_config(config_of(accumulate_steps=0))


def test_a_run_may_go_on_with_other_settings_of_memory():
    def fingerprint(**overrides):
        return experiment.from_config(config_of(**overrides)).fingerprint({}, None)

    assert fingerprint(accumulate_steps=4, **{"model.remat": True}) == fingerprint()
    assert fingerprint(batch_size=32) != fingerprint()
