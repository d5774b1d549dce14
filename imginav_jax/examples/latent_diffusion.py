"""A small diffusion model on encoded latents: `python -m imginav_jax.examples.latent_diffusion LATENTS --out PNG`.

LATENTS is what `imginav_jax.encode` has made as ArrayRecord.  The model is the small U-Net of
`imginav_jax.models.diffusion`, trained by flow matching: it shows that the latents are fit for use, and is no product.
Of the rest of this project it needs mainly the autoencoder, for `normalize`, `denormalize` and `decode_heads`.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds
from jaxtyping import Array, Float, UInt8

from imginav_jax.datasets import palette, pictures
from imginav_jax.devices import target
from imginav_jax.latents.decoding import load_decoder
from imginav_jax.latents.storage import StoredLatents
from imginav_jax.models.diffusion import flow_matching, unet
from imginav_jax.models.diffusion.unet import Params
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import OptionError, UserError
from imginav_jax.system.files import expand_user
from imginav_jax.system.ownership import own_output
from imginav_jax.system.progress import Progress, log_to_stdout, logger

CLOSE = 8  # of 255, the largest difference of a channel that still counts as a palette colour
_BATCH_SIZE = 16
_LEARNING_RATE = 1e-3  # at its peak
_AVERAGE_DECAY = 0.995  # of the weights that draw the samples
_SAMPLING_STEPS = 50


def read_latents(directory: Path) -> Float[np.ndarray, "n h w c"]:
    """Reads the training split, by TFDS alone, and returns its latents in float32."""
    builder: Any = tfds.builder_from_directory(directory)
    source = builder.as_data_source("train")
    return np.stack([source[index]["latent"] for index in range(len(source))]).astype(np.float32)


def train(latents: Float[np.ndarray, "n h w c"], num_steps: int, seed: int) -> Params:
    """Trains a U-Net on normalised latents and returns the running average of its weights."""
    params = unet.init_unet(latents.shape[1:], jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0, _LEARNING_RATE, min(100, num_steps // 10), num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss_fn(params: Params, x: Array, key: Array) -> Array:
        return flow_matching.loss(functools.partial(unet.velocity, params), x, key)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2), compiler_options=target.compiler_options())
    def step(params: Any, average: Any, state: Any, x: Array, key: Array) -> tuple[Any, Any, Any, Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params, x, key)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 1 - _AVERAGE_DECAY)
        return params, average, state, loss

    average, state = jax.tree.map(jnp.copy, params), optimizer.init(params)
    random, key, recent = np.random.default_rng(seed), jax.random.key(seed), 0.0
    with Progress("Training", num_steps, "steps") as progress:
        for number in range(num_steps):
            batch = latents[random.integers(0, len(latents), _BATCH_SIZE)]
            params, average, state, loss = step(params, average, state, batch, jax.random.fold_in(key, number))
            recent = 0.98 * recent + 0.02 * float(loss) if number else float(loss)
            progress.advance(1, f"loss {recent:.4f}")
    logger.info("Loss %.4f, averaged over the last steps", recent)
    return average


def sample(params: Params, shape: Sequence[int], seed: int) -> Float[np.ndarray, "n h w c"]:
    """Draws normalised latents from noise."""

    @functools.partial(jax.jit, compiler_options=target.compiler_options())
    def draw(noise: Array) -> Array:
        return flow_matching.draw(functools.partial(unet.velocity, params), noise, _SAMPLING_STEPS)

    return np.asarray(draw(jax.random.normal(jax.random.key(seed), tuple(shape))))


def palette_share(images: UInt8[np.ndarray, "b h w 3"]) -> float:
    """Returns the share of the pixels whose channels are all within `CLOSE` of one palette colour, in [0, 1]."""
    colors = palette.COLORS.astype(np.int16)
    distance = np.stack([np.abs(images - color).max(-1) for color in colors]).min(0)
    return float((distance <= CLOSE).mean())


def run(directory: Path, out: Path, checkpoint: Path | None, num_steps: int, count: int, seed: int) -> None:
    stored = StoredLatents(directory)
    if stored.description.format != "array_record":
        raise UserError(f"{directory} holds {stored.description.format} files; encode with --format array_record")
    height, width, _ = stored.description.latent_shape
    if height % 4 or width % 4:
        raise UserError(f"{directory} holds latents of {height}x{width} cells, expected multiples of 4")
    autoencoder = load_decoder(stored, checkpoint)
    latents = read_latents(directory)
    params = train(autoencoder.normalize(latents), num_steps, seed)
    drawn = sample(params, (count, *latents.shape[1:]), seed)
    made, known = (autoencoder.decode_heads(each) for each in (autoencoder.denormalize(drawn), latents[:count]))
    if made.images is None or known.images is None:
        raise UserError(f"{stored.description.checkpoint} has no RGB head")
    share, bound = palette_share(made.images), palette_share(known.images)
    logger.info("%.1f %% of the samples' pixels are within %d of a palette colour", 100 * share, CLOSE)
    logger.info("%.1f %% of the pixels are, where the autoencoder decodes training layouts", 100 * bound)
    columns, captions = [made.images, known.images], ["samples", "training layouts"]
    if made.classes is not None:
        columns.insert(1, pictures.color_classes(made.classes))
        captions.insert(1, "their class maps")
    title = [f"within {CLOSE} of the palette: samples {share:.1%}, training layouts {bound:.1%}"]
    pictures.write_figure(out, pictures.picture_grid(columns, captions, title))
    logger.info("Samples in %s", out)


def main() -> None:
    parser = Parser("examples.latent_diffusion", "Train on latents and draw samples.", "latents/R1 --out samples.png")
    parser.add_argument("directory", type=Path, metavar="LATENTS", help="what imginav_jax.encode has made")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the figure")
    parser.add_argument("--checkpoint", type=Path, help="the workdir that made the latents, where it has moved")
    parser.add_argument("--steps", type=int, default=1500, help="of training; default: 1500")
    parser.add_argument("--count", type=int, default=8, help="samples; default: 8")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    arguments = parser.parse_args()
    out, checkpoint = expand_user(arguments.out), arguments.checkpoint and expand_user(arguments.checkpoint)
    log_to_stdout()
    with one_line_errors():
        pictures.check_figure_path(out, [".png"])
        if arguments.steps < 10 or arguments.count < 1 or arguments.seed < 0:
            raise OptionError("--steps must be 10 or more, --count 1 or more, --seed 0 or more")
        with own_output(out, f"--out {out}"):
            run(expand_user(arguments.directory), out, checkpoint, arguments.steps, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
