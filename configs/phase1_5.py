"""Phase 1.5, the final training: 50 epochs of what Phases 1.2 and 1.3 have chosen, with a patience of 5.

    python -m imginav_jax.main --config=configs/phase1_5.py:AE --config.data.manifest=/path/to/layouts.csv

    AE    the winner of Phase 1.2, as WINNER of configs/phase1_3.py has it
    VAE   the same, variational, where Phase 1.3 has chosen that

    AE,cosine  the learning rate rises over the first 500 steps and falls to 0 along a cosine
    AE,ema     what is evaluated and kept is the average of the weights over about the last 1,000 steps
    AE,quick; AE,seed=7; AE,from_winner: as in configs/phase1_3.py

They go together, in any order.  The original's aim is a validation PSNR above 30 dB.
"""

import runpy
from typing import Any

from imginav_jax.system.files import current_config

EXPERIMENTS = ("AE", "VAE")
OPTIONS = ("cosine", "ema")
WARMUP_STEPS = {"full": 500, "quick": 20}
EMA_DECAY = {"full": 0.999, "quick": 0.99}


def get_config(argument: str = "AE") -> Any:
    """The config of "AE", "VAE,cosine,ema" and so on; ValueError says what there is."""
    experiment, *changes = argument.split(",")
    if experiment not in EXPERIMENTS:
        raise ValueError(f'unknown experiment "{experiment}"; valid ones are {", ".join(EXPERIMENTS)}')
    module = runpy.run_path(str(current_config("phase1_3.py")))
    phase1_3 = module["get_config"]
    module["require_known"](changes, (*module["PRESETS"], *OPTIONS))
    kind = "V1" if experiment == "AE" else "V2"
    inherited = [change for change in changes if change not in OPTIONS]
    config = phase1_3(",".join([kind, *inherited]))
    config.name = f"phase1_5_{experiment}_final" + config.name.removeprefix(phase1_3(kind).name)
    config.experiment = " ".join(["final", experiment, *(each for each in OPTIONS if each in changes)])
    config.phase_dir = "outputs/phase1_5_final_training"
    config.early_stopping.patience = 5
    size = "quick" if "quick" in changes else "full"
    if size == "full":
        config.num_epochs = 50
    if "cosine" in changes:
        config.optimizer.schedule, config.optimizer.warmup_steps = "cosine", WARMUP_STEPS[size]
        config.name += "_cosine"
    if "ema" in changes:
        config.ema_decay = EMA_DECAY[size]
        config.name += "_ema"
    if "from_winner" in changes:
        config.experiment += " from winner"
    return config
