"""What autoencoders make of a picture: `python -m imginav_jax.reconstruct IMAGE... --checkpoint DIR... --out PNG`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imginav_jax.autoencoder import Autoencoder
from imginav_jax.datasets import palette, pictures
from imginav_jax.devices import compilation_cache
from imginav_jax.models import metrics
from imginav_jax.models.inference import Reconstruction
from imginav_jax.runs import trained_run
from imginav_jax.runs.trained_run import TrainedRun
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout, logger


class Result(NamedTuple):
    """What one checkpoint makes of all images, and how well it does on each."""

    name: str
    made: Reconstruction
    psnr: list[float]  # dB; empty without an RGB head
    accuracy: list[float]  # share of the labelled pixels whose class is right; empty without a segmentation head

    def describe(self, index: int) -> str:
        values = [f"{self.psnr[index]:.2f} dB"] if self.psnr else []
        values += [f"pixel accuracy {self.accuracy[index]:.4f}"] if self.accuracy else []
        return f"{self.name}: {', '.join(values) or 'no picture head'}"


def reconstruct(images: UInt8[np.ndarray, "b h w 3"], model: Autoencoder, name: str) -> Result:
    made = model.reconstruct(images)
    psnr, accuracy = [], []
    if made.images is not None:
        errors = (made.images / 127.5 - images / 127.5) ** 2
        psnr = [metrics.psnr(float(error.mean())) for error in errors]
    if made.classes is not None:
        labels = palette.one_hot(images)
        right = np.take_along_axis(labels, made.classes[..., None].astype(np.intp), -1)[..., 0]
        accuracy = [float(hit.sum() / max(label.sum(), 1)) for hit, label in zip(right, labels, strict=True)]
    return Result(name, made, psnr, accuracy)


def draw(images: UInt8[np.ndarray, "b h w 3"], results: Sequence[Result], title: Sequence[str]) -> Image.Image:
    """Draws a row an image: the input, and of each checkpoint the reconstruction, the class map and the error."""
    columns, captions = [images], ["input"]
    for name, made, _, _ in results:
        if made.images is not None:
            columns.append(made.images)
            captions.append(name)
        if made.classes is not None:
            columns.append(pictures.color_classes(made.classes))
            captions.append("class map")
        if made.images is not None:
            columns.append(pictures.show_error(images, made.images))
            captions.append(f"error x{pictures.ERROR_GAIN}")
    return pictures.picture_grid(columns, captions, title)


def common_image_size(runs: Sequence[TrainedRun]) -> int:
    """Returns the pixels a side of the images that the runs are for; UserError where they differ."""
    if len({run.image_size for run in runs}) > 1:
        found = ", ".join(f"{run.directory} {run.image_size}" for run in runs)
        raise UserError(f"the checkpoints are for images of different sizes ({found}): give one --image_size")
    return runs[0].image_size


def main() -> None:
    parser = Parser(
        "reconstruct",
        "Draw what autoencoders make of pictures.",
        "layout.png --checkpoint experiments/phase1/phase1_2_AE_R1_ds3 --out figure.png",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an 8-bit RGB PNG")
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, metavar="DIR", help="workdirs to compare")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the figure")
    parser.add_argument("--image-size", type=int, help="pixels; default: the runs', 512 for imported checkpoints")
    arguments = parser.parse_args()
    out = expand_user(arguments.out)
    log_to_stdout()
    with one_line_errors():
        pictures.check_figure_path(out, [".png"])
        compilation_cache.enable()
        runs = [trained_run.load(expand_user(each), arguments.image_size) for each in arguments.checkpoint]
        paths = [expand_user(path) for path in arguments.images]
        images = pictures.read_images(paths, common_image_size(runs))
        results = [
            reconstruct(images, Autoencoder(run.weights, run.directory), run.directory.resolve().name) for run in runs
        ]
        lines = [f"{path.name}, {result.describe(i)}" for i, path in enumerate(paths) for result in results]
        pictures.write_figure(out, draw(images, results, lines))
    for line in lines:
        logger.info("%s", line)
    logger.info("%s", out)


if __name__ == "__main__":
    main()
