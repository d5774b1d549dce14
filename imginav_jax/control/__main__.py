"""What a ControlNet can do on each latent: `python -m imginav_jax.control outputs/phase1_2_spatial_resolution`.

The same small diffusion model and ControlNet are trained on the latents of every run, and what they draw is compared
with what they were told to draw.  The same command goes on where it was cut off.
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

from imginav_jax.control.settings import CONDITIONS, PARTS, PLANNED_SEEDS, QUICK, Settings
from imginav_jax.system.command_line import Parser, one_line_errors, positive
from imginav_jax.system.errors import OptionError
from imginav_jax.system.files import expand_user
from imginav_jax.system.progress import log_to_stdout
from imginav_jax.system.signals import Interrupted, Stop

_STOP = Stop()
_NUMBERS = {
    "unet_steps": "of training, for every latent",
    "controlnet_steps": "likewise",
    "batch_size": "layouts a step, over all devices",
    "seeds": "trainings a latent",
    "held_out": "layouts of the validation split that are drawn, at most",
}
_PRECISIONS = ("float32", "bfloat16", "float16")


def main() -> None:
    parser = Parser(
        "control",
        "Train a small diffusion model and ControlNet on every run's latents, and judge what they draw.",
        "outputs/phase1_2_spatial_resolution --quick",
    )
    parser.add_argument("paths", type=Path, nargs="*", metavar="DIR", help="a phase folder, or workdirs")
    parser.add_argument("--plan", action="store_true", help="show what the real experiment's runs would take with "
                        f"{PLANNED_SEEDS} seeds, and train nothing")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="JSON", help="default: control_{device}_{precision}.json in the "
                        "phase folder")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="minutes on two cores, for runs of 128x128 pixels")
    parser.add_argument("--condition", choices=CONDITIONS, help="what is demanded; default: walls")
    for name, what in _NUMBERS.items():
        usual = f"default: {getattr(Settings, name)}, quick {getattr(QUICK, name)}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, metavar="N", help=f"{what}; {usual}")
    parser.add_argument("--shift", type=float, help="of the noise times, 1 for none; default: by the latent's size")
    parser.add_argument("--only", choices=PARTS, help="what the diffusion model draws, or how much noise the latents "
                        "bear, for which nothing is trained")  # fmt: skip
    parser.add_argument("--precision", choices=_PRECISIONS, help="default: the card's; float32 on CPUs")
    arguments = parser.parse_args()
    log_to_stdout()
    with one_line_errors("the same command goes on from here"):
        _measure(arguments)


def _measure(arguments: argparse.Namespace) -> None:
    # Imported here: a mistake in the options is answered at once, and the processes that count start light.
    from imginav_jax.control import command

    if arguments.shift is not None and not 0 < arguments.shift < math.inf:
        raise OptionError(f"--shift is {arguments.shift}, expected a number above 0")
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    changed = {field.name: given[field.name] for field in dataclasses.fields(Settings) if field.name in given}
    settings = dataclasses.replace(QUICK if arguments.quick else Settings(), **changed)
    if arguments.plan:
        command.show_plan(dataclasses.replace(settings, seeds=arguments.seeds or PLANNED_SEEDS))
        return
    if not arguments.paths:
        raise OptionError("a phase folder or workdirs are missing")
    out = arguments.out and expand_user(arguments.out)
    command.run([expand_user(path) for path in arguments.paths], out, settings, arguments.only, _STOP)


if __name__ == "__main__":
    _STOP.listen()
    try:
        main()
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    finally:
        _STOP.ignore()
