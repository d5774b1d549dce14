"""Phase 1.2 of ImgiNav in JAX."""

import sys

from imginav_jax.system.process import start

__version__ = "0.1.0"

start.prepare_if_command(sys.argv, sys.orig_argv)
