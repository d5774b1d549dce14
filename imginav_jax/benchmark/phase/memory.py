"""What a training step needs, by batch size, precision and remat, and which card has that much: compiled, never run."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from imginav_jax.benchmark.phase import autoencoder_cost, phase
from imginav_jax.devices import cards, chips
from imginav_jax.devices.cards import PRECISIONS
from imginav_jax.devices.mesh import explain_out_of_memory, memory_mib
from imginav_jax.devices.target import compile_for, require_devices
from imginav_jax.runs.experiment import Experiment, RawConfig
from imginav_jax.system.errors import RunError
from imginav_jax.system.progress import Progress, logger
from imginav_jax.training import compiled, state

BATCH_SIZES = (4, 8, 16, 32, 64)


class Scope(NamedTuple):
    """What a table is about."""

    device: Any  # JAX's, which the steps are compiled for
    precisions: tuple[str, ...]  # those whose estimates mean something
    tunings: tuple[cards.Tuning, ...]  # of the cards to compare with
    ahead: bool  # the card is not here


class Need(NamedTuple):
    """Of a training step with batches of several sizes."""

    run: str
    precision: str
    remat: bool
    mib: tuple[float | None, ...]  # by batch size, the compiler's estimate; None where it has itself run out of memory


def this_device() -> Scope:
    """Returns the scope of JAX's first device, compared with every known card; UserError where there is none."""
    require_devices()
    device = jax.devices()[0]
    return Scope(device, ("float32",) if device.platform == "cpu" else PRECISIONS, cards.TUNINGS, ahead=False)


def card(chip: str) -> Scope:
    """Returns the scope of one of cards.CHIPS: float32 and its own precision; UserError if nothing compiles for it."""
    tunings = tuple(tuning for tuning in cards.TUNINGS if tuning.chip == chip)
    precisions = dict.fromkeys(("float32", *(tuning.precision for tuning in tunings)))
    return Scope(chips.device(chip), tuple(precisions), tunings, ahead=True)


def measure(config: RawConfig, scope: Scope) -> list[Need]:
    """Returns what steps of each kind need, of a config as `phase.experiments` takes it; compiles for minutes."""
    kinds: dict[tuple[str, str, bool], list[Experiment]] = {}
    for precision, remat, batch_size in itertools.product(scope.precisions, (False, True), BATCH_SIZES):
        changes = {"precision": precision, "model.remat": remat, "batch_size": batch_size}
        for run, experiment in phase.experiments(autoencoder_cost.change(config, changes)).items():
            kinds.setdefault((run, precision, remat), []).append(experiment)
    total, found = len(kinds) * len(BATCH_SIZES), []
    logger.info("Compiling %d training steps for %s ...", total, scope.device.device_kind)
    with Progress("Memory", total, "programs") as progress:
        for kind in itertools.product(phase.DOWNSAMPLING_STEPS, scope.precisions, (False, True)):
            mib = [train_memory_mib(experiment, scope.device) for experiment in progress.count(kinds[kind])]
            found.append(Need(*kind, tuple(mib)))
    return found


def train_memory_mib(experiment: Experiment, device: Any) -> float | None:
    """Returns the compiler's estimate of what a training step needs; None where it has itself run out of memory."""
    fields = experiment.config
    optimizer, create = state.of_experiment(experiment)
    mesh = Mesh(np.array([device]), ("data",))
    inputs = compiled.abstract_inputs(create, (fields.batch_size, fields.data.image_size), mesh)
    try:
        with explain_out_of_memory(), compile_for(device.platform):
            step = compiled.compile_train_step(
                experiment.model,
                experiment.weights,
                optimizer,
                inputs,
                mesh,
                fields.accumulate_steps,
                ema_decay=fields.ema_decay,
            )
    except RunError:
        return None
    return memory_mib(step.memory_analysis())


def render(config: RawConfig, scope: Scope, needs: Sequence[Need]) -> str:
    """Returns a Markdown table of what `measure` has found, under a few lines that say what it holds."""
    limits = _card_limits(scope)
    header = ["run", "precision", "remat", *map(str, BATCH_SIZES), *limits]
    rows = [header, ["---"] * 3 + ["---:"] * (len(header) - 3)]
    for need in needs:
        mib = ["too large" if value is None else f"{value:,.0f}" for value in need.mib]
        fits = [_largest(need, limit) for limit in limits.values()]
        rows.append([need.run, need.precision, "on" if need.remat else "off", *mib, *fits])
    heading = " ".join(_sentences(config, scope))
    return "\n".join([heading, "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _card_limits(scope: Scope) -> dict[str, float]:
    """Returns the MiB that XLA's pool has on each card."""
    return {tuning.label: float(tuning.memory_fraction or 1) * tuning.memory_mib for tuning in scope.tunings}


def _largest(need: Need, limit_mib: float) -> str:
    fitting = [size for size, mib in zip(BATCH_SIZES, need.mib, strict=True) if mib is not None and mib <= limit_mib]
    return str(max(fitting)) if fitting else "none"


def _sentences(config: RawConfig, scope: Scope) -> Iterator[str]:
    size, parts, device = config.data.image_size, config.accumulate_steps, scope.device
    batches = f"batches of layouts of {size}x{size}" + (f", taken in {parts} parts" if parts > 1 else "")
    yield f"MiB that a training step needs on one card, by the size of the batch ({batches}), and the largest of these"
    yield "batches that each card holds."
    limits = ", ".join(f"{label} {limit:,.0f} MiB" for label, limit in _card_limits(scope).items())
    yield f"A card holds what fits into XLA's share of its memory ({limits})."
    yield f"Every number is the compiler's estimate for {device.device_kind} (jax {jax.__version__}), none is"
    yield "interpolated; nothing was run."
    if scope.ahead:
        yield "Compiled ahead of time, without the card: cuDNN's work space is not included."
    if device.platform == "cpu":
        yield "Compiled for the CPU: a card's own program differs by the work space of cuDNN and by its convolutions."
        yield "bfloat16 and float16 are left out: the CPU's compiler turns their convolutions into float32 ones, so its"
        yield "estimate does not show what a card saves; the same command with --card=V100 or --card=L40S gives them."
