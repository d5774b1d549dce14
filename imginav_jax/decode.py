"""Latents back to pictures: `python -m imginav_jax.decode DIR --out PNGS`, where DIR is what `encode` has made."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from imginav_jax import autoencoder, compilation_cache, latents
from imginav_jax.autoencoder import Autoencoder
from imginav_jax.errors import UserError
from imginav_jax.latents import StoredLatents
from imginav_jax.new_directory import check_is_new, expand_user, new_directory
from imginav_jax.progress import Progress, log_to_stdout, logger

_IMAGES_AT_ONCE = 32  # in memory


def load_decoder(stored: StoredLatents, checkpoint: Path | None = None) -> Autoencoder:
    """The autoencoder that made the latents, from where it was then or from where it is now.

    Raises:
      UserError: it is not there, or it is another one.
    """
    description = stored.description
    directory = checkpoint or Path(description.checkpoint)
    if checkpoint is None and not directory.exists():
        raise UserError(f"{stored.directory} was made by {directory}, which is gone; say where it is by --checkpoint")
    model = autoencoder.load(directory, step=description.step if checkpoint is None else None)
    if model.digest != description.digest:
        raise UserError(
            f"{stored.directory} holds latents of another model: {description.digest[:12]} made them, "
            f"{directory} is {model.digest[:12]}"
        )
    return model


def decode(directory: Path, out: Path, checkpoint: Path | None = None, count: int | None = None) -> int:
    """Writes a PNG an example and an index of them; returns how many.

    Args:
      directory: of the latents, in either format.
      out: the folder to make.
      checkpoint: a workdir or an imported checkpoint; default: where the latents say that it was.
      count: how many of each split, from its start; default: all.

    Raises:
      UserError: there are no latents, they are of another model, or `out` exists or cannot be written.
    """
    check_is_new(out)
    stored = StoredLatents(directory)
    model = load_decoder(stored, checkpoint)
    counts = {split: min(number, count or number) for split, number in stored.description.examples.items()}
    rows: list[list[str]] = []
    with new_directory(out) as folder, Progress("Decoding", sum(counts.values()), "layouts") as progress:
        for split, number in counts.items():
            (folder / split).mkdir()
            for start in range(0, number, _IMAGES_AT_ONCE):
                indices = range(start, min(start + _IMAGES_AT_ONCE, number))
                examples = [stored.read(split, index) for index in indices]
                images = model.decode(np.stack([example.latent for example in examples]))
                for index, example, image in zip(indices, examples, images, strict=True):
                    name = latents.file_name(split, index, "png")
                    Image.fromarray(image).save(folder / name)
                    rows.append(latents.index_row(name, split, example))
                progress.advance(len(indices))
        latents.write_index(folder, rows)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m imginav_jax.decode", description="Make pictures of what imginav_jax.encode has written."
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="of the latents, in either format")
    parser.add_argument("--out", type=Path, required=True, metavar="PNGS", help="the folder to make")
    parser.add_argument("--checkpoint", type=Path, help="the workdir that made them, where it has moved")
    parser.add_argument("--count", type=int, help="layouts of each split; default: all")
    arguments = parser.parse_args()
    log_to_stdout()
    checkpoint = arguments.checkpoint and expand_user(arguments.checkpoint)
    try:
        if arguments.count is not None and arguments.count < 1:
            raise UserError(f"--count is {arguments.count}, expected 1 or more")
        compilation_cache.enable()
        number = decode(expand_user(arguments.directory), expand_user(arguments.out), checkpoint, arguments.count)
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    logger.info("%s: %d pictures, listed in %s", arguments.out, number, latents.INDEX)


if __name__ == "__main__":
    main()
