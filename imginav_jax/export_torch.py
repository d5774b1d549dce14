"""Takes an autoencoder to the original's code: `python -m imginav_jax.export_torch WORKDIR --out FILE.pt`.

The same as `python -m imginav_jax.export --format torch`.
"""

from pathlib import Path

from imginav_jax.export.original import export_checkpoint
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.files import expand_user


def main() -> None:
    parser = Parser(
        "export_torch",
        "Write weights as a checkpoint of the original.",
        "experiments/phase1/phase1_2_AE_R1_ds3 --out AE_R1_jax.pt",
    )
    parser.add_argument("directory", type=Path, metavar="WORKDIR", help="of a run, or an imported checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.pt", help="the file to make")
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the best")
    arguments = parser.parse_args()
    with one_line_errors():
        exported = export_checkpoint(expand_user(arguments.directory), expand_user(arguments.out), arguments.step)
    print(f"{arguments.out}: the weights after step {exported.step:,}")


if __name__ == "__main__":
    main()
