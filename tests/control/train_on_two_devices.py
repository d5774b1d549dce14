"""Writes how far the weights of six steps on one device and on two lie apart; for a process with two devices."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from planted_latents import make_programs, make_trainer, plant

from helpers import FAST
from imginav_jax.devices import target

options = target.compiler_options
target.compiler_options = lambda **keywords: options(**keywords) | FAST

with ThreadPoolExecutor(1) as pool:
    planted = plant(pool)
    found = []
    for devices in (1, 2):
        programs = make_programs(planted.latents, devices=devices)
        stage = make_trainer(planted, programs, Path(sys.argv[1]) / str(devices)).train_unet(6)
        found.append([np.asarray(leaf) for leaf in jax.tree.leaves(stage.state.params)])
sys.stdout.write(f"{max(np.abs(one - two).max() for one, two in zip(*found, strict=True))}")
