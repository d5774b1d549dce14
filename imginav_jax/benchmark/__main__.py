"""What the experiment costs on this machine: `python -m imginav_jax.benchmark --phase --config=configs/phase1_2.py:R1`.

With `--phase` the autoencoders of R1, R2 and R3 are measured, and for each latent that may be chosen a training step of
a small latent-diffusion model and of a ControlNet on it.  With `--memory` instead the training steps of R1, R2 and R3
are compiled for several batch sizes, with remat and without, and a Markdown table shows what they need and which card
has that much; nothing is timed and nothing written.  With `--card` they are compiled for a card that need not be here.
Any field of the config is overridden as in imginav_jax.main.
"""

import functools
import json
import os
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from imginav_jax import cards, command_line
from imginav_jax.errors import RunError
from imginav_jax.new_directory import make_writable
from imginav_jax.progress import log_to_stdout, logger

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and experiment, configs/phase1_2.py:R1")
_PHASE = flags.DEFINE_bool("phase", False, "Measure all that Phase 1.2 compares")
_MEMORY = flags.DEFINE_bool("memory", False, "Print a table of the memory that training needs, by batch size")
_CARD = flags.DEFINE_enum("card", None, cards.CHIPS, "Compile for this card; default: the device at hand")
_OUT = flags.DEFINE_string("out", None, "Folder of the JSON file; default: the config's phase_dir")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Samples of every time; the median and the quartiles count", 1)
_JSON = flags.DEFINE_bool("json", False, "Print the results as JSON too, on the last line")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        options = "--phase, --memory, --card, --config, --config.KEY=VALUE, --out, --rounds and --json"
        sys.exit(f"error: unknown argument {argv[1]}; options are {options}")
    if _PHASE.value == _MEMORY.value:
        sys.exit("error: what to measure is not said; give --phase or --memory, one of them")
    if _CARD.value is not None and _PHASE.value:
        sys.exit("error: --card is for --memory; --phase measures the device at hand")
    log_to_stdout()
    try:
        measure_phase() if _PHASE.value else measure_memory()
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
    from imginav_jax.benchmark import phase, results, table
    from imginav_jax.compiled import explain_out_of_memory

    phase.experiments(_CONFIG.value)  # before a folder is made
    option, name = ("config.phase_dir", _CONFIG.value.phase_dir) if _OUT.value is None else ("--out", _OUT.value)
    out = Path(name).expanduser()
    make_writable(out, option)
    with explain_out_of_memory():
        found = phase.measure(_CONFIG.value, _ROUNDS.value)
    path = results.save(out, found)
    sys.stdout.write(f"\n{table.render(found)}\n")
    logger.info("Results      %s", path)
    if _JSON.value:
        sys.stdout.write(json.dumps(found.dump()) + "\n")


def measure_memory() -> None:
    """Compiles, and prints the table.

    Raises:
      UserError: the config cannot be used, or what compiles for cards is not installed.
    """
    if _CARD.value is not None:
        # JAX reads these when it is imported: it must not look for a card, nor for the assembler of another CUDA.
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ.pop("CUDA_ROOT", None)
    from imginav_jax.benchmark import memory

    target = memory.this_device() if _CARD.value is None else memory.card(_CARD.value)
    needs = memory.measure(_CONFIG.value, target)
    sys.stdout.write(f"\n{memory.render(_CONFIG.value, target, needs)}")


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(command_line.parse_flags, _CONFIG))
