"""What R1, R2 and R3 move through a card's memory, as a table; compiled ahead of time, never run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imginav_jax.benchmark import table
from imginav_jax.benchmark.phase import autoencoder_cost, phase
from imginav_jax.benchmark.table import GIGA, Cell
from imginav_jax.devices import cards, chips
from imginav_jax.devices.chips import Chip
from imginav_jax.runs.experiment import Experiment, RawConfig
from imginav_jax.system.progress import logger
from imginav_jax.traffic import count, kinds
from imginav_jax.traffic.count import Traffic

LAYOUTS = 22_318  # training layouts of the real experiment
_HOUR = 3600.0


class Counted(NamedTuple):
    """One step of one run, and, where it was asked for, PyTorch's bytes for the same, operator by operator."""

    run: str
    step: str
    experiment: Experiment
    traffic: Traffic
    torch: int | None = None


def measure(config: RawConfig, card: str, names: Sequence[str], *, against_torch: bool = False) -> list[Counted]:
    """Compiles steps of traffic.steps.STEPS for a card of chips.CHIPS, in the card's own precision.

    `config` is one that `phase.experiments` takes.

    Raises:
      UserError: the config is unfit, or nothing compiles for cards; RunError: the compiler fails.
    """
    device = chips.device(card)
    precision = next(tuning.precision for tuning in cards.TUNINGS if tuning.chip == card)
    found = []
    for run, experiment in phase.experiments(autoencoder_cost.change(config, {"precision": precision})).items():
        for name in names:
            logger.info("Compiling %s of %s for %s ...", name, run, card)
            counted = Counted(run, name, experiment, count.count(experiment, name, device))
            found.append(counted._replace(torch=_torch(experiment, name)) if against_torch else counted)
    return found


def render(card: str, found: Sequence[Counted]) -> str:
    """Returns tables of plain text."""
    chip, fields = chips.CHIPS[card], found[0].experiment.config
    heading = (
        f"{card}, {fields.precision}, {fields.batch_size} images of {fields.data.image_size}x{fields.data.image_size} "
        "a batch: compiled ahead of time, nothing was run"
    )
    sums: list[list[Cell]] = [
        ["run", "step", "kernels", "GB", "floor", "ratio", "TFLOP", "ms at least", "images/s", "hours"]
    ]
    parts: list[list[Cell]] = [["GB, of it the floor", *(f"{each.run} {each.step}" for each in found)]]
    for each in found:
        sums.append(_sums(each, chip))
    for kind in kinds.KINDS:
        parts.append([kind, *(_share(each.traffic, kind) for each in found)])
    if found[0].torch is not None:
        sums[0].append("PyTorch's GB ÷ ours")
        for row, each in zip(sums[1:], found, strict=True):
            row.append(f"{(each.torch or 0) / each.traffic.bytes_moved:.2f}")
    lines = [heading, "", table.align(sums, text_columns=2), "", table.align(parts), ""]
    lines += ["Furthest above their floor, MB:"]
    lines += [f"{each.run} {each.step}\n{_excesses(each.traffic)}" for each in found]
    hours = f"Hours are the least for {LAYOUTS:,} layouts, {fields.num_epochs} times."
    return "\n".join([*lines, "", f"{hours} What is counted, and what is not: imginav_jax/traffic/program.py."])


def values(card: str, found: Sequence[Counted]) -> dict[str, Any]:
    """Returns the same for JSON; the keys carry units."""
    return {"card": card, "steps": [_values(each, chips.CHIPS[card]) for each in found]}


def _sums(counted: Counted, chip: Chip) -> list[Cell]:
    traffic, fields = counted.traffic, counted.experiment.config
    seconds = traffic.seconds(chip, fields.precision)
    hours = seconds / fields.batch_size * LAYOUTS * fields.num_epochs / _HOUR
    return [
        counted.run,
        counted.step,
        f"{traffic.kernels}",
        f"{traffic.bytes_moved / GIGA:.2f}",
        f"{sum(traffic.floor.values()) / GIGA:.2f}",
        f"{traffic.ratio:.2f}",
        f"{traffic.flops / 1e12:.2f}",
        f"{1000 * seconds:.1f}",
        fields.batch_size / seconds,
        f"{hours:.2f}" if counted.step == "train_step" else None,
    ]


def _share(traffic: Traffic, kind: str) -> str:
    return f"{traffic.moved[kind] / GIGA:.2f} ({traffic.floor[kind] / GIGA:.2f})"


def _excesses(traffic: Traffic) -> str:
    rows: list[list[Cell]] = []
    for kernel, moved in traffic.excesses:
        place = kernel.source
        where = "-" if place is None else f"{place.file.rpartition('/imginav_jax/')[2]}:{place.line}"
        dtype, shape = kernel.arrays[0]
        rows.append([f"  {kernel.name}", f"{dtype}{list(shape)}", where, f"{moved / 1e6:.1f}"])
    return table.align(rows, text_columns=3)


def _values(counted: Counted, chip: Chip) -> dict[str, Any]:
    traffic, fields = counted.traffic, counted.experiment.config
    others = {} if counted.torch is None else {"torch_bytes": counted.torch}
    moved: Mapping[str, int] = traffic.moved
    return {
        "run": counted.run,
        "step": counted.step,
        "precision": fields.precision,
        "batch_size": fields.batch_size,
        "image_size": fields.data.image_size,
        "kernels": traffic.kernels,
        "bytes": traffic.bytes_moved,
        "floor_bytes": sum(traffic.floor.values()),
        "bytes_by_kind": dict(moved),
        "floor_bytes_by_kind": dict(traffic.floor),
        "flops": traffic.flops,
        "least_seconds": traffic.seconds(chip, fields.precision),
        **others,
    }


def _torch(experiment: Experiment, name: str) -> int:
    from imginav_jax.traffic import eager  # PyTorch is asked for here alone

    return eager.count(experiment, name)
