"""Takes an autoencoder to the original's code: `python -m imginav_jax.export_torch WORKDIR --out FILE.pt`.

The file is what `Autoencoder.load_checkpoint` of ImgiNav reads: a dict with `state_dict` and `config`.
"""

import os
from pathlib import Path

from imginav_jax.pytorch import architecture, tensors
from imginav_jax.runs import weights
from imginav_jax.system import versions
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import check_is_new, expand_user


def export_checkpoint(directory: Path, out: Path, step: int | None = None) -> weights.Weights:
    """Writes the weights of a workdir or an imported checkpoint, by default the best ones, in one step.

    Raises:
      UserError: torch is missing, the directory holds no weights or a model that the original cannot have, or `out`
        exists or cannot be written.
    """
    check_is_new(out)
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch writes these files and is not installed: pip install torch") from None
    loaded = weights.load(directory, step)
    try:
        config = architecture.make_config(loaded.config)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    state_dict = tensors.from_params(loaded.config, loaded.params)
    payload = {
        "state_dict": {name: torch.from_numpy(tensor.copy()) for name, tensor in state_dict.items()},
        "config": config,
        "program": versions.stamp(),
    }
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(payload, file)
        temporary.rename(out)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{out} cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return loaded


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
