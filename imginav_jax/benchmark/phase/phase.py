"""The costs that Phase 1.2 compares: of its autoencoders, and of diffusion on each latent that may be chosen."""

import dataclasses
from fractions import Fraction

from imginav_jax.benchmark import table, timing
from imginav_jax.benchmark.phase import autoencoder_cost, diffusion_cost
from imginav_jax.benchmark.timing import current_conditions
from imginav_jax.models.diffusion.unet import Shape
from imginav_jax.runs.experiment import Experiment, RawConfig
from imginav_jax.runs.results.benchmark_file import AutoencoderCost, Benchmark, DiffusionCost
from imginav_jax.system.errors import UserError
from imginav_jax.system.progress import logger

DOWNSAMPLING_STEPS = {"R1": 3, "R2": 4, "R3": 5}  # the runs differ in nothing else
# Whose cells, and of four times as many channels each: all latents have as many values as R2's.
MATCHED_VOLUME = {"V1": ("R1", Fraction(1, 4)), "V2": ("R2", Fraction(1)), "V3": ("R3", Fraction(4))}
UNSHUFFLES = (2, 4)  # of R1's latent
_SHORTCUTS = " shortcuts"  # ends the name of an experiment that has them


def measure(config: RawConfig, rounds: int) -> Benchmark:
    """Times everything on the first device, with a config as `experiments` takes it; takes minutes."""
    runs = experiments(config)
    conditions = current_conditions(config, rounds)
    logger.info("Measuring on %s", table.heading(conditions))
    return Benchmark(
        **dataclasses.asdict(conditions),
        autoencoders=_measure_autoencoders(runs, rounds),
        diffusion=_measure_diffusion(runs, rounds),
    )


def experiments(config: RawConfig) -> dict[str, Experiment]:
    """Returns R1, R2 and R3, made of the config of any of them, with fresh weights; UserError where it is unfit.

    Of a config with shortcuts they have them too.
    """
    given = config.get("experiment", "R1")
    if given.removesuffix(_SHORTCUTS) not in DOWNSAMPLING_STEPS:
        raise UserError(f"config.experiment is {given}, expected one of {', '.join(DOWNSAMPLING_STEPS)}")
    return {
        run: autoencoder_cost.fresh_experiment(config, {"model.downsampling_steps": steps})
        for run, steps in DOWNSAMPLING_STEPS.items()
    }


def latent_shapes(image_size: int, latent_channels: int) -> dict[str, Shape]:
    """Returns the latents to diffuse: every run's, R1's pixel-unshuffled, and the matched-volume arm's.

    Pixel-unshuffling by f makes f x f cells one, with f * f times the channels.
    """
    sides = {run: image_size // 2**steps for run, steps in DOWNSAMPLING_STEPS.items()}
    shapes = {run: (side, side, latent_channels) for run, side in sides.items()}
    for factor in UNSHUFFLES:
        side = sides["R1"] // factor
        shapes[f"R1_unshuffle_{factor}"] = side, side, latent_channels * factor**2
    matched = {
        arm: (sides[run], sides[run], max(1, int(latent_channels * times)))
        for arm, (run, times) in MATCHED_VOLUME.items()
    }
    return shapes | matched


def group_by_shape(shapes: dict[str, Shape]) -> dict[Shape, tuple[str, ...]]:
    """Returns every shape once, with all its names, in the order of the first of them."""
    names: dict[Shape, tuple[str, ...]] = {}
    for name, shape in shapes.items():
        names[shape] = (*names.get(shape, ()), name)
    return names


def _measure_autoencoders(runs: dict[str, Experiment], rounds: int) -> tuple[AutoencoderCost, ...]:
    prepared = {}
    for run, exp in runs.items():
        prepared[run] = autoencoder_cost.prepare(exp, ("train", "encode", "decode"))
        seconds = prepared[run].programs["train"].compile_seconds
        logger.info("%s: autoencoder compiled, its training step in %.1f s", run, seconds)
    works = {(run, name): work for run, each in prepared.items() for name, work in each.works.items()}
    seconds = timing.time_in_turns("Autoencoders", timing.warm_up(works), rounds)
    of_run = {run: {name: seconds[run, name] for name in each.works} for run, each in prepared.items()}
    names = {run: run + _SHORTCUTS if exp.model.shortcuts else run for run, exp in runs.items()}
    return tuple(autoencoder_cost.cost(names[run], each, of_run[run]) for run, each in prepared.items())


def _measure_diffusion(runs: dict[str, Experiment], rounds: int) -> tuple[DiffusionCost, ...]:
    config = runs["R1"].config
    shapes = latent_shapes(config.data.image_size, config.model.latent_channels)
    groups, prepared = group_by_shape(shapes), {}
    for shape, names in groups.items():
        unet, controlnet = diffusion_cost.prepare(shape, config.batch_size, config.precision, config.data.seed)
        prepared |= {(shape, "unet"): unet, (shape, "controlnet"): controlnet}
        spent = unet.program.compile_seconds + controlnet.program.compile_seconds
        logger.info("%s: U-Net and ControlNet compiled in %.1f s", ", ".join(names), spent)
    works = timing.warm_up({key: each.work for key, each in prepared.items()})
    seconds = timing.time_in_turns("Diffusion", works, rounds)
    costs = {
        (shape, kind): diffusion_cost.cost(each, seconds[shape, kind], seconds[shapes["R1"], kind], config.batch_size)
        for (shape, kind), each in prepared.items()
    }
    return tuple(
        DiffusionCost(names, shape, costs[shape, "unet"], costs[shape, "controlnet"]) for shape, names in groups.items()
    )
