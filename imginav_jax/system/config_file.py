"""What the commands with a `--config` share: flags by absl and ml_collections, every mistake in them one line."""

import difflib
import re
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from imginav_jax.system.command_line import misuse
from imginav_jax.system.errors import first_line
from imginav_jax.system.files import own_config

_HELP = re.compile(r"--?(help|helpfull|helpshort|h|\?)")
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_NEAREST = 3  # names that are offered in the place of an unknown one


def parse(config: flags.FlagHolder, argv: list[str], *, usage: str | None, example: str) -> list[str]:
    """Parses as absl does, and returns what is no flag; every mistake ends the program with a line and exit code 2.

    Overrides of the config may stand before the config's file.

    Args:
      config: the flag of the config file.
      argv: sys.argv.
      usage: what `--help` says above the flags.
      example: a command line that works.
    """
    if any(_HELP.fullmatch(word) for word in argv[1:]):
        sys.stdout.write(f"{(usage or '').strip()}\n\n{_describe()}\n\nexample: {example}\n")
        sys.exit(0)
    argv[:] = sys.argv[:] = _config_first([argv[0], *map(_with_hyphens, argv[1:])])
    argv[:] = sys.argv[:] = [_installed(word) for word in argv]
    if not _file(argv):
        misuse(f"--config is missing, the config file and experiment; for example: {example}")
    absl_logging.set_verbosity(absl_logging.ERROR)  # ml_collections warns of what is an error below
    try:
        rest = flags.FLAGS(argv)
        wrong = _wrong_field(config.value)  # a config file that cannot be read is noticed at the first access only
    except Exception as error:  # whatever a person's file does
        misuse(_explain_file(argv) or _explain_key(argv) or _message(error))
    if wrong:
        misuse(f"--config {_path(argv)} {wrong}")
    return rest


def _with_hyphens(word: str) -> str:
    """Returns the word with the name of a flag that is written with underscores as it is defined."""
    name = word.partition("=")[0]
    hyphenated = f"--{name[2:].replace('_', '-')}"
    return hyphenated + word[len(name) :] if name.startswith("--") and hyphenated[2:] in flags.FLAGS else word


def _describe() -> str:
    """Returns the flags of the command itself, a line each."""
    own = flags.FLAGS.flags_by_module_dict().get(sys.argv[0], [])
    return "\n".join(f"  --{flag.name}: {flag.help}" for flag in own)


def _config_first(argv: Sequence[str]) -> list[str]:
    """Returns the words in an order that ml_collections takes: `--config` before what overrides it."""
    program, *words = argv
    first, rest = [], []
    while words:
        word = words.pop(0)
        if re.fullmatch(r"--?config", word) and words:
            first += [word, words.pop(0)]
        elif re.match(r"--?config=", word):
            first.append(word)
        else:
            rest.append(word)
    return [program, *first, *rest]


def _installed(word: str) -> str:
    """Returns the word with the path of the package's own config where it names one that is not here."""
    found = re.fullmatch(r"((?:--?config=)?)(configs/(\w+\.py))(:.*)?", word)
    if found is None or Path(found[2]).exists() or not own_config(found[3]).exists():
        return word
    return f"{found[1]}{own_config(found[3])}{found[4] or ''}"


def _file(argv: Sequence[str]) -> str:
    """Returns what the last `--config` holds, "configs/phase1_2.py:R1"; empty where there is none."""
    found = ""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, is_given, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "config":
            found = value if is_given else following
    return found


def _path(argv: Sequence[str]) -> str:
    return _file(argv).partition(":")[0]


def _explain_file(argv: Sequence[str]) -> str | None:
    """Returns what is wrong with the config file itself, None where it makes a config."""
    path, _, argument = _file(argv).partition(":")
    if not path.endswith(".py"):
        return f"--config is {_file(argv)}, expected a file that ends in .py, and an experiment behind a colon"
    if not Path(path).is_file():
        return f"--config {path} does not exist"
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            return f"--config {path} has no function get_config"
        made = get_config(*filter(None, [argument]))
    except ValueError as error:
        return first_line(error)
    except Exception as error:  # whatever a person's file does
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        return f"--config {path} fails in line {line}: {type(error).__name__}: {first_line(error)}"
    if not isinstance(made, ConfigDict):
        return f"--config {path}: get_config returns {type(made).__name__}, expected a ConfigDict"
    return None


def _wrong_field(config: ConfigDict) -> str | None:
    """Returns which field of configs/phase1_2.py is missing or of another type, None where all are as there."""
    reference = runpy.run_path(str(own_config("phase1_2.py")))["get_config"]("R1")
    for key in _keys(reference):
        place, known = config, reference
        *groups, last = key.split(".")
        for group in groups:
            place, known = place.get(group), known[group]
            if not isinstance(place, ConfigDict):
                return f"has no group of fields {group}"
        if last not in place:
            return f"has no field {key}"
        value, expected = place[last], known.get_type(last)
        accepted = (int, float) if expected is float else expected
        is_bool = isinstance(value, bool) and expected is not bool
        if not ((isinstance(value, accepted) and not is_bool) or (value is None and known[last] is None)):
            return f"has {key} {value!r}, expected {expected.__name__}"
    return None


def _explain_key(argv: Sequence[str]) -> str | None:
    """Returns a line that names the first unknown config key and the nearest ones; None if all are known."""
    path, _, argument = _file(argv).partition(":")
    valid = _keys(runpy.run_path(path)["get_config"](*filter(None, [argument])))
    for word in argv:
        found = _OVERRIDE.match(word)
        key = found[1] if found else ""
        if key and not any(each == key or each.startswith(f"{key}.") for each in valid):
            nearest = _nearest(key, valid)
            hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
            return f'unknown config key "{key}"; {hint}All are listed in {path}'
    return None


def _nearest(key: str, valid: Sequence[str]) -> list[str]:
    """Returns the names most like it, whole or by their last part: `batchsize`, `learning_rate`."""
    found = difflib.get_close_matches(key, valid, n=_NEAREST)
    last = key.rpartition(".")[2]
    return list(dict.fromkeys([*found, *(each for each in valid if each.rpartition(".")[2] == last)]))[:_NEAREST]


def _message(error: BaseException) -> str:
    """ml_collections wraps an error of get_config in its whole traceback; the last line is the message."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].removeprefix("ValueError:").strip()


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]
    return keys
