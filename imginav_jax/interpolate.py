"""The path between two layouts: `python -m imginav_jax.interpolate A.png B.png --checkpoint DIR --out strip.png`.

An --out that ends in .gif becomes an animation, there and back.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from imginav_jax.autoencoder import Autoencoder
from imginav_jax.datasets import pictures
from imginav_jax.devices import compilation_cache
from imginav_jax.runs import trained_run
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import OptionError
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout, logger

_FRAME_MILLISECONDS = 120


def interpolate(
    model: Autoencoder, images: UInt8[np.ndarray, "2 h w 3"], shares: Float[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes points on the straight line between the two images' latents and returns their pictures.

    A share of 0 gives the first image's reconstruction, 1 the second's.

    The line is the same for normalised latents: normalising is affine.
    """
    first, second = model.encode(images)
    weights = shares.astype(np.float32)[:, None, None, None]
    return model.decode((1 - weights) * first + weights * second)


def main() -> None:
    parser = Parser(
        "interpolate",
        "Draw the path between two layouts.",
        "a.png b.png --checkpoint experiments/phase1/phase1_2_AE_R1_ds3 --out strip.png",
    )
    parser.add_argument("images", type=Path, nargs=2, metavar="PNG", help="where the path begins and ends")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a workdir")
    parser.add_argument("--out", type=Path, required=True, metavar="FIGURE", help="a .png (strip) or .gif (animation)")
    parser.add_argument("--pictures", type=int, default=8, help="on the path, both ends included; default: 8")
    parser.add_argument("--image-size", type=int, help="pixels; default: the run's, 512 for an imported checkpoint")
    arguments = parser.parse_args()
    out, directory = expand_user(arguments.out), expand_user(arguments.checkpoint)
    log_to_stdout()
    with one_line_errors(also=ValueError):
        pictures.check_figure_path(out, [".png", ".gif"])
        if arguments.pictures < 2:
            raise OptionError(f"--pictures is {arguments.pictures}, expected 2 or more")
        compilation_cache.enable()
        run = trained_run.load(directory, arguments.image_size)
        images = pictures.read_images([expand_user(path) for path in arguments.images], run.image_size)
        shares = np.linspace(0, 1, arguments.pictures)
        path = interpolate(Autoencoder(run.weights, run.directory), images, shares)
        if out.suffix.lower() == ".gif":
            pictures.write_animation(out, [*path, *path[-2:0:-1]], _FRAME_MILLISECONDS)
        else:
            columns = [picture[None] for picture in (images[0], *path, images[1])]
            captions = ["from", *(f"{share:.2f}" for share in shares), "to"]
            title = [f"from {arguments.images[0].name} to {arguments.images[1].name}"]
            pictures.write_figure(out, pictures.picture_grid(columns, captions, title))
    logger.info("%s", out)


if __name__ == "__main__":
    main()
