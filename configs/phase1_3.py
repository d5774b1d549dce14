"""Phase 1.3, the VAE test: the autoencoder that Phase 1.2 has chosen, deterministic and variational.

    python -m imginav_jax.main --config=configs/phase1_3.py:V1 --config.data.manifest=/path/to/layouts.csv

    V1   deterministic
    V2   VAE light: a mean and a log-variance of each latent value, KL divergence from N(0, 1) with weight 0.0001

    V2,quick        on 128x128 synthetic layouts, as in configs/phase1_2.py
    V2,seed=7       another seed, under a name of its own
    V2,from_winner  from the winner's weights instead of fresh ones: its latent becomes the mean, and every log-variance
                    starts at -6, which is a standard deviation of 0.05

They go together, in any order.  All else is as in configs/phase1_2.py, and, full or quick as it was, with the settings
that the winner's run had otherwise: its manifest, say.  Until the report of Phase 1.2 has written WINNER, by
`--write-next-config configs/phase1_3.py`, it is the one that is expected, R1.
`python -m imginav_jax.report outputs/phase1_3_vae_test` decides between the two.
"""

import runpy
from typing import Any

from imginav_jax.system.files import own_config

WINNER = {
    "run": "R1",
    "chosen_by": "nobody yet: it is the one that is expected",
    "report_said": "",
    "evidence": "",
    "model": {
        "latent_channels": 16,
        "base_channels": 32,
        "downsampling_steps": 3,
        "shortcuts": False,
    },
    "preset": "full",
    "settings": {},
    "workdir": "",
    "step": 0,
    "sha256": "",
}

KL_WEIGHT = 1e-4
LOG_VARIANCE = -6.0  # at the start of a variational model that begins with deterministic weights

PRESETS = ("from_winner", "full", "quick")  # and seed=NUMBER
# What the report calls each, and the original's name of it.
EXPERIMENTS = {
    "V1": ("V1 deterministic", "phase1_3_AE_V1_deterministic"),
    "V2": ("V2 VAE", "phase1_3_AE_V2_vae_light"),
}


def get_config(argument: str = "V1") -> Any:
    """The config of "V1", "V2,quick", "V2,from_winner,seed=7" and so on; ValueError says what there is."""
    experiment, *changes = argument.split(",")
    if experiment not in EXPERIMENTS:
        raise ValueError(f'unknown experiment "{experiment}"; valid ones are {", ".join(EXPERIMENTS)}')
    require_known(changes, PRESETS)
    config = inherit([change for change in changes if change != "from_winner"], EXPERIMENTS[experiment][1])
    config.experiment = EXPERIMENTS[experiment][0]
    config.phase_dir = "outputs/phase1_3_vae_test"
    if experiment == "V2":
        config.model.variational = True
        config.loss.kl = KL_WEIGHT
    if "from_winner" in changes:
        start_from_winner(config)
    return config


def require_known(changes: list[str], presets: tuple[str, ...]) -> None:
    """Raises ValueError, which says what there is, where a change is none of these and no seed."""
    for change in changes:
        key, _, value = change.partition("=")
        if change not in presets and not (key == "seed" and value.isdecimal()):
            raise ValueError(f'unknown preset "{change}"; valid ones are {", ".join(presets)}, seed=NUMBER')


def inherit(changes: list[str], name: str) -> Any:
    """The config of Phase 1.2 with the winner's model and settings, under a name that says what is changed."""
    phase1_2 = runpy.run_path(str(own_config("phase1_2.py")))["get_config"]
    config = phase1_2(",".join(["R1", *changes]))
    config.name = name + config.name.removeprefix(phase1_2("R1").name)
    config.model.update(WINNER["model"])
    if WINNER["preset"] == ("quick" if "quick" in changes else "full"):
        config.update_from_flattened_dict(WINNER["settings"])
    return config


def start_from_winner(config: Any) -> None:
    """Changes a config so that the run starts from the very weights that have won."""
    if not WINNER["workdir"]:
        raise ValueError("from_winner needs a winner: the report has --write-next-config configs/phase1_3.py")
    config.experiment += " from winner"
    config.name += "_from_winner"
    config.init_from, config.init_step = WINNER["workdir"], WINNER["step"]
    config.init_sha256 = WINNER["sha256"]
    if config.model.variational:
        config.init_log_variance = LOG_VARIANCE
