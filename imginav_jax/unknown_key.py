"""What `--config.KEY` may be: ml_collections itself names at most a neighbour of an unknown key."""

import runpy
from collections.abc import Sequence

from ml_collections import ConfigDict


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
