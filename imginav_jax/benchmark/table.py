"""A benchmark as a person reads it."""

from collections.abc import Sequence

from imginav_jax.runs.benchmark_file import AutoencoderCost, Benchmark, Conditions, Spread, TrainingStepCost

_GIGA = 1e9


def render(benchmark: Benchmark) -> str:
    """Tables of plain text: medians, with the quartiles in brackets."""
    parts = [heading(benchmark), "Autoencoders, images a second", _autoencoders(benchmark)]
    parts += ["Training a small latent-diffusion U-Net", _diffusion(benchmark, "unet")]
    parts += ["Training a ControlNet on it", _diffusion(benchmark, "controlnet")]
    return "\n\n".join(parts) + "\n"


def heading(conditions: Conditions) -> str:
    size = conditions.image_size
    return (
        f"{conditions.num_devices} x {conditions.device_kind} ({conditions.platform}), {conditions.precision}, "
        f"{conditions.batch_size} images of {size}x{size} a batch; medians of {conditions.rounds} rounds [quartiles]"
    )


def align(rows: Sequence[Sequence[str]], text_columns: int = 2) -> str:
    """Columns as wide as they need to be: those of text, the first ones, to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number < text_columns else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def show_spread(value: Spread) -> str:
    return f"{show_number(value.median)} [{show_number(value.lower_quartile)}, {show_number(value.upper_quartile)}]"


def show_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _autoencoders(benchmark: Benchmark) -> str:
    header = ["run", "latent", "train", "encode", "decode", "GFLOP/image", "MiB", "compile s", "parameters"]
    return align([header, *map(_autoencoder, benchmark.autoencoders)])


def _diffusion(benchmark: Benchmark, kind: str) -> str:
    header = ["latent of", "shape", "ms a step", "to R1's", "images/s", "GFLOP/image", "MiB", "parameters"]
    rows = [
        [", ".join(each.names), _shape(each.latent_shape), *_step(getattr(each, kind))] for each in benchmark.diffusion
    ]
    return align([header, *rows])


def _autoencoder(cost: AutoencoderCost) -> list[str]:
    return [
        cost.run,
        _shape(cost.latent_shape),
        *(show_spread(each.images_per_second) for each in (cost.train, cost.encode, cost.decode)),
        show_number(cost.train_flops_per_image / _GIGA),
        f"{cost.train_memory_mib:,.0f}",
        f"{cost.compile_seconds:.1f}",
        f"{cost.parameters:,}",
    ]


def _step(cost: TrainingStepCost) -> list[str]:
    seconds = cost.timing.seconds_per_batch
    return [
        show_spread(Spread(1000 * seconds.median, 1000 * seconds.lower_quartile, 1000 * seconds.upper_quartile)),
        show_spread(cost.seconds_ratio_to_r1),
        show_number(cost.timing.images_per_second.median),
        show_number(cost.flops_per_image / _GIGA),
        f"{cost.memory_mib:,.0f}",
        f"{cost.trained_parameters:,}",
    ]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
