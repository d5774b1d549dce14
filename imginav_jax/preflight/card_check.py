"""Whether a card computes what it should, and as fast: the first job on a cluster runs it, in about a minute.

Every check is a line.  Where there is no card, the same programs run on the CPU, and what only a card has is left out.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from configs.phase1_2 import get_config
from imginav_jax.benchmark import sampling, timing
from imginav_jax.benchmark.phase import autoencoder_cost
from imginav_jax.benchmark.speed import roofline
from imginav_jax.benchmark.speed.roofline import Rates
from imginav_jax.devices import cards, chips, target
from imginav_jax.devices.cards import Card
from imginav_jax.devices.chips import Chip
from imginav_jax.models import plain_convolutions
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.traffic import program

_LEAST_DRIVER = (525, 60, 13)  # of CUDA 12, as NVIDIA's release notes say
# The largest error of a convolution, of its largest value: what rounding of the result leaves, and something for sums.
_CONVOLUTION_ERRORS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
_LOSS_ERRORS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}  # of a training step's loss, relative
_LEAST_SHARE = 0.5  # of the card's own rates, for a large copy and a large product; another process would halve them
_LEAST_STEP_SHARE = 0.25  # of the copy's rate, for what a training step moves
_ROUNDS = 5


class Check(NamedTuple):
    """What was looked at, and whether it is as it should be; None where it could not be looked at."""

    name: str
    passed: bool | None
    said: str


def check(card: Card) -> Iterator[Check]:
    """Yields what was found, check by check; the first that a card needs for all others ends it where it fails."""
    yield check_driver(card)
    yield check_cudnn(card)
    try:
        target.require_devices()
    except UserError as error:
        yield Check("JAX", False, str(error))
        return
    device, chip = jax.local_devices()[0], chips.CHIPS.get(card.tuning.chip or "")
    yield Check("JAX", None if not card.exists else device.platform == "gpu", f"computes on {device.device_kind}")
    for precision in cards.PRECISIONS:
        yield check_convolution(precision)
    yield check_step(card.tuning.precision)
    rates = measure_rates(card.tuning.precision)
    yield from check_rates(rates, chip, card.tuning.precision)
    yield check_traffic(card, rates)


def check_driver(card: Card) -> Check:
    """Checks the driver's version, as nvidia-smi says it."""
    if not card.exists:
        return Check("driver", None, f"no card ({card.name})")
    version = tuple(map(int, re.findall(r"\d+", card.driver)[:3]))
    least = ".".join(map(str, _LEAST_DRIVER))
    return Check("driver", version >= _LEAST_DRIVER, f"{card.driver}, expected {least} or newer; {card.name}")


def check_cudnn(card: Card) -> Check:
    version = cards.cudnn_version()
    try:
        cards.check_cudnn(card.name, version)
    except UserError as error:
        return Check("cuDNN", False, str(error))
    return Check("cuDNN", None if version is None else True, version or "not from a wheel")


def check_convolution(precision: str) -> Check:
    """Compares the device's convolution with one in float64, by NumPy on the CPU."""
    random = np.random.default_rng(0)
    with jax.default_matmul_precision("highest"):
        x, kernel = (
            jnp.asarray(random.standard_normal(shape, np.float32), precision)
            for shape in ((2, 24, 24, 32), (3, 3, 32, 48))
        )
        found = jax.jit(plain_convolutions.conv)(x, kernel)
    expected = _convolve(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    error = float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())
    most = _CONVOLUTION_ERRORS[precision]
    return Check(
        f"convolution in {precision}", error <= most, f"error {error:.1e} of the largest value, at most {most}"
    )


def check_step(precision: str) -> Check:
    """Compares the loss of a training step, in the forms for cards, with the CPU's own in float32, of a small R1."""
    name = f"training step in {precision}"
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return Check(name, None, "JAX_PLATFORMS leaves no CPU to compare with; expected cuda,cpu")
    found, expected = _loss(jax.local_devices()[0], "gpu", precision), _loss(cpu, "cpu", "float32")
    error, most = abs(found - expected) / expected, _LOSS_ERRORS[precision]
    said = f"loss {found:.6f}, the CPU's {expected:.6f}: error {error:.1e}, at most {most}"
    return Check(name, error <= most, said)


