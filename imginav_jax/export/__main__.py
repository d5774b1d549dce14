"""Takes an autoencoder to other programs: `python -m imginav_jax.export WORKDIR --out PATH --format torch`."""

from pathlib import Path

from imginav_jax.export import original, programs
from imginav_jax.pytorch.checkpoint_file import SAFETENSORS
from imginav_jax.runs.weights import Weights
from imginav_jax.system.command_line import Parser, one_line_errors, positive
from imginav_jax.system.errors import OptionError
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout, logger

_PROGRAMS = "stablehlo"
_FILES = {"torch": original.export_checkpoint, "safetensors": original.export_safetensors}


def _export(directory: Path, out: Path, kind: str, step: int | None, image_size: int | None) -> Weights:
    if kind == _PROGRAMS:
        return programs.export_programs(directory, out, step, image_size)
    if image_size is not None:
        raise OptionError(f"--image-size is {image_size}, expected none with --format {kind}")
    if kind == "safetensors" and out.suffix != SAFETENSORS:
        raise OptionError(f"--out is {out}, expected a name that ends in {SAFETENSORS}")
    if kind == "torch" and out.suffix == SAFETENSORS:
        raise OptionError(f"--out is {out}, expected another ending with --format torch")
    return _FILES[kind](directory, out, step)


def main() -> None:
    parser = Parser(
        "export",
        "Write weights for other programs: PyTorch's, or programs that need JAX alone.",
        "experiments/phase1/phase1_2_AE_R1_ds3 --out AE_R1.safetensors --format safetensors",
    )
    parser.add_argument("directory", type=Path, metavar="WORKDIR", help="of a run, or an imported checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="the file to make; a folder of stablehlo"
    )
    parser.add_argument(
        "--format",
        choices=[*_FILES, _PROGRAMS],
        required=True,
        help="a checkpoint of the original, its tensors as safetensors, or encoder and decoder as programs",
    )
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the best")
    parser.add_argument(
        "--image-size", type=positive, help="pixels, of stablehlo; default: the run's, 512 for an imported one"
    )
    arguments = parser.parse_args()
    directory, out = expand_user(arguments.directory), expand_user(arguments.out)
    log_to_stdout()
    with one_line_errors():
        exported = _export(directory, out, arguments.format, arguments.step, arguments.image_size)
    logger.info("%s: the weights after step %s", arguments.out, f"{exported.step:,}")


if __name__ == "__main__":
    main()
