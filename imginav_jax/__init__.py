"""Phase 1.2 of ImgiNav in JAX."""

import sys

from imginav_jax.devices import allocator
from imginav_jax.system import environment, streams
from imginav_jax.system.errors import UserError

if sys.argv[:1] == ["-m"]:  # while Python looks for a command of this package, which may import JAX first of all
    streams.outlive_readers()
    try:
        environment.prepare()
    except UserError as error:
        sys.exit(f"error: {error}")
    allocator.keep_freed_memory()
