"""Latents as colours: `python -m imginav_jax.latent_colors DIR --out colors.png`, where DIR is what `encode` has made.

Red, green and blue are the first three principal components of the latents' cells over the training split.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.datasets import pictures
from imginav_jax.datasets.preparation import VALIDATION
from imginav_jax.latents import decoding
from imginav_jax.latents.storage import Example, StoredLatents
from imginav_jax.models import latent_statistics
from imginav_jax.models.latent_statistics import LatentStatistics
from imginav_jax.system import files
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import OptionError
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout, logger

_DEVIATIONS = 2.0  # standard deviations of a component from its mean to the end of its colour's range


def color_latents(latents: Float[np.ndarray, "b h w c"], statistics: LatentStatistics) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns pictures of latents: a cell's first three principal components as red, green and blue.

    The components are those of the covariance in `statistics`; a colour channel is 128 where there are fewer.
    """
    covariance = np.nan_to_num(statistics.correlation) * np.outer(statistics.std, statistics.std)
    values, vectors = np.linalg.eigh(covariance)
    vectors, deviations = vectors[:, ::-1][:, :3], np.sqrt(values[::-1][:3].clip(0))
    vectors = vectors * np.where(vectors.sum(0) < 0, -1, 1)  # of the two directions always the same one
    components = (latents.astype(np.float64) - statistics.mean) @ vectors
    scaled = np.divide(components, deviations, out=np.zeros_like(components), where=deviations > 0)
    colors = np.zeros((*latents.shape[:-1], 3))
    colors[..., : scaled.shape[-1]] = scaled
    return ((colors / _DEVIATIONS + 1) * 127.5).clip(0, 255).round().astype(np.uint8)


def choose_scenes(stored: StoredLatents, count: int, seed: int) -> list[Example]:
    """Returns up to `count` random layouts of whole scenes from the validation split; of rooms where there are none."""
    number = stored.description.examples[VALIDATION]
    chosen: dict[str, list[Example]] = {"scene": [], "room": []}
    for index in np.random.default_rng(seed).permutation(number):
        example = stored.read(VALIDATION, int(index))
        chosen[example.type].append(example)
        if len(chosen["scene"]) == count:
            break
    return (chosen["scene"] or chosen["room"])[:count]


def main() -> None:
    parser = Parser("latent_colors", "Draw random scenes' latents as colours.", "latents/R1 --out colors.png")
    parser.add_argument("directory", type=Path, metavar="DIR", help="of the latents")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the figure")
    parser.add_argument("--count", type=int, default=6, help="scenes; default: 6")
    parser.add_argument("--seed", type=int, default=0, help="of the choice; default: 0")
    parser.add_argument("--checkpoint", type=Path, help="the workdir that made the latents, where it has moved")
    arguments = parser.parse_args()
    out = expand_user(arguments.out)
    log_to_stdout()
    with one_line_errors(also=ValueError):
        pictures.check_figure_path(out, [".png"])
        if arguments.count < 1 or arguments.seed < 0:
            raise OptionError("--count must be 1 or more, and --seed 0 or more")
        stored = StoredLatents(expand_user(arguments.directory))
        model = decoding.load_decoder(stored, arguments.checkpoint and expand_user(arguments.checkpoint))
        examples = choose_scenes(stored, arguments.count, arguments.seed)
        chosen = np.stack([example.latent for example in examples])
        statistics = LatentStatistics.load(files.read_json(stored.directory / latent_statistics.FILE_NAME))
        size = model.config.compression
        colors = color_latents(chosen, statistics).repeat(size, 1).repeat(size, 2)
        title = [example.layout_id for example in examples]
        pictures.write_figure(out, pictures.side_by_side(model.decode(chosen), colors, ("decoded", "latent"), title))
    logger.info("%s", out)


if __name__ == "__main__":
    main()
