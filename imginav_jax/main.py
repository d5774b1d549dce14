"""Trains one experiment: `python -m imginav_jax.main --config=configs/phase1_2.py:R1`.

The same command goes on where the run was cut off.  --config.KEY=VALUE overrides any field of the config, as
--config.batch_size=8 or --config.data.manifest=layouts.csv.
"""

import functools
import logging
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from imginav_jax.runs import outputs
from imginav_jax.system import command_line, config_file
from imginav_jax.system.errors import RunError
from imginav_jax.system.log_file import LogFile
from imginav_jax.system.ownership import Ownership
from imginav_jax.system.process import environment
from imginav_jax.system.progress import log_to_stdout, logger
from imginav_jax.system.signals import Interrupted, Stop

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and experiment, configs/phase1_2.py:R1")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run writes; default experiments/phase1/{name}")
_STOP = Stop()
_EXAMPLE = "python -m imginav_jax.main --config=configs/phase1_2.py:R1,quick --config.seed=7"
parse_flags = functools.partial(config_file.parse, _CONFIG, usage=__doc__, example=_EXAMPLE)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        command_line.misuse(f"unknown argument {argv[1]}; options are --config, --workdir and --config.KEY=VALUE")
    log_to_stdout()
    with command_line.one_line_errors():
        # Before anything slow is imported, so that a second start of a run ends at once.
        found = outputs.locate(_CONFIG.value, _WORKDIR.value)
        if os.environ.get("IMGINAV_PROCESS") not in (None, "", "0"):  # one process of a run is enough
            _train(None, ())
            return
        with found.own() as owned, LogFile(found.log) as log:
            _train(log, owned)


def _train(log: LogFile | None, owned: tuple[Ownership, ...]) -> None:
    # Imported here: a mistake in the flags is answered at once, and workers of the input pipeline start light.
    from imginav_jax.devices import compilation_cache, distributed, target
    from imginav_jax.training import train

    try:
        distributed.initialize(_STOP)
        target.require_devices()
        if not distributed.is_primary():
            logger.setLevel(logging.WARNING)
        if environment.overruled():
            logger.info("%-12s %s: set, and of no effect here", "Environment", ", ".join(environment.overruled()))
        compilation_cache.enable()
        train.train(_CONFIG.value, _WORKDIR.value, _STOP, log, owned)
    except RunError:
        distributed.leave()
        raise


if __name__ == "__main__":
    _STOP.listen()
    try:
        app.run(main, flags_parser=parse_flags)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    finally:
        _STOP.ignore()
