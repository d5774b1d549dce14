"""The card that a job got, as settings for a shell: `eval "$(python -m imginav_jax.cards)"`."""

import os
import shlex
import sys
from pathlib import Path

from imginav_jax.devices import cards
from imginav_jax.system.command_line import Parser
from imginav_jax.system.errors import UserError


def main() -> None:
    """Prints lines for a shell on stdout, and what they are for on stderr."""
    parser = Parser("cards", "Show the card that this machine has, as settings for a shell.", "")
    parser.epilog = 'example: eval "$(python -m imginav_jax.cards)"'
    parser.parse_args()
    try:
        card = cards.find()
        cards.check_cudnn(card.name, cards.cudnn_version())
        chosen = cards.settings(card)
    except UserError as error:
        sys.exit(f"error: {error}")
    path, dropped = _without_cuda(os.environ.get("LD_LIBRARY_PATH", ""))
    lines = [f"unset {cards.OLD_FRACTION}", f"export IMGINAV_CARD={_quote(card.tuning.label)}"]
    lines += [f"export {name}={_quote(value)}" for name, value in chosen.items()]
    if dropped and card.exists:
        # What lies there would be loaded instead of the libraries that were installed with JAX.
        lines.append(f"export LD_LIBRARY_PATH={_quote(path)}")
        sys.stderr.write(f"card: LD_LIBRARY_PATH without {', '.join(dropped)}: JAX has CUDA libraries of its own\n")
    sys.stdout.write("\n".join(lines) + "\n")
    in_force = " ".join(f"{name}={shlex.quote(value)}" for name, value in chosen.items())
    sys.stderr.write(f"card: {cards.title(card)}\ncard: {in_force}\n")


def _without_cuda(path: str) -> tuple[str, list[str]]:
    """LD_LIBRARY_PATH less the folders of CUDA libraries (the driver's own are none), and those folders."""
    folders = [folder for folder in path.split(":") if folder]
    libraries = ("libcudnn*.so*", "libcublas*.so*", "libcudart.so*", "libnccl.so*", "libcusolver.so*", "libcufft.so*")
    dropped = [folder for folder in folders if any(any(Path(folder).glob(library)) for library in libraries)]
    return ":".join(folder for folder in folders if folder not in dropped), dropped


def _quote(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    main()
