"""Traffic as a person reads it, and as JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from imginav_jax.devices import chips
from imginav_jax.devices.chips import Chip
from imginav_jax.runs.experiment import Experiment
from imginav_jax.system.text_table import align
from imginav_jax.traffic import kinds
from imginav_jax.traffic.count import LAYOUTS, Traffic

_GIGA = 1e9
_HOUR = 3600.0


class Counted(NamedTuple):
    """One step of one run, and, where it was asked for, PyTorch's bytes for the same, operator by operator."""

    run: str
    step: str
    experiment: Experiment
    traffic: Traffic
    torch: int | None = None


def render(card: str, found: Sequence[Counted]) -> str:
    """Returns tables of plain text."""
    chip, fields = chips.CHIPS[card], found[0].experiment.config
    heading = (
        f"{card}, {fields.precision}, {fields.batch_size} images of {fields.data.image_size}x{fields.data.image_size} "
        "a batch: compiled ahead of time, nothing was run"
    )
    sums: list[list[str]] = [
        ["run", "step", "kernels", "GB", "floor", "ratio", "TFLOP", "ms at least", "images/s", "hours"]
    ]
    parts: list[list[str]] = [["GB, of it the floor", *(f"{each.run} {each.step}" for each in found)]]
    for each in found:
        sums.append(_sums(each, chip))
    for kind in kinds.KINDS:
        parts.append([kind, *(_share(each.traffic, kind) for each in found)])
    if found[0].torch is not None:
        sums[0].append("PyTorch's GB ÷ ours")
        for row, each in zip(sums[1:], found, strict=True):
            row.append(f"{(each.torch or 0) / each.traffic.bytes_moved:.2f}")
    lines = [heading, "", align(sums, text_columns=2), "", align(parts), ""]
    lines += ["Furthest above their floor, MB:"]
    lines += [f"{each.run} {each.step}\n{_excesses(each.traffic)}" for each in found]
    hours = f"Hours are the least for {LAYOUTS:,} layouts, {fields.num_epochs} times."
    return "\n".join([*lines, "", f"{hours} What is counted, and what is not: imginav_jax/traffic/program.py."])


def values(card: str, found: Sequence[Counted]) -> dict[str, Any]:
    """Returns the same for JSON; the keys carry units."""
    return {"card": card, "steps": [_values(each, chips.CHIPS[card]) for each in found]}


def _sums(counted: Counted, chip: Chip) -> list[str]:
    traffic, fields = counted.traffic, counted.experiment.config
    seconds = traffic.seconds(chip, fields.precision)
    hours = seconds / fields.batch_size * LAYOUTS * fields.num_epochs / _HOUR
    return [
        counted.run,
        counted.step,
        f"{traffic.kernels}",
        f"{traffic.bytes_moved / _GIGA:.2f}",
        f"{sum(traffic.floor.values()) / _GIGA:.2f}",
        f"{traffic.ratio:.2f}",
        f"{traffic.flops / 1e12:.2f}",
        f"{1000 * seconds:.1f}",
        f"{fields.batch_size / seconds:,.0f}",
        f"{hours:.2f}" if counted.step == "train_step" else "-",
    ]


def _share(traffic: Traffic, kind: str) -> str:
    return f"{traffic.moved[kind] / _GIGA:.2f} ({traffic.floor[kind] / _GIGA:.2f})"


def _excesses(traffic: Traffic) -> str:
    rows: list[list[str]] = []
    for kernel, moved in traffic.excesses:
        place = kernel.source
        where = "-" if place is None else f"{place.file.rpartition('/imginav_jax/')[2]}:{place.line}"
        dtype, shape = kernel.arrays[0]
        rows.append([f"  {kernel.name}", f"{dtype}{list(shape)}", where, f"{moved / 1e6:.1f}"])
    return align(rows, text_columns=3)


def _values(counted: Counted, chip: Chip) -> dict[str, Any]:
    traffic, fields = counted.traffic, counted.experiment.config
    others = {} if counted.torch is None else {"torch_bytes": counted.torch}
    return {
        "run": counted.run,
        "step": counted.step,
        "precision": fields.precision,
        "batch_size": fields.batch_size,
        "image_size": fields.data.image_size,
        "kernels": traffic.kernels,
        "bytes": traffic.bytes_moved,
        "floor_bytes": sum(traffic.floor.values()),
        "bytes_by_kind": dict(traffic.moved),
        "floor_bytes_by_kind": dict(traffic.floor),
        "flops": traffic.flops,
        "least_seconds": traffic.seconds(chip, fields.precision),
        **others,
    }
