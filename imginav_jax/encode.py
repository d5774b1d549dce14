"""Encodes a run's data set for a latent diffusion model: `python -m imginav_jax.encode WORKDIR --out DIR`.

DIR appears when it is complete; until then the work is in DIR.partial, and the same command goes on from there.  With
--share it may be started several times at once, on one or several machines that share the folder: each shard is encoded
by one of them.
"""

from pathlib import Path

from imginav_jax.devices import compilation_cache
from imginav_jax.latents import storage
from imginav_jax.latents.encoding import IMAGES_PER_DEVICE, SHARD_EXAMPLES, encode
from imginav_jax.models import latent_statistics
from imginav_jax.models.latent_statistics import LatentStatistics
from imginav_jax.system.command_line import Parser, one_line_errors, positive
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout, logger


def _say(out: Path, found: LatentStatistics) -> None:
    logger.info("Latents      %s", out)
    logger.info("Statistics   %s, of %d training layouts", out / latent_statistics.FILE_NAME, found.origin["images"])
    logger.info("             standard deviation %.3g to %.3g, scale factor %.4g",
                found.std.min(), found.std.max(), found.scale_factor)  # fmt: skip
    if found.dead_channels:
        logger.info("             DEAD: %s", ", ".join(found.dead_channels))
    for first, second in found.equal_channels:
        logger.info("             EQUAL up to a factor: %s and %s", first, second)


def main() -> None:
    parser = Parser(
        "encode",
        "Encode a run's data set with its best weights.",
        "experiments/phase1/phase1_2_AE_R1_ds3 --out latents/R1",
    )
    parser.add_argument("directory", type=Path, metavar="WORKDIR", help="of a run, or an imported checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make, or to go on with")
    parser.add_argument("--dtype", choices=storage.DTYPES, default="float16", help="of the latents; default: float16")
    parser.add_argument("--format", choices=storage.FORMATS, default="array_record", help="default: array_record")
    parser.add_argument("--images-per-device", "--images-a-device", type=positive, default=IMAGES_PER_DEVICE,
                        help="in a batch")  # fmt: skip
    parser.add_argument("--shard-examples", type=positive, default=SHARD_EXAMPLES, help="in a file")
    parser.add_argument("--share", action="store_true", help="the work with other processes that are started so")
    parser.add_argument("--manifest", help="a layouts.csv; default: the run's")
    parser.add_argument("--root", help="folder that no layout path may leave")
    parser.add_argument("--cache-dir", help="where prepared data sets live; default: the run's")
    parser.add_argument("--image-size", type=positive, help="pixels; default: the run's, 512 for an imported one")
    arguments = vars(parser.parse_args())
    directory, out = (expand_user(arguments.pop(key)) for key in ("directory", "out"))
    log_to_stdout()
    with one_line_errors("the same command goes on from here"):
        compilation_cache.enable()
        found = encode(directory, out, **arguments)
    if found is not None:
        _say(out, found)


if __name__ == "__main__":
    main()
