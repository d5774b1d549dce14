"""A benchmark as a person reads it."""

from collections.abc import Sequence

from imginav_jax.benchmark.results import AutoencoderCost, Benchmark, Spread, TrainingStepCost

_GIGA = 1e9


def render(benchmark: Benchmark) -> str:
    """Tables of plain text: medians, with the quartiles in brackets."""
    title = (
        f"{benchmark.num_devices} x {benchmark.device_kind} ({benchmark.platform}), {benchmark.precision}, "
        f"{benchmark.batch_size} images of {benchmark.image_size}x{benchmark.image_size} a batch; "
        f"medians of {benchmark.rounds} rounds [quartiles]"
    )
    parts = [title, "Autoencoders, images a second", _autoencoders(benchmark)]
    parts += ["Training a small latent-diffusion U-Net", _diffusion(benchmark, "unet")]
    parts += ["Training a ControlNet on it", _diffusion(benchmark, "controlnet")]
    return "\n\n".join(parts) + "\n"


def _autoencoders(benchmark: Benchmark) -> str:
    header = ["run", "latent", "train", "encode", "decode", "GFLOP/image", "MiB", "compile s", "parameters"]
    return _table([header, *map(_autoencoder, benchmark.autoencoders)])


def _diffusion(benchmark: Benchmark, kind: str) -> str:
    header = ["latent of", "shape", "ms a step", "to R1's", "images/s", "GFLOP/image", "MiB", "parameters"]
    rows = [
        [", ".join(each.names), _shape(each.latent_shape), *_step(getattr(each, kind))] for each in benchmark.diffusion
    ]
    return _table([header, *rows])


def _autoencoder(cost: AutoencoderCost) -> list[str]:
    return [
        cost.run,
        _shape(cost.latent_shape),
        *(_spread(each.images_per_second) for each in (cost.train, cost.encode, cost.decode)),
        _number(cost.train_flops_per_image / _GIGA),
        f"{cost.train_memory_mib:,.0f}",
        f"{cost.compile_seconds:.1f}",
        f"{cost.parameters:,}",
    ]


def _step(cost: TrainingStepCost) -> list[str]:
    seconds = cost.timing.seconds_per_batch
    return [
        _spread(Spread(1000 * seconds.median, 1000 * seconds.lower_quartile, 1000 * seconds.upper_quartile)),
        _spread(cost.seconds_ratio_to_r1),
        _number(cost.timing.images_per_second.median),
        _number(cost.flops_per_image / _GIGA),
        f"{cost.memory_mib:,.0f}",
        f"{cost.trained_parameters:,}",
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _spread(value: Spread) -> str:
    return f"{_number(value.median)} [{_number(value.lower_quartile)}, {_number(value.upper_quartile)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
