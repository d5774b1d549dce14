"""The commands of this package, and what each does before anything imports NumPy or JAX."""

import difflib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from imginav_jax.system.errors import UserError
from imginav_jax.system.process import allocator, environment, streams

_PACKAGE = "imginav_jax"


class Command(NamedTuple):
    """What `python -m imginav_jax` can run.

    Attributes:
      module: of the package; `python -m imginav_jax.{module}` runs it too.
      summary: a line for a person.
    """

    module: str
    summary: str


COMMANDS = {
    "train": Command("main", "train one experiment; the same command goes on where it was cut off"),
    "report": Command("report", "compare finished runs and say which latent resolution to take, or whether the VAE"),
    "control": Command("control", "measure what a ControlNet can do on each run's latents"),
    "benchmark": Command("benchmark", "measure what training, encoding, decoding and diffusion cost here"),
    "encode": Command("encode", "encode a run's data set for a latent diffusion model"),
    "decode": Command("decode", "make pictures of encoded layouts"),
    "reconstruct": Command("reconstruct", "draw what autoencoders make of pictures"),
    "interpolate": Command("interpolate", "draw the path between two layouts"),
    "latent-colors": Command("latent_colors", "draw latents as colours"),
    "latent-diffusion": Command("examples.latent_diffusion", "train a small diffusion model on latents and sample it"),
    "import-torch": Command("import_torch", "bring a checkpoint of the original along"),
    "export": Command("export", "take weights to other programs: PyTorch, safetensors, StableHLO"),
    "export-torch": Command("export_torch", "take weights to the original's code"),
    "cards": Command("cards", "show the card that this machine has, and the settings that suit it"),
    "preflight": Command("preflight", "check what is to be queued on a cluster"),
}
_is_prepared = False


def prepare_if_command(argv: Sequence[str], orig_argv: Sequence[str]) -> None:
    """Prepares the process if Python is about to run one of the package's commands; ends it for any other module.

    The package calls it when it is imported, since a module that is run has imported JAX before its own first line.

    Args:
      argv: sys.argv, which begins with -m while Python looks for the module.
      orig_argv: sys.orig_argv.
    """
    if list(argv[:1]) != ["-m"]:
        return
    module = _module(orig_argv)
    if module != _PACKAGE and not module.startswith(f"{_PACKAGE}."):
        return
    name = module.removeprefix(_PACKAGE).lstrip(".").removesuffix("__main__").rstrip(".")
    if name not in ("", *(command.module for command in COMMANDS.values())):
        sys.stderr.write(f"error: {module} is no command; `python -m {_PACKAGE}` lists them\n")
        sys.exit(2)
    prepare()


def prepare() -> None:
    """Makes streams, environment and allocator those of the program, once; may start Python once more.

    An environment that cannot be used ends the program with a line.
    """
    global _is_prepared
    if _is_prepared:
        return
    _is_prepared = True
    streams.outlive_readers()
    try:
        environment.prepare()
    except UserError as error:
        sys.exit(f"error: {error}")
    allocator.keep_freed_memory()


def find(name: str) -> Command:
    """Returns the command of this name, written with hyphens or underscores.

    Raises:
      UserError: there is none; names the nearest.
    """
    found = COMMANDS.get(name.replace("_", "-"))
    if found is None:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name}; {hint}")
    return found


def _module(orig_argv: Sequence[str]) -> str:
    """Returns what stands behind Python's -m, which may share its word with other letters, as in -um."""
    words = iter(orig_argv[1:])
    for word in words:
        if word in ("-W", "-X"):
            next(words, None)
        elif word.startswith("-") and not word.startswith(("--", "-W", "-X")) and "m" in word:
            return word.partition("m")[2] or next(words, "")
    return ""
