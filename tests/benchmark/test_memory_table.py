"""What training needs in memory: the table of what fits on which card, and the compiler's estimates in it."""

import functools
import importlib.metadata
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from helpers import ROOT, config_of
from imginav_jax.benchmark.phase import memory
from imginav_jax.devices import cards, chips
from imginav_jax.models import inference
from imginav_jax.runs import experiment
from imginav_jax.system.errors import UserError
from imginav_jax.training.state import create_state, make_optimizer

pytestmark = pytest.mark.usefixtures("compile_fast")


def needed_mib(**overrides):
    found = memory.train_memory_mib(experiment.from_config(config_of(**overrides)), jax.devices()[0])
    assert found is not None
    return found


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
    create = functools.partial(create_state, config=exp.model, optimizer=make_optimizer(1e-3, 0.01))
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
    known = "V100 16 GB | V100 32 GB | L40S | A100 40 GB | A100 80 GB | H100 80 GB"
    assert header == f"| run | precision | remat | 4 | 8 | 16 | 32 | 64 | {known} |"
    assert rule.count("---") == 14
    assert (
        rows[0] == "| R1 | float32 | off | 4,000 | 8,000 | 16,000 | 32,000 | too large | 8 | 16 | 32 | 32 | 32 | 32 |"
    )
    assert rows[5] == "| R3 | float32 | on | 1,200 | 2,400 | 4,800 | 9,600 | too large | 32 | 32 | 32 | 32 | 32 | 32 |"
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
    packages = f"jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12"
    command = f"pip install --no-deps --target {cards.compiler_folder()} {packages}"
    assert str(error.value) == f"JAX {jax.__version__} cannot compile for a card here: {said}; {command}"


def test_every_chip_of_the_cards_can_be_compiled_for():
    assert tuple(chips.CHIPS) == cards.CHIPS
    assert all(tuning.memory_mib > 16_000 and tuning.chip for tuning in cards.TUNINGS)


COMPILE_FOR = """
import json, sys
from imginav_jax.devices import cards
cards.prepare_to_compile()

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
    if not (cards.compiler_folder() / "jax_plugins").is_dir():
        pytest.skip("nothing compiles for cards here; launch/README.md, Memory, has the command")
    result = subprocess.run(
        [sys.executable, "-c", COMPILE_FOR, chip],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    single, half, half_remat = json.loads(result.stdout.splitlines()[-1])
    assert half < 0.7 * single
    assert half_remat < 0.7 * half
