"""Brings an autoencoder of the original along: `python -m imginav_jax.import_torch CHECKPOINT.pt --out DIR`."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from imginav_jax.devices import target
from imginav_jax.models import network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.pytorch import architecture, tensors, torch_pickle
from imginav_jax.runs import weights
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import check_is_new, expand_user


def import_checkpoint(path: Path, out: Path) -> AutoencoderConfig:
    """Reads a PyTorch checkpoint and writes `out`, which `autoencoder.load` and `--config.init_from` take.

    Raises:
      UserError: torch is missing, the file holds no autoencoder that can be brought along, or `out` exists.
    """
    check_is_new(out)
    target.require_devices()
    payload = _read(path)
    try:
        config = architecture.parse_config(payload["config"])
        params = tensors.to_params(config, _to_numpy(payload["state_dict"]))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    weights.save(out, config, params, {"file": str(path.absolute()), "epoch": _epoch(payload)})
    return config


def _read(path: Path) -> dict[str, Any]:
    """The file's dict; nothing in it can run code."""
    torch_pickle.require_torch()
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        with warnings.catch_warnings(action="ignore"):  # the error below says it better
            payload = torch_pickle.load(path)
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    for key in ("state_dict", "config"):
        if not isinstance(payload, dict) or not isinstance(payload.get(key), dict):
            raise UserError(f"{path} is not a checkpoint of the original: it has no dict {key!r}")
    return payload


def _to_numpy(state_dict: dict[str, Any]) -> dict[str, np.ndarray]:
    """As they are; what is no dense tensor of a NumPy dtype is named by an error."""
    arrays = {}
    for name, tensor in state_dict.items():
        try:
            arrays[str(name)] = tensor.detach().numpy()
        except (AttributeError, TypeError, RuntimeError):
            raise UserError(f"{name} is {getattr(tensor, 'dtype', type(tensor).__name__)}, expected float32") from None
    return arrays


def _epoch(payload: dict[str, Any]) -> int | None:
    epoch = payload.get("epoch")
    return epoch if isinstance(epoch, int) else None


def main() -> None:
    parser = Parser(
        "import_torch", "Make an imported checkpoint of one of the original.", "AE_checkpoint_best.pt --out imported/AE"
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pt", help="a dict with state_dict and config")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the directory to make")
    arguments = parser.parse_args()
    with one_line_errors():
        config = import_checkpoint(expand_user(arguments.checkpoint), expand_user(arguments.out))
    count = network.parameter_count(network.abstract_params(config))
    heads = ", ".join(head.name for head in config.heads) or "none"
    print(
        f"{arguments.out}: {count:,} parameters, {config.downsampling_steps} downsampling steps, "
        f"{config.latent_channels} latent channels, {config.base_channels} base channels, heads {heads}"
    )


if __name__ == "__main__":
    main()
