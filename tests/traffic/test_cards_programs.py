"""Programs compiled for cards that are not here: nothing moves more than it did; `pytest -m card`."""

import json
import subprocess
import sys

import jax
import pytest

from helpers import ROOT
from imginav_jax.devices import cards

pytestmark = pytest.mark.card

# R1's training step, four layouts of 128x128: bytes ÷ floor, and kernels.  What the script below prints.
RECORDED = {"V100": (1.191, 269), "L40S": (1.202, 265)}
_MAY_GROW = 1.05

SCRIPT = """
import json, sys
from imginav_jax.devices import cards
cards.prepare_to_compile()

import jax
import jax.numpy as jnp
from jax import lax
from configs.phase1_2 import get_config
from imginav_jax.devices import chips
from imginav_jax.models import normalization
from imginav_jax.runs import experiment
from imginav_jax.traffic import count, program, steps

name, what = sys.argv[1:]
device = chips.device(name)
if what == "known":
    image = jax.ShapeDtypeStruct((1024, 512), jnp.float16)
    (kernel,) = program.read(jax.jit(lambda x: x * 2 + 1).lower(steps.place(image, device)).compile().as_text())
    print(json.dumps(kernel.moved))
    sys.exit()
if what == "planted":
    plain = normalization.bias_norm_act
    normalization.bias_norm_act = lambda x, *others: plain(
        lax.optimization_barrier(x.astype(jnp.float32)).astype(x.dtype), *others
    )
config = get_config("R1")
config.precision = next(tuning.precision for tuning in cards.TUNINGS if tuning.chip == name)
config.batch_size, config.data.image_size = 4, 128
found = count.count(experiment.from_config(config), "train_step", device)
print(json.dumps([found.ratio, found.kernels]))
"""


def compiled(card, what):
    folder = cards.compiler_folder()
    if not (folder / "jax_plugins").is_dir():
        packages = f"jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12"
        pytest.skip(f"nothing compiles for cards here; pip install --no-deps --target {folder} {packages}")
    command = [sys.executable, "-c", SCRIPT, card, what]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def has_grown(card, ratio, kernels):
    most = [_MAY_GROW * number for number in RECORDED[card]]
    return ratio > most[0] or kernels > most[1]


@pytest.mark.parametrize("card", RECORDED)
def test_a_training_step_moves_no_more_than_it_did(card):
    found = compiled(card, "step")
    assert not has_grown(card, *found), f"bytes ÷ floor and kernels were {RECORDED[card]}, are {found}"


def test_a_float32_copy_of_activations_is_noticed():
    ratio, kernels = compiled("L40S", "planted")
    assert has_grown("L40S", ratio, 0), (ratio, kernels)


def test_a_known_program_moves_what_it_must():
    assert compiled("V100", "known") == 2 * 2 * 1024 * 512


def test_the_command_that_installs_the_compiler_names_the_folder_and_jax():
    folder = f"~/.cache/imginav_jax/compiler_for_cards/{jax.__version__}"
    command = f"pip install --no-deps --target {folder} jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12"
    assert command in (ROOT / "launch/README.md").read_text()
    assert command in (ROOT / ".ci/run").read_text()
