"""Brings an autoencoder of the original along: `python -m imginav_jax.import_torch CHECKPOINT.pt --out DIR`."""

from pathlib import Path

from imginav_jax.devices import target
from imginav_jax.models import network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.pytorch import architecture, checkpoint_file, config_file, state_dict, tensors
from imginav_jax.runs import weights
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import check_is_new, expand_user
from imginav_jax.system.progress import log_to_stdout, logger


def import_checkpoint(path: Path, out: Path, config_path: Path | None = None) -> AutoencoderConfig:
    """Reads weights of the original and writes `out`, which `autoencoder.load` and `--config.init_from` take.

    Args:
      path: a file of PyTorch or safetensors.
      out: the directory to make.
      config_path: the original's YAML, where the file does not hold its config.

    Raises:
      UserError: torch is missing, the file holds no autoencoder that can be brought along, its config is missing or
        another one than the YAML's, or `out` exists.
    """
    check_is_new(out)
    target.require_devices()
    given = None if config_path is None else config_file.read(config_path)
    content = checkpoint_file.read(path)
    try:
        own = None if content.config is None else architecture.parse_config(content.config)
        if own is not None and given is not None and config_path is not None:
            config_file.require_same(own, given, config_path)
        config = own or given
        if config is None:
            raise UserError("it has no dict 'config': give --config FILE.yaml, the original's of this model")
        params = tensors.to_params(config, state_dict.unwrap(content.tensors))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    weights.save(out, config, params, {"file": str(path.absolute()), "epoch": content.epoch})
    return config


def main() -> None:
    parser = Parser(
        "import_torch", "Make an imported checkpoint of one of the original.", "AE_checkpoint_best.pt --out imported/AE"
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="of PyTorch, or one that ends in .safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the directory to make")
    parser.add_argument(
        "--config", type=Path, metavar="FILE.yaml", help="the original's, for weights that do not hold their own"
    )
    arguments = parser.parse_args()
    log_to_stdout()
    out, given = expand_user(arguments.out), arguments.config and expand_user(arguments.config)
    with one_line_errors():
        config = import_checkpoint(expand_user(arguments.checkpoint), out, given)
    logger.info(
        "%s: %s parameters, %d downsampling steps, %d latent channels, %d base channels, %sheads %s",
        arguments.out,
        f"{network.parameter_count(network.abstract_params(config)):,}",
        config.downsampling_steps,
        config.latent_channels,
        config.base_channels,
        "variational, " if config.variational else "",
        ", ".join(head.name for head in config.heads) or "none",
    )


if __name__ == "__main__":
    main()
