"""What the experiment costs on this machine: `python -m imginav_jax.benchmark --config=configs/phase1_2.py:R1`.

Without a mode the config's training step, evaluation step, encoding and decoding are measured, with `--only` one of
them, or what is around them: input, start-up, preparation of layouts, an epoch's overhead.
`--against-torch` takes turns with PyTorch, `--scaling` with other batch and image sizes.  These leave no file.

With `--phase` the autoencoders of R1, R2 and R3 are measured, and for each latent that may be chosen a training step of
a small latent-diffusion model and of a ControlNet on it.  With `--memory` instead the training steps of R1, R2 and R3
are compiled for several batch sizes, with remat and without, and a Markdown table shows what they need and which card
has that much; nothing is timed and nothing written.  With `--card` they are compiled for a card that need not be here.
With `--traffic --card=L40S` the same runs' steps are compiled for the card, and tables show what they move through its
memory, the least that they must, and the time that follows; `--only` names one of them, unet_step and controlnet_step
too, `--against-torch` sets PyTorch's bytes beside it.
Any field of the config is overridden as in imginav_jax.main.
"""

import dataclasses
import functools
import json
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from imginav_jax.benchmark import parts
from imginav_jax.devices import cards
from imginav_jax.system import command_line, config_file
from imginav_jax.system.files import expand_user, make_writable
from imginav_jax.system.progress import log_to_stdout, logger

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and experiment, configs/phase1_2.py:R1")
_ONLY = flags.DEFINE_enum("only", None, [*parts.PARTS, *parts.TRAFFIC_ONLY], "Measure this part alone")
_AGAINST_TORCH = flags.DEFINE_bool("against-torch", False, "Take turns with the same model in PyTorch")
_SCALING = flags.DEFINE_bool("scaling", False, "Measure the training step with other batch and image sizes")
_PHASE = flags.DEFINE_bool("phase", False, "Measure all that Phase 1.2 compares")
_MEMORY = flags.DEFINE_bool("memory", False, "Print a table of the memory that training needs, by batch size")
_TRAFFIC = flags.DEFINE_bool("traffic", False, "Print tables of the bytes that a card's programs move; needs --card")
_CARD = flags.DEFINE_enum("card", None, cards.CHIPS, "Compile --memory or --traffic for this card")
_OUT = flags.DEFINE_string("out", None, "Folder of the JSON file of --phase; default: the config's phase_dir")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Samples of every time; the median and the quartiles count", 1)
_JSON = flags.DEFINE_bool("json", False, "Print the results as JSON too, on the last line")

_EXAMPLE = "python -m imginav_jax.benchmark --config=configs/phase1_2.py:R1,quick --only=train_step"
_MODES = {
    "--only": _ONLY,
    "--against-torch": _AGAINST_TORCH,
    "--scaling": _SCALING,
    "--phase": _PHASE,
    "--memory": _MEMORY,
}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        options = f"--config, --config.KEY=VALUE, {', '.join(_MODES)}, --card, --out, --rounds and --json"
        command_line.misuse(f"unknown argument {argv[1]}; options are {options}")
    given = [name for name, flag in _MODES.items() if flag.value]
    if _TRAFFIC.value:
        given = ["--traffic", *(name for name in given if name not in ("--only", "--against-torch"))]
    if len(given) > 1:
        command_line.misuse(f"{' and '.join(given)} exclude each other; give one of them")
    if _OUT.value is not None and not _PHASE.value:
        command_line.misuse("--out is of --phase alone; nothing else writes a file")
    if _CARD.value is not None and not _MEMORY.value and not _TRAFFIC.value:
        command_line.misuse("--card is of --memory and --traffic alone; everything else measures the device at hand")
    if _TRAFFIC.value and _CARD.value is None:
        command_line.misuse(f"--traffic needs --card, one of {', '.join(cards.CHIPS)}")
    if (part := _ONLY.value) and (part in parts.TRAFFIC_ONLY) > _TRAFFIC.value:
        command_line.misuse(f"--only={part} is of --traffic alone")
    if part and _TRAFFIC.value and part not in parts.TRAFFIC:
        command_line.misuse(f"--only={part} has no traffic; expected one of {', '.join(parts.TRAFFIC)}")
    log_to_stdout()
    modes = {"--phase": measure_phase, "--memory": measure_memory, "--traffic": measure_traffic}
    with command_line.one_line_errors():
        modes.get("".join(given), measure_experiment)()


