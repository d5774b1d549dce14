"""What a run was started by: the config and argument, what was changed in it, and the command that trains it on."""

import runpy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from imginav_jax.runs import outputs
from imginav_jax.runs.phase_folder import ComparedRun
from imginav_jax.system.files import current_config

_CONFIGS = ("phase1_2", "phase1_3", "phase1_5")
_EPOCHS = "num_epochs"
# By what stands in the experiment.
_PRESETS = {"shortcuts": "shortcuts", "cosine": "cosine", "ema": "ema", "from winner": "from_winner"}


class Origin(NamedTuple):
    """What stands around the colon of --config, and the config that it makes."""

    file: str  # configs/phase1_2.py, say
    argument: str
    config: Any


def command(run: ComparedRun, num_epochs: int) -> str:
    """Returns what a person types to train a run until it has so many epochs.

    Empty where no config of ours made it, and where its learning rate has come to its end with its epochs.
    """
    exp, origin = run.trained.experiment, find_origin(run)
    if exp is None or origin is None or exp.config.optimizer.schedule == "cosine":
        return ""
    options = [f"--config.{key}={value}" for key, value in changed_settings(run).items() if key != _EPOCHS]
    if (outputs.DEFAULT_WORKDIRS / run.name).absolute() != run.trained.directory.absolute():
        options.append(f"--workdir={run.trained.directory}")
    words = ["python", "-m", "imginav_jax.main", f"--config={origin.file}:{origin.argument}", *options]
    return shlex.join([*words, f"--config.{_EPOCHS}={num_epochs}"])


def changed_settings(run: ComparedRun) -> dict[str, Any]:
    """Returns what a run had otherwise than its config, by dotted key; nothing where no config of ours made it."""
    origin, exp = find_origin(run), run.trained.experiment
    if origin is None or exp is None:
        return {}
    changed = dict(_differences(origin.config.to_dict(), exp.description))
    if "data.manifest" in changed:
        changed["data.manifest"] = run.trained.data["manifest"]  # absolute, whatever folder the run was started in
    return changed


def find_origin(run: ComparedRun) -> Origin | None:
    """Returns the config and argument whose experiment a run is, whatever was changed; None where it is of none."""
    exp = run.trained.experiment
    if exp is None:
        return None
    experiment, name = str(exp.description.get("experiment", "")), str(exp.description.get("name", ""))
    changes = [preset for words, preset in _PRESETS.items() if f" {words}" in experiment]
    changes += ["quick"] if "_quick" in name else []
    changes += [f"seed={exp.description['seed']}"] if "_seed" in name else []
    argument = ",".join([experiment.removeprefix("final ").split(" ")[0], *changes])  # of "final VAE", of "V2 VAE"
    for file in _CONFIGS:
        try:
            config = runpy.run_path(str(current_config(f"{file}.py")))["get_config"](argument)
        except Exception:  # whatever a person, or an earlier version, has written there
            continue
        if config.experiment == experiment:
            return Origin(f"configs/{file}.py", argument, config)
    return None


def _differences(usual: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and values of what a run had otherwise; what only one of the two has is of another version."""
    for key, value in found.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            yield from _differences(usual[key], value, f"{prefix}{key}.")
        elif key in usual and usual[key] != value:
            yield f"{prefix}{key}", value
