"""What the experiment costs on this machine: `python -m imginav_jax.benchmark --phase --config=configs/phase1_2.py:R1`.

With `--phase` the autoencoders of R1, R2 and R3 are measured, and for each latent that may be chosen a training step of
a small latent-diffusion model and of a ControlNet on it.  Any field of the config is overridden as in imginav_jax.main.
"""

import functools
import json
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from imginav_jax import command_line
from imginav_jax.errors import RunError
from imginav_jax.new_directory import make_writable
from imginav_jax.progress import log_to_stdout, logger

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and experiment, configs/phase1_2.py:R1")
_PHASE = flags.DEFINE_bool("phase", False, "Measure all that Phase 1.2 compares")
_OUT = flags.DEFINE_string("out", None, "Folder of the JSON file; default: the config's phase_dir")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Samples of every time; the median and the quartiles count", 1)
_JSON = flags.DEFINE_bool("json", False, "Print the results as JSON too, on the last line")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        options = "--phase, --config, --config.KEY=VALUE, --out, --rounds and --json"
        sys.exit(f"error: unknown argument {argv[1]}; options are {options}")
    if not _PHASE.value:
        sys.exit("error: what to measure is not said; give --phase")
    log_to_stdout()
    try:
        measure_phase()
    except RunError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was written")


def measure_phase() -> None:
    """Measures, writes the file, and shows what is in it.

    Raises:
      UserError: the config or the folder cannot be used.
      RunError: the device has not enough memory.
    """
    # Imported here: a mistake in the flags is answered at once.
    import jax

    from imginav_jax.benchmark import phase, results, table

    phase.experiments(_CONFIG.value)  # before a folder is made
    option, name = ("config.phase_dir", _CONFIG.value.phase_dir) if _OUT.value is None else ("--out", _OUT.value)
    out = Path(name).expanduser()
    make_writable(out, option)
    try:
        found = phase.measure(_CONFIG.value, _ROUNDS.value)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError("the device's memory is too small; give a smaller --config.batch_size") from None
    path = results.save(out, found)
    sys.stdout.write(f"\n{table.render(found)}\n")
    logger.info("Results      %s", path)
    if _JSON.value:
        sys.stdout.write(json.dumps(found.dump()) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(command_line.parse_flags, _CONFIG))
