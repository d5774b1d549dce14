"""Encodes a run's data set for a latent diffusion model: `python -m imginav_jax.encode WORKDIR --out DIR`.

DIR appears when it is complete; until then the work is in DIR.partial, and the same command goes on from there.  With
--share it may be started several times at once, on one or several machines that share the folder: each shard is encoded
by one of them.
"""

import argparse
import sys
from pathlib import Path

from imginav_jax.devices import compilation_cache
from imginav_jax.latents import storage
from imginav_jax.latents.encoding import IMAGES_A_DEVICE, SHARD_EXAMPLES, encode
from imginav_jax.models import latent_statistics
from imginav_jax.models.latent_statistics import LatentStatistics
from imginav_jax.system.errors import RunError
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
    parser = argparse.ArgumentParser(
        prog="python -m imginav_jax.encode", description="Encode a run's data set with its best weights."
    )
    parser.add_argument("directory", type=Path, metavar="WORKDIR", help="of a run, or an imported checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make, or to go on with")
    parser.add_argument("--dtype", choices=storage.DTYPES, default="float16", help="of the latents; default: float16")
    parser.add_argument("--format", choices=storage.FORMATS, default="array_record", help="default: array_record")
    parser.add_argument("--images_a_device", type=_positive, default=IMAGES_A_DEVICE, help="in a batch")
    parser.add_argument("--shard_examples", type=_positive, default=SHARD_EXAMPLES, help="in a file")
    parser.add_argument("--share", action="store_true", help="the work with other processes that are started so")
    parser.add_argument("--manifest", help="a layouts.csv; default: the run's")
    parser.add_argument("--root", help="folder that no layout path may leave")
    parser.add_argument("--cache_dir", help="where prepared data sets live; default: the run's")
    parser.add_argument("--image_size", type=_positive, help="pixels; default: the run's, 512 for an imported one")
    arguments = vars(parser.parse_args())
    directory, out = (expand_user(arguments.pop(key)) for key in ("directory", "out"))
    log_to_stdout()
    try:
        compilation_cache.enable()
        found = encode(directory, out, **arguments)
    except RunError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the same command goes on from here")
    if found is not None:
        _say(out, found)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


if __name__ == "__main__":
    main()
