"""A benchmark as a person reads it."""

from collections.abc import Sequence

from imginav_jax.runs.results.benchmark_file import Benchmark, Conditions, Spread, TrainingStepCost
from imginav_jax.system import text_table

GIGA = 1e9

Cell = str | float | Spread | None


def render(benchmark: Benchmark) -> str:
    """Returns tables of plain text: medians, with the quartiles in brackets."""
    parts = [heading(benchmark), "Autoencoders, images a second", _autoencoders(benchmark)]
    parts += ["Training a small latent-diffusion U-Net", _diffusion(benchmark, "unet")]
    parts += ["Training a ControlNet on it", _diffusion(benchmark, "controlnet")]
    return "\n\n".join(parts) + "\n"


def heading(conditions: Conditions) -> str:
    """Returns a line that says what was measured where."""
    size = conditions.image_size
    return (
        f"{conditions.num_devices} x {conditions.device_kind} ({conditions.platform}), {conditions.precision}, "
        f"{conditions.batch_size} images of {size}x{size} a batch; medians of {conditions.rounds} rounds [quartiles]"
    )


def align(rows: Sequence[Sequence[Cell]], text_columns: int = 1) -> str:
    """Returns lines with columns as wide as they need to be: the first ones, of text, to the left, numbers right."""
    return text_table.align([[show(cell) for cell in row] for row in rows], text_columns)


def show(cell: Cell) -> str:
    """Returns a number with three digits or more, a spread as its median [quartiles], "-" for None, text as it is."""
    if isinstance(cell, Spread):
        return f"{show(cell.median)} [{show(cell.lower_quartile)}, {show(cell.upper_quartile)}]"
    if cell is None or isinstance(cell, str):
        return "-" if cell is None else cell
    return f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}"


def _autoencoders(benchmark: Benchmark) -> str:
    header = ["run", "latent", "train", "encode", "decode", "GFLOP/image", "MiB", "compile s", "parameters"]
    rows = [
        [
            cost.run,
            _shape(cost.latent_shape),
            *(each.images_per_second for each in (cost.train, cost.encode, cost.decode)),
            cost.train_flops_per_image / GIGA,
            round(cost.train_memory_mib),
            f"{cost.compile_seconds:.1f}",
            cost.parameters,
        ]
        for cost in benchmark.autoencoders
    ]
    return align([header, *rows], text_columns=2)


def _diffusion(benchmark: Benchmark, kind: str) -> str:
    rows: list[list[Cell]] = [
        ["latent of", "shape", "ms a step", "to R1's", "images/s", "GFLOP/image", "MiB", "parameters"]
    ]
    for each in benchmark.diffusion:
        cost: TrainingStepCost = getattr(each, kind)
        milliseconds, images = cost.timing.seconds_per_batch.scaled(1000), cost.timing.images_per_second.median
        needs = cost.flops_per_image / GIGA, round(cost.memory_mib), cost.trained_parameters
        names = ", ".join(each.names), _shape(each.latent_shape)
        rows.append([*names, milliseconds, cost.seconds_ratio_to_r1, images, *needs])
    return align(rows, text_columns=2)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
