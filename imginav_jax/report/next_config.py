"""The starting config of Phase 1.3, the VAE test: the winner's architecture and its weights."""

import json
import textwrap
from pathlib import Path

from imginav_jax.report.decision.rule import Decision
from imginav_jax.runs import weights
from imginav_jax.runs.phase_folder import ComparedRun
from imginav_jax.system import files
from imginav_jax.system.errors import UserError

_TEMPLATE = '''"""Phase 1.3, the VAE test: it starts from the autoencoder that Phase 1.2 has chosen, {name}.

Written by `python -m imginav_jax.report --write-next-config`:

{sentence}

That is {status}. Evidence: {evidence}.
"""

from typing import Any

from ml_collections import config_dict


def get_config() -> Any:
    config: Any = config_dict.ConfigDict()
    config.name = "phase1_3_VAE"
    config.seed = {seed}

    config.model = config_dict.ConfigDict()
    config.model.latent_channels = {latent_channels}
    config.model.base_channels = {base_channels}
    config.model.downsampling_steps = {downsampling_steps}
    config.model.shortcuts = {shortcuts}

    # The workdir that has won, the checkpoint of its best weights, and the SHA-256 of these.
    config.init_from = {directory}
    config.init_checkpoint = {checkpoint}
    config.init_sha256 = "{digest}"
    return config
'''


def write(path: Path, winner: ComparedRun, decision: Decision, evidence: str) -> None:
    """Writes the config, replacing the file in one step; UserError where it cannot be written."""
    trained = winner.trained
    config = trained.weights.config
    text = _TEMPLATE.format(
        name=winner.name,
        sentence=textwrap.fill(decision.sentence, 119),
        status=decision.status,
        evidence=evidence,
        seed=winner.seed,
        latent_channels=config.latent_channels,
        base_channels=config.base_channels,
        downsampling_steps=config.downsampling_steps,
        shortcuts=config.shortcuts,
        directory=json.dumps(str(trained.directory.absolute())),
        checkpoint=json.dumps(str(weights.step_folder(trained.directory.absolute(), trained.weights.step))),
        digest=weights.digest(trained.weights),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"--write-next-config {path} cannot be written: {error.strerror}") from None
