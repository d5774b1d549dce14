"""What a training step needs, by batch size, precision and remat, and which card has that much: compiled, never run."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from imginav_jax import cards
from imginav_jax.benchmark.phase import phase
from imginav_jax.cards import PRECISIONS
from imginav_jax.devices import chips
from imginav_jax.devices.mesh import explain_out_of_memory, memory_mib
from imginav_jax.devices.target import compile_for, require_devices
from imginav_jax.runs.experiment import Experiment, RawConfig
from imginav_jax.system.errors import RunError
from imginav_jax.system.progress import Progress, logger
from imginav_jax.training import compiled, state

BATCH_SIZES = (4, 8, 16, 32, 64)


class CompileTarget(NamedTuple):
    """What the steps are compiled for."""

    device: Any  # JAX's
    precisions: tuple[str, ...]  # those whose estimates mean something
    tunings: tuple[cards.Tuning, ...]  # of the cards to compare with
    ahead: bool  # the card is not here


class Need(NamedTuple):
    """Of a training step with batches of several sizes."""

    run: str
    precision: str
    remat: bool
    mib: tuple[float | None, ...]  # by batch size, the compiler's estimate; None where it has itself run out of memory


def this_device() -> CompileTarget:
    """JAX's first, compared with every card that is known; UserError where there is none."""
    require_devices()
    device = jax.devices()[0]
    return CompileTarget(device, ("float32",) if device.platform == "cpu" else PRECISIONS, cards.TUNINGS, ahead=False)


def card(chip: str) -> CompileTarget:
    """A card of cards.CHIPS, which need not be here, in float32 and in its own precision.

    Raises:
      UserError: what compiles for cards is not installed.
    """
    tunings = tuple(tuning for tuning in cards.TUNINGS if tuning.chip == chip)
    precisions = dict.fromkeys(("float32", *(tuning.precision for tuning in tunings)))
    return CompileTarget(chips.device(chip), tuple(precisions), tunings, ahead=True)


def measure(config: RawConfig, target: CompileTarget, batch_sizes: Sequence[int] = BATCH_SIZES) -> list[Need]:
    """Compiles a training step of each kind; takes minutes.

    Args:
      config: of R1, R2 or R3; the steps of all three, the precision, remat and the batch size are put into it.
      target: what they are compiled for.
      batch_sizes: images.

    Raises:
      UserError: the config cannot be used.
    """
    runs = list(phase.DOWNSAMPLING_STEPS)
    kinds = list(itertools.product(runs, target.precisions, (False, True)))
    experiments = {
        (precision, remat, batch_size): phase.experiments(_change(config, precision, remat, batch_size))
        for (_, precision, remat), batch_size in itertools.product(kinds, batch_sizes)
    }
    total = len(kinds) * len(batch_sizes)
    logger.info("Compiling %d training steps for %s ...", total, target.device.device_kind)
    found = []
    with Progress("Memory", total, "programs") as progress:
        for run, precision, remat in kinds:
            steps = progress.count([experiments[precision, remat, batch_size][run] for batch_size in batch_sizes])
            found.append(Need(run, precision, remat, tuple(train_memory_mib(step, target.device) for step in steps)))
    return found


def train_memory_mib(experiment: Experiment, device: Any) -> float | None:
    """The compiler's estimate of what a training step needs on `device`; None where it has run out of memory."""
    fields = experiment.config
    optimizer, create = state.of_experiment(experiment)
    mesh = Mesh(np.array([device]), ("data",))
    inputs = compiled.abstract_inputs(create, (fields.batch_size, fields.data.image_size), mesh)
    try:
        with explain_out_of_memory(), compile_for(device.platform):
            step = compiled.compile_train_step(
                experiment.model, experiment.weights, optimizer, inputs, mesh, fields.accumulate_steps
            )
    except RunError:
        return None
    return memory_mib(step.memory_analysis())


def render(
    config: RawConfig, target: CompileTarget, needs: Sequence[Need], batch_sizes: Sequence[int] = BATCH_SIZES
) -> str:
    """A Markdown table under a few lines that say what it holds; `config` and `target` as `measure` was given them."""
    limits = _card_limits(target)
    header = ["run", "precision", "remat", *map(str, batch_sizes), *limits]
    rows = [header, ["---"] * 3 + ["---:"] * (len(header) - 3)]
    for need in needs:
        mib = ["too large" if value is None else f"{value:,.0f}" for value in need.mib]
        fits = [_largest(need, batch_sizes, limit) for limit in limits.values()]
        rows.append([need.run, need.precision, "on" if need.remat else "off", *mib, *fits])
    heading = " ".join(_sentences(config, target))
    return "\n".join([heading, "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _change(config: RawConfig, precision: str, remat: bool, batch_size: int) -> RawConfig:
    changed = config.copy_and_resolve_references()
    changed.precision, changed.model.remat, changed.batch_size = precision, remat, batch_size
    return changed


def _card_limits(target: CompileTarget) -> dict[str, float]:
    """MiB that XLA's pool has on each card."""
    return {tuning.label: float(tuning.memory_fraction or 1) * tuning.memory_mib for tuning in target.tunings}


def _largest(need: Need, batch_sizes: Sequence[int], limit_mib: float) -> str:
    fitting = [size for size, mib in zip(batch_sizes, need.mib, strict=True) if mib is not None and mib <= limit_mib]
    return str(max(fitting)) if fitting else "none"


def _sentences(config: RawConfig, target: CompileTarget) -> Iterator[str]:
    size, parts, device = config.data.image_size, config.accumulate_steps, target.device
    batches = f"batches of layouts of {size}x{size}" + (f", taken in {parts} parts" if parts > 1 else "")
    yield f"MiB that a training step needs on one card, by the size of the batch ({batches}), and the largest of these"
    yield "batches that each card holds."
    limits = ", ".join(f"{label} {limit:,.0f} MiB" for label, limit in _card_limits(target).items())
    yield f"A card holds what fits into XLA's share of its memory ({limits})."
    yield f"Every number is the compiler's estimate for {device.device_kind} (jax {jax.__version__}), none is"
    yield "interpolated; nothing was run."
    if target.ahead:
        yield "Compiled ahead of time, without the card: cuDNN's work space is not included."
    if device.platform == "cpu":
        yield "Compiled for the CPU: a card's own program differs by the work space of cuDNN and by its convolutions."
        yield "bfloat16 and float16 are left out: the CPU's compiler turns their convolutions into float32 ones, so its"
        yield "estimate does not show what a card saves; the same command with --card=V100 or --card=L40S gives them."
