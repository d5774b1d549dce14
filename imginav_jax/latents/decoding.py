"""Makes pictures of stored latents."""

from pathlib import Path

import numpy as np
from PIL import Image

from imginav_jax import autoencoder
from imginav_jax.autoencoder import Autoencoder
from imginav_jax.latents import storage
from imginav_jax.latents.storage import StoredLatents
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import check_is_new, new_directory
from imginav_jax.system.progress import Progress

_IMAGES_AT_ONCE = 32  # in memory


def load_decoder(stored: StoredLatents, checkpoint: Path | None = None) -> Autoencoder:
    """Reads the autoencoder that made the latents, from where it was then or from `checkpoint`, and returns it.

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
                    name = storage.file_name(split, index, "png")
                    Image.fromarray(image).save(folder / name)
                    rows.append(storage.index_row(name, split, example))
                progress.advance(len(indices))
        storage.write_index(folder, rows)
    return len(rows)
