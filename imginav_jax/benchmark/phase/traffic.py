"""Compiles steps of R1, R2 and R3 for a card, and counts what they move through its memory; nothing is run."""

from collections.abc import Sequence

from imginav_jax.benchmark.phase import autoencoder_cost, phase
from imginav_jax.devices import cards, chips
from imginav_jax.runs.experiment import Experiment, RawConfig
from imginav_jax.system.progress import logger
from imginav_jax.traffic import count
from imginav_jax.traffic.table import Counted


def measure(config: RawConfig, card: str, names: Sequence[str], *, against_torch: bool = False) -> list[Counted]:
    """Compiles steps of traffic.steps.STEPS for a card of chips.CHIPS, in the card's own precision.

    `config` is one that `phase.experiments` takes.

    Raises:
      UserError: the config is unfit, or nothing compiles for cards; RunError: the compiler fails.
    """
    device = chips.device(card)
    precision = next(tuning.precision for tuning in cards.TUNINGS if tuning.chip == card)
    found = []
    for run, experiment in phase.experiments(autoencoder_cost.change(config, {"precision": precision})).items():
        for name in names:
            logger.info("Compiling %s of %s for %s ...", name, run, card)
            counted = Counted(run, name, experiment, count.count(experiment, name, device))
            found.append(counted._replace(torch=_torch(experiment, name)) if against_torch else counted)
    return found


def _torch(experiment: Experiment, name: str) -> int:
    from imginav_jax.traffic import eager  # PyTorch is asked for here alone

    return eager.count(experiment, name)
