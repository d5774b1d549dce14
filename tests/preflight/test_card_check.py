"""What `cards --check` says of cards that are as they should be, and of those that are not."""

import subprocess
import sys

import pytest

from helpers import ROOT
from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.devices import cards, chips
from imginav_jax.devices.cards import Card
from imginav_jax.models import plain_convolutions
from imginav_jax.preflight import card_check
from imginav_jax.preflight.card_check import Check
from imginav_jax.system.errors import RunError

V100 = cards.TUNINGS[0]
CHIP = chips.CHIPS["V100"]


def card(driver="535.161.08"):
    return Card("Tesla V100-SXM2-16GB", 16_160, driver, 1, V100)


@pytest.mark.parametrize(
    ("driver", "passed"), [("535.161.08", True), ("525.60.13", True), ("525.60.11", False), ("470.82.01", False)]
)
def test_a_driver_that_is_too_old_is_wrong(driver, passed):
    found = card_check.check_driver(card(driver))
    assert found.passed is passed
    assert found.said == f"{driver}, expected 525.60.13 or newer; Tesla V100-SXM2-16GB"


def test_a_cudnn_without_kernels_for_the_card_is_wrong(monkeypatch):
    monkeypatch.setattr(cards, "cudnn_version", lambda: "9.11.0.98")
    found = card_check.check_cudnn(card())
    assert found.passed is False
    assert "has no kernels" in found.said


@pytest.mark.parametrize("precision", cards.PRECISIONS)
def test_a_convolution_that_leaves_a_weight_out_is_wrong(monkeypatch, precision):
    assert card_check.check_convolution(precision).passed
    plain = plain_convolutions.conv
    monkeypatch.setattr(plain_convolutions, "conv", lambda x, kernel: plain(x, kernel.at[0, 0].multiply(0)))
    assert card_check.check_convolution(precision).passed is False


def test_a_step_with_another_loss_is_wrong(monkeypatch):
    losses = iter([0.86, 0.85, 0.8501, 0.85])
    monkeypatch.setattr(card_check, "_loss", lambda device, platform, precision: next(losses))
    assert card_check.check_step("float16").passed is False
    assert card_check.check_step("float16").passed


def test_rates_are_compared_with_the_data_sheet():
    copy, product = card_check.check_rates(Rates(60e12, 0.8 * CHIP.bandwidth), CHIP, "float16")
    assert (copy.passed, copy.said) == (True, "718 GB/s, 80% of the card's, expected 50%")
    assert (product.passed, product.said) == (False, "60.00 TFLOP/s, 48% of the card's, expected 50%")
    assert [each.passed for each in card_check.check_rates(Rates(1.0, 1.0), None, "float32")] == [None, None]


def test_a_step_that_reaches_little_of_the_bandwidth_is_wrong():
    rates = Rates(1e14, 800e9)
    assert card_check.judge_traffic(4_000_000_000, 0.010, rates).passed
    slow = card_check.judge_traffic(4_000_000_000, 0.025, rates)
    assert slow.said == "a training step moves 4.00 GB in 25.0 ms, 20% of the copy's rate, expected 25%"
    assert slow.passed is False


def test_what_is_wrong_is_one_line_behind_all_others():
    checks = [Check("a", True, "as it should be"), Check("b", False, "too slow"), Check("c", None, "no card")]
    lines = card_check.report(iter(checks))
    assert [next(lines).split()[0] for _ in checks] == ["ok", "WRONG", "-"]
    with pytest.raises(RunError, match=r"b is not as it should be: too slow"):
        next(lines)


@pytest.mark.card
def test_without_a_card_it_says_so_and_checks_what_it_can():
    command = [sys.executable, "-m", "imginav_jax.cards", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("-      driver                     no card (")
    assert [line.split()[0] for line in lines].count("ok") == 4
