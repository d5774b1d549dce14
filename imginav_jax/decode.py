"""Latents back to pictures: `python -m imginav_jax.decode DIR --out PNGS`, where DIR is what `encode` has made."""

from pathlib import Path

from imginav_jax.devices import compilation_cache
from imginav_jax.latents import storage
from imginav_jax.latents.decoding import decode
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import OptionError
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout, logger


def main() -> None:
    parser = Parser(
        "decode", "Make pictures of what imginav_jax.encode has written.", "latents/R1 --out pictures --count 8"
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="of the latents, in either format")
    parser.add_argument("--out", type=Path, required=True, metavar="PNGS", help="the folder to make")
    parser.add_argument("--checkpoint", type=Path, help="the workdir that made them, where it has moved")
    parser.add_argument("--count", type=int, help="layouts of each split; default: all")
    arguments = parser.parse_args()
    log_to_stdout()
    checkpoint = arguments.checkpoint and expand_user(arguments.checkpoint)
    with one_line_errors(also=ValueError):
        if arguments.count is not None and arguments.count < 1:
            raise OptionError(f"--count is {arguments.count}, expected 1 or more")
        compilation_cache.enable()
        number = decode(expand_user(arguments.directory), expand_user(arguments.out), checkpoint, arguments.count)
    logger.info("%s: %d pictures, listed in %s", arguments.out, number, storage.INDEX)


if __name__ == "__main__":
    main()
