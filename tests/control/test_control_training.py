"""Trainings of tiny models: what they must show whatever they learn."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from planted_latents import make_programs, make_trainer

from imginav_jax.control import training
from imginav_jax.devices import target
from imginav_jax.models.diffusion import flow_matching, unet
from imginav_jax.report.decision.metrics import DEMAND_METRICS
from imginav_jax.system.signals import Interrupted

STEPS = 12


class StopAfter:
    """Asks to stop at the n-th look."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks <= 0

    def check(self):
        raise Interrupted(15)


@pytest.fixture(scope="module")
def programs(planted):
    return make_programs(planted.latents)


@pytest.fixture(scope="module")
def trained(planted, programs, tmp_path_factory):
    trainer = make_trainer(planted, programs, tmp_path_factory.mktemp("trained"))
    frozen = trainer.train_unet(STEPS)
    return trainer, frozen, trainer.train_controlnet(frozen, STEPS, 2)


def leaves(stage):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(stage.state)]


def test_a_curve_has_a_point_before_training_and_as_many_as_asked(trained):
    _, frozen, stage = trained
    assert [point[0] for point in stage.points] == [0, STEPS // 2, STEPS]
    assert int(stage.state.step) == int(frozen.state.step) == STEPS
    assert [seconds for _, seconds, _ in stage.points] == sorted(seconds for _, seconds, _ in stage.points)


def test_a_fresh_controlnet_adds_nothing_bit_for_bit(planted, programs, trained):
    trainer, frozen, _ = trained
    params = frozen.state.average
    fresh = unet.init_controlnet(params, planted.latents.shape, programs.demand)
    told = np.asarray(programs.draw(programs.place(params), programs.place(fresh), trainer.asked))
    other = trainer.asked._replace(cells=trainer.asked.cells[::-1])
    assert (told == np.asarray(programs.draw(programs.place(params), programs.place(fresh), other))).all()

    @functools.partial(jax.jit, compiler_options=target.compiler_options())
    def draw_alone(params, noise):
        return flow_matching.draw(
            functools.partial(unet.velocity, params), noise, programs.sampling_steps, programs.recipe.shift
        )

    assert (told == np.asarray(draw_alone(params, trainer.asked.noise))).all()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_training_that_was_cut_off_goes_on_bit_for_bit(planted, programs, trained, tmp_path, monkeypatch, looks):
    monkeypatch.setattr(training, "_STEPS_BETWEEN_LOOKS", 5)
    cut = make_trainer(planted, programs, tmp_path, stop=StopAfter(looks))
    with pytest.raises(Interrupted):
        cut.train_controlnet(cut.train_unet(STEPS), STEPS, 2)
    whole = dataclasses.replace(cut, stop=trained[0].stop)
    again = whole.train_controlnet(whole.train_unet(STEPS), STEPS, 2)
    assert all((a == b).all() for a, b in zip(leaves(again), leaves(trained[2]), strict=True))
    for mine, theirs in zip(again.points, trained[2].points, strict=True):
        assert mine[0] == theirs[0]
        assert all((mine[2][name] == theirs[2][name]).all() for name in theirs[2])


def test_what_was_kept_under_another_key_is_not_used(planted, programs, trained, tmp_path):
    first = make_trainer(planted, programs, tmp_path)
    first.train_unet(4)
    other = dataclasses.replace(first, key="another")
    assert int(other._open(tmp_path / "unet_4.npz", lambda: trained[1].state).state.step) == STEPS  # the start
    (tmp_path / "unet_4.npz").write_bytes(b"damaged")
    assert int(first.train_unet(4).state.step) == 4


def test_a_longer_training_goes_on_from_the_shorter_one(planted, programs, trained, tmp_path):
    trainer = make_trainer(planted, programs, tmp_path)
    trainer.train_unet(5)
    longer = trainer.train_unet(STEPS, 5)
    assert all((a == b).all() for a, b in zip(leaves(longer), leaves(trained[1]), strict=True))


def test_two_devices_train_as_one_does(tmp_path):
    """In a process of its own, which has two."""
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    devices["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = Path(__file__).parent / "train_on_two_devices.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, env={**os.environ, **devices}
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


@pytest.mark.slow
def test_rotated_channels_are_as_good(planted, trained, tmp_path):
    """A latent is no better or worse for the axes that its channels happen to have."""
    latents = planted.latents
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((latents.shape[-1],) * 2))

    class Rotated(type(latents)):
        def decode(self, drawn):
            return latents.decode(np.asarray(drawn, np.float64) @ rotation.T)

    turned = Rotated(**{field.name: getattr(latents, field.name) for field in dataclasses.fields(latents)})
    turned = dataclasses.replace(turned, training=(latents.training.astype(np.float64) @ rotation).astype(np.float16))
    programs = make_programs(turned)
    f = DEMAND_METRICS["wall_f_2"].compute

    def final(each, seed, folder):
        trainer = make_trainer(planted, programs, folder, seed=seed, latents=each)
        counts = trainer.train_controlnet(trainer.train_unet(60), 60, 1).points[-1][2]
        return float(f({name: values.sum(0) for name, values in counts.items()}))

    plain = [final(latents, seed, tmp_path / f"plain{seed}") for seed in (0, 1, 2)]
    rotated = [final(turned, seed, tmp_path / f"turned{seed}") for seed in (0, 1, 2)]
    assert abs(np.mean(plain) - np.mean(rotated)) < max(plain) - min(plain)
