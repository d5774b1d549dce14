"""What all commands share: how options are written, what a mistake in them gets, and how an error ends the program."""

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from imginav_jax.system.errors import OptionError, RunError


class Parser(argparse.ArgumentParser):
    """argparse's parser, for which a mistake is one line and exit code 2.

    Options are written with hyphens, `--image-size`; underscores are accepted in their place.
    """

    def __init__(self, module: str, description: str, example: str) -> None:
        """Makes the parser of `python -m imginav_jax.{module}`; `example` is what a person may type behind it."""
        program = f"python -m imginav_jax.{module}"
        super().__init__(
            prog=program,
            description=description,
            epilog=f"example: {program} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_args([_with_hyphens(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        misuse(f"{message} (`{self.prog} --help` shows an example)")


def misuse(message: str) -> NoReturn:
    """Ends the program with a line that names the option and what was expected, and exit code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)


def positive(text: str) -> int:
    """Reads a whole number of an option, 1 or more, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


@contextlib.contextmanager
def one_line_errors(interrupted: str = "nothing was written", also: type[Exception] = RunError) -> Iterator[None]:
    """Turns what a command cannot use or do into one line on stderr and exit code 1, or 2 for an option's value.

    Args:
      interrupted: said of what Ctrl-C leaves.
      also: errors of this kind too, which are mistakes of the user in this command alone.
    """
    try:
        yield
    except OptionError as error:
        misuse(str(error))
    except (RunError, also) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"error: interrupted; {interrupted}")


def _with_hyphens(word: str) -> str:
    found = re.match(r"--[A-Za-z][\w-]*", word)
    return word if found is None else found[0].replace("_", "-") + word[found.end() :]
