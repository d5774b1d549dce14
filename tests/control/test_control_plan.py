"""What a plan counts."""

import numpy as np
import pytest

from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.control import plan
from imginav_jax.control.settings import Settings
from imginav_jax.control.training import Programs

SETTINGS = Settings(unet_steps=10, controlnet_steps=20, batch_size=4, precision="float32")


@pytest.fixture
def planned(monkeypatch):
    """A fine and a coarse latent, without the minutes that XLA needs to count bytes."""
    monkeypatch.setattr(Programs, "traffic", lambda *_: (1e6, 2e6))
    return plan.plan({"R1": (8, 8, 4), "R2": (4, 4, 4)}, 32, SETTINGS)


def test_every_latent_gets_as_many_flops_as_the_costliest(planned, monkeypatch):
    fine, coarse = planned
    assert fine.steps == coarse.steps == (10, 20)
    assert fine.more == (0, 0)
    found = {}
    count = Programs.flops
    monkeypatch.setattr(Programs, "flops", lambda self, _: found.setdefault(self.shape, count(self, 22_318)))
    plan.plan({"R1": fine.shape, "R2": coarse.shape}, 32, SETTINGS)
    assert fine.flops == pytest.approx(np.dot(fine.steps, found[fine.shape]))
    longer = coarse.steps[0] + coarse.more[0], coarse.more[1]
    assert np.dot(longer, found[coarse.shape]) == pytest.approx(fine.flops, rel=0.05)
    assert coarse.flops == pytest.approx(np.dot(longer, found[coarse.shape]) + 20 * found[coarse.shape][1])
    assert fine.traffic == 10 * 1e6 + 20 * 2e6


def test_the_slower_of_arithmetic_and_memory_decides(planned):
    fine, _ = planned
    assert plan.seconds(fine, Rates(fine.flops, 1e30)) == pytest.approx(1)
    assert plan.seconds(fine, Rates(1e30, fine.traffic / 3)) == pytest.approx(3)
