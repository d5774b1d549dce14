"""The card that a job got, as settings for a shell: `eval "$(python -m imginav_jax.cards)"`.

`--check` instead looks whether the card computes what it should, and as fast: for the first job on a cluster.
"""

import os
import shlex
import sys
from pathlib import Path

from imginav_jax.devices import cards
from imginav_jax.system import command_line
from imginav_jax.system.command_line import Parser
from imginav_jax.system.errors import UserError


def main() -> None:
    parser = Parser("cards", "Show the card that this machine has, as settings for a shell.", "")
    parser.epilog = 'example: eval "$(python -m imginav_jax.cards)"'
    parser.add_argument("--check", action="store_true", help="check the card instead: a minute")
    if parser.parse_args().check:
        check()
    else:
        show_settings()


def check() -> None:
    """Prints a line for each check of the card, and ends with exit code 1 where one fails."""
    from imginav_jax.preflight import card_check  # it needs JAX, and nothing else here does

    with command_line.one_line_errors():
        for line in card_check.report(card_check.check(cards.find())):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def show_settings() -> None:
    """Prints lines for a shell on stdout, and what they are for on stderr."""
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
