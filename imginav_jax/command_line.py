"""What the commands with a `--config` share: every mistake in the flags is one clear line."""

import sys

from absl import flags

from imginav_jax import unknown_key


def parse_flags(config: flags.FlagHolder, argv: list[str]) -> list[str]:
    """absl's parser, but every mistake is a line or two on stderr instead of a traceback.

    `config` is the flag of the config file.
    """
    try:
        rest = flags.FLAGS(argv)
        _ = config.value.name  # a config file that cannot be read is noticed at the first access only
        return rest
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        # ml_collections wraps an error of get_config in its whole traceback; the last line is the message.
        message = str(error).strip().splitlines()[-1].removeprefix("ValueError:").strip()
        sys.exit(f"error: {unknown_key.explain(argv) or message}")
