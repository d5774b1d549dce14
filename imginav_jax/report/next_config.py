"""The config of Phase 1.3, the VAE test: configs/phase1_3.py with the winner of Phase 1.2 in it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imginav_jax.report.decision.results import Report
from imginav_jax.runs import continuation, weights
from imginav_jax.runs.phase_folder import ComparedRun
from imginav_jax.system import files
from imginav_jax.system.errors import UserError

_WINNER = re.compile(r"^WINNER = \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)
# Settings of the winner's run that are not of its machine, nor of its model.
_INHERITED = (
    *("batch_size", "ema_decay"),
    *(f"data.{name}" for name in ("manifest", "root", "image_size", "synthetic_size", "validation_fraction", "seed")),
    *(f"loss.{name}" for name in ("mse", "segmentation", "classification")),
    *(f"optimizer.{name}" for name in ("learning_rate", "weight_decay", "schedule", "warmup_steps", "clip_norm")),
    *(f"early_stopping.{name}" for name in ("patience", "min_delta")),
)


def find_choice(report: Report) -> ComparedRun:
    """Returns the first seed of the run that goes on: the one that a person has named, or the report's winner.

    Raises:
      UserError: none has won, or Phase 1.3 cannot start from it.
    """
    chosen = report.winner()
    if chosen is None:
        raise UserError("no resolution has won; a person may choose a run by --winner RUN")
    require_start(chosen)
    return chosen


def require_start(run: ComparedRun) -> None:
    """Raises UserError where Phase 1.3 cannot start from a run."""
    origin = continuation.find_origin(run)
    if origin is not None and origin.file != "configs/phase1_2.py":
        raise UserError(
            f"{run.name} is of {origin.file}, expected a run of configs/phase1_2.py, where Phase 1.3 starts"
        )
    if run.trained.weights.config.variational:
        raise UserError(f"{run.name} is variational, expected a deterministic run, from which Phase 1.3 makes both")


def write(path: Path, chosen: ComparedRun, report: Report) -> None:
    """Writes the config, replacing the file in one step; UserError where it cannot be written."""
    winner = {
        "run": chosen.experiment,
        "chosen_by": "a person" if report.chosen else "the report",
        "report_said": report.first_decision.sentence,
        "evidence": report.describe_evidence(),
        **_describe(chosen),
    }
    template = files.own_config("phase1_3.py").read_text()
    block = f"WINNER = {{\n{''.join(_lines(winner))}}}\n"
    text, count = _WINNER.subn(lambda _: block, template)
    if count != 1:
        raise UserError(
            f"{files.own_config('phase1_3.py')} has {count} times WINNER = {{...}}, expected one to replace"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"--write-next-config {path} cannot be written: {error.strerror}") from None


def _describe(chosen: ComparedRun) -> dict[str, Any]:
    """The architecture, the settings in which its run differed from its config, and the weights that were compared."""
    trained = chosen.trained
    config = trained.weights.config
    fields = ("latent_channels", "base_channels", "downsampling_steps", "shortcuts")
    settings = {key: value for key, value in continuation.changed_settings(chosen).items() if key in _INHERITED}
    if settings.get("data.root") is not None:
        settings["data.root"] = str(Path(settings["data.root"]).absolute())
    origin = continuation.find_origin(chosen)
    is_quick = origin is not None and "quick" in origin.argument.split(",")
    return {
        "model": {name: getattr(config, name) for name in fields},
        "preset": "quick" if is_quick else "full",
        "settings": settings,
        "workdir": str(trained.directory.absolute()),
        "step": trained.weights.step,
        "sha256": weights.digest(trained.weights),
    }


def _lines(values: Mapping[str, Any], indent: str = "    ") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{json.dumps(key)}: {{\n"
            yield from _lines(value, f"{indent}    ")
            yield f"{indent}}},\n"
        else:
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
            yield f"{indent}{json.dumps(key)}: {text},\n"
