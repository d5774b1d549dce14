"""Phase 1.2 of ImgiNav in JAX."""

import sys

from imginav_jax import allocator

if sys.argv[:1] == ["-m"]:  # while Python looks for a command of this package, which may import JAX first of all
    allocator.keep_freed_memory()