def measure_experiment() -> None:
    """Measures the one experiment of the config, and shows what was found; raises what `parts` says."""
    measure = parts.PARTS[_ONLY.value] if _ONLY.value else parts.measure_steps
    if _SCALING.value:
        measure = parts.measure_scaling
    if _AGAINST_TORCH.value:
        measure = parts.measure_against_torch
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch needs its share of the card

    # Imported here: a mistake in the flags is answered at once.
    from imginav_jax.benchmark import table, timing
    from imginav_jax.devices import target
    from imginav_jax.devices.mesh import explain_out_of_memory

    target.require_devices()
    config, rounds = _CONFIG.value, _ROUNDS.value
    with explain_out_of_memory():
        found = measure(config, rounds)
    conditions = timing.current_conditions(config, rounds)
    sys.stdout.write(f"\n{config.get('experiment', '')}  {table.heading(conditions)}\n\n{found.table}\n")
    if _JSON.value:
        values = {"experiment": config.get("experiment"), **dataclasses.asdict(conditions), **found.values}
        sys.stdout.write(json.dumps(values) + "\n")


def measure_phase() -> None:
    """Measures, writes the file and shows what is in it; raises what `parts` says, and UserError of the folder."""
    from imginav_jax.benchmark import table
    from imginav_jax.benchmark.phase import phase
    from imginav_jax.devices import target
    from imginav_jax.devices.mesh import explain_out_of_memory
    from imginav_jax.runs.results import benchmark_file

    target.require_devices()
    phase.experiments(_CONFIG.value)  # before a folder is made
    option, name = ("config.phase_dir", _CONFIG.value.phase_dir) if _OUT.value is None else ("--out", _OUT.value)
    out = expand_user(name)
    make_writable(out, option)
    with explain_out_of_memory():
        found = phase.measure(_CONFIG.value, _ROUNDS.value)
    path = benchmark_file.save(out, found)
    sys.stdout.write(f"\n{table.render(found)}\n")
    logger.info("Results      %s", path)
    if _JSON.value:
        sys.stdout.write(json.dumps(found.dump()) + "\n")


def measure_memory() -> None:
    """Compiles and prints the table; UserError of the config, or where nothing compiles for cards."""
    if _CARD.value is not None:
        cards.prepare_to_compile()
    from imginav_jax.benchmark.phase import memory

    scope = memory.this_device() if _CARD.value is None else memory.card(_CARD.value)
    needs = memory.measure(_CONFIG.value, scope)
    sys.stdout.write(f"\n{memory.render(_CONFIG.value, scope, needs)}")


def measure_traffic() -> None:
    """Compiles and prints the tables; UserError of the config, or where nothing compiles for cards."""
    cards.prepare_to_compile()
    from imginav_jax.benchmark.phase import traffic
    from imginav_jax.traffic import table

    card: str = _CARD.value or ""
    names = [_ONLY.value] if _ONLY.value else parts.TRAFFIC[:1] if _AGAINST_TORCH.value else parts.TRAFFIC[:4]
    found = traffic.measure(_CONFIG.value, card, names, against_torch=_AGAINST_TORCH.value)
    sys.stdout.write(f"\n{table.render(card, found)}\n")
    if _JSON.value:
        sys.stdout.write(json.dumps(table.values(card, found)) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(config_file.parse, _CONFIG, usage=__doc__, example=_EXAMPLE))
