"""What the commands with a `--config` share: every mistake in the flags is one clear line."""

import runpy
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict


def parse_flags(config: flags.FlagHolder, argv: list[str]) -> list[str]:
    """absl's parser, but every mistake is a line or two on stderr instead of a traceback.

    `config` is the flag of the config file.
    """
    try:
        rest = flags.FLAGS(argv)
        _ = config.value.name  # a config file that cannot be read is noticed at the first access only
        return rest
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        # ml_collections wraps an error of get_config in its whole traceback; the last line is the message.
        message = str(error).strip().splitlines()[-1].removeprefix("ValueError:").strip()
        sys.exit(f"error: {explain(argv) or message}")


def explain(argv: Sequence[str]) -> str | None:
    """A line that names the first unknown config key and lists the valid ones; None if there is none to blame."""
    names_and_values = [argument.lstrip("-").partition("=")[::2] for argument in argv]
    following = [*argv[1:], ""]  # of `--config FILE`
    files = [
        value or after for (name, value), after in zip(names_and_values, following, strict=True) if name == "config"
    ]
    path, _, experiment = (files or [""])[-1].partition(":")
    if not path.endswith(".py"):
        return None
    try:
        valid = _keys(runpy.run_path(path)["get_config"](*filter(None, [experiment])))
    except (OSError, ValueError, KeyError, SyntaxError):
        return None
    for key in (name.removeprefix("config.") for name, _ in names_and_values if name.startswith("config.")):
        if not any(each == key or each.startswith(f"{key}.") for each in valid):
            return f'unknown config key "{key}"; valid ones are {", ".join(valid)}'
    return None


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]
    return keys
