"""The command that trains a run on."""

import runpy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from imginav_jax.runs import outputs
from imginav_jax.runs.phase_folder import ComparedRun
from imginav_jax.system.files import own_config

_FILE = "configs/phase1_2.py"
_EPOCHS = "num_epochs"


def command(run: ComparedRun, num_epochs: int) -> str:
    """Returns what a person types to train a run until it has so many epochs; empty where no config of ours made it."""
    exp = run.trained.experiment
    if exp is None or (argument := _find_argument(exp.description)) is None:
        return ""
    usual = _get_config(argument)
    changed = dict(_differences(usual.to_dict(), exp.description))
    if "data.manifest" in changed:
        changed["data.manifest"] = run.trained.data["manifest"]  # absolute, whatever folder the run was started in
    options = [f"--config.{key}={value}" for key, value in changed.items() if key != _EPOCHS]
    if (outputs.DEFAULT_WORKDIRS / run.name).absolute() != run.trained.directory.absolute():
        options.append(f"--workdir={run.trained.directory}")
    words = ["python", "-m", "imginav_jax.main", f"--config={_FILE}:{argument}", *options]
    return shlex.join([*words, f"--config.{_EPOCHS}={num_epochs}"])


def _find_argument(description: Mapping[str, Any]) -> str | None:
    """Returns what stands behind the config's colon; None where the experiment or its name is not of our config."""
    experiment, *changes = str(description.get("experiment", "")).split(" ")
    name = str(description.get("name", ""))
    changes += ["quick"] if "_quick" in name else []
    changes += [f"seed={description['seed']}"] if "_seed" in name else []
    argument = ",".join([experiment, *changes])
    try:
        return argument if _get_config(argument).name == name else None
    except ValueError:
        return None


def _get_config(argument: str) -> Any:
    return runpy.run_path(str(own_config("phase1_2.py")))["get_config"](argument)


def _differences(usual: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and values of what a run had otherwise; what only one of the two has is of another version."""
    for key, value in found.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            yield from _differences(usual[key], value, f"{prefix}{key}.")
        elif key in usual and usual[key] != value:
            yield f"{prefix}{key}", value
