"""The front door: `python -m imginav_jax` lists every command, `python -m imginav_jax train --config=...` runs one."""

import runpy
import sys

from imginav_jax.system.errors import UserError
from imginav_jax.system.process import start

_EXAMPLES = """\
  {program} train --config=configs/phase1_2.py:R1,quick
  {program} report outputs/phase1_2_spatial_resolution
  {program} encode experiments/phase1/phase1_2_AE_R1_ds3 --out latents/R1
"""


def main() -> None:
    start.prepare()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(_help())
    elif name in ("-V", "--version"):
        sys.stdout.write(_version())
    else:
        _run(name, arguments)


def _run(name: str, arguments: list[str]) -> None:
    try:
        command = start.find(name)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.argv[1:] = arguments
    runpy.run_module(f"imginav_jax.{command.module}", run_name="__main__", alter_sys=True)


def _help() -> str:
    program = "imginav-jax" if sys.argv[0].endswith("imginav-jax") else "python -m imginav_jax"
    width = max(map(len, start.COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in start.COMMANDS.items()]
    return (
        f"Which latent resolution should a floor-plan autoencoder have?\n\nusage: {program} COMMAND ...\n\n"
        + "\n".join(lines)
        + f"\n\n{program} COMMAND --help shows its options, {program} --version the versions.\n\n"
        + _EXAMPLES.format(program=program)
    )


def _version() -> str:
    import jax

    from imginav_jax.devices import target
    from imginav_jax.system import versions

    try:
        target.require_devices()
        devices = ", ".join(f"{device.device_kind} ({device.platform})" for device in jax.local_devices())
    except UserError as error:
        devices = str(error)
    return "".join(f"{name} {value}\n" for name, value in {**versions.stamp(), "devices": devices}.items() if value)


if __name__ == "__main__":
    main()