def _loss(device: Any, platform: str, precision: str) -> float:
    config = get_config("R1,quick")
    config.data.image_size, config.batch_size, config.precision = 64, 4, precision
    with jax.default_device(device), target.compile_for(platform):
        prepared = autoencoder_cost.prepare(autoencoder_cost.fresh_experiment(config), ("train",))
        _, measured = prepared.works["train"]()
        return float(measured.loss)


def measure_rates(precision: str) -> Rates:
    """Returns what the device reaches in a large matrix product in `precision`, and in a large copy."""
    probes = roofline.prepare(precision)
    works = {"product": probes.product, "copy": probes.copy}
    samplers = {name: sampling.make_sampler(work, jax.block_until_ready) for name, work in works.items()}
    seconds = sampling.take_turns(samplers, _ROUNDS)
    return probes.rates(*(timing.spread(seconds[name]).median for name in works))


def check_rates(rates: Rates, chip: Chip | None, precision: str) -> Iterator[Check]:
    """Yields whether both rates are a fair share of the data sheet's; `chip` is None where there is none."""
    copy, product = f"{rates.bytes_per_second / 1e9:,.0f} GB/s", f"{rates.flops_per_second / 1e12:.2f} TFLOP/s"
    if chip is None:
        yield Check("large copy", None, f"{copy}, with nothing to compare")
        yield Check("matrix product", None, f"{product}, with nothing to compare")
        return
    for name, said, share in (
        ("large copy", copy, rates.bytes_per_second / chip.bandwidth),
        ("matrix product", product, rates.flops_per_second / chip.flops(precision)),
    ):
        yield Check(name, share >= _LEAST_SHARE, f"{said}, {share:.0%} of the card's, expected {_LEAST_SHARE:.0%}")


def check_traffic(card: Card, rates: Rates) -> Check:
    """Times R1's training step on four layouts and sets what its program moves against the large copy's rate."""
    if not card.exists:
        return Check("traffic", None, "no card: a CPU's program is another")
    config = get_config("R1")
    config.precision, config.batch_size = card.tuning.precision, 4
    prepared = autoencoder_cost.prepare(autoencoder_cost.fresh_experiment(config), ("train",))
    moved = sum(kernel.moved for kernel in program.read(prepared.programs["train"].run.as_text()))  # pyright: ignore[reportFunctionMemberAccess]
    sampler = sampling.make_sampler(prepared.works["train"], jax.block_until_ready)
    seconds = timing.spread(sampling.take_turns({"train": sampler}, _ROUNDS)["train"]).median
    return judge_traffic(moved, seconds, rates)


def judge_traffic(moved: int, seconds: float, rates: Rates) -> Check:
    share = moved / seconds / rates.bytes_per_second
    said = f"a training step moves {moved / 1e9:.2f} GB in {1000 * seconds:.1f} ms, {share:.0%} of the copy's rate"
    return Check("traffic", share >= _LEAST_STEP_SHARE, f"{said}, expected {_LEAST_STEP_SHARE:.0%}")


def report(found: Iterator[Check]) -> Iterator[str]:
    """Yields a line for each check; raises RunError behind the last, where one has failed."""
    failed = []
    for each in found:
        word = {True: "ok", False: "WRONG", None: "-"}[each.passed]
        yield f"{word:<6} {each.name:<26} {each.said}"
        failed += [each] if each.passed is False else []
    if failed:
        raise RunError(f"{failed[0].name} is not as it should be: {failed[0].said}")


def _convolve(x: Float[np.ndarray, "b h w cin"], kernel: Float[np.ndarray, "3 3 cin cout"]) -> Float[Array, "..."]:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    shifted = (
        padded[:, row : row + height, column : column + width] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )
    return sum(shifted)  # pyright: ignore[reportReturnType]
