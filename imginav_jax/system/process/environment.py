"""The environment that a command starts in: for each variable, whether it may matter, and why.

Python, NumPy, JAX, matplotlib, TensorFlow and the rest read it when they start.  What is a person's tuning counts, and
is refused where it means nothing; what would change the numbers or break the program is overruled.  The package calls
`prepare` for its commands before any of them is imported; standard library only.  What stands nowhere here counts as it
is: which cards there are, threads, the locale's language, proxies (no command asks anything of a network).

Files that they read are dealt with likewise.  matplotlib looks for its matplotlibrc in the current folder first of all:
`report.figures` puts back what that has set, and one that matplotlib cannot read is refused here.
"""

import fnmatch
import os
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple

from imginav_jax.system.errors import UserError


class Kept(NamedTuple):
    """A variable that counts.

    Attributes:
      reason: why it does.
      values: a regular expression of what it may hold; elsewhere the library ends with a traceback.
      expected: the same in words.
      words: those among the values that the library knows in this spelling alone.
    """

    reason: str
    values: str = "(?s:.*)"
    expected: str = ""
    words: tuple[str, ...] = ()


def _flag(reason: str) -> Kept:
    return Kept(reason, "(?i:0|1|true|false|t|f|yes|no|y|n|on|off)", "true or false")


def _number(reason: str) -> Kept:
    return Kept(reason, r"-?\d+", "a whole number")


def _fraction(reason: str) -> Kept:
    return Kept(reason, r"\d+\.?\d*|\.\d+", "a number")


def _choice(reason: str, *values: str) -> Kept:
    return Kept(reason, "|".join(values), f"one of {', '.join(values)}", values)


def _cards(reason: str) -> Kept:
    return Kept(reason, r"all|\d+(,\d+)*", "all, or numbers with commas", ("all",))


_PRECISIONS = (
    *("default", "high", "highest", "bfloat16", "tensorfloat32", "float32"),
    *("ANY_F8_ANY_F8_F32", "ANY_F8_ANY_F8_F32_FAST_ACCUM", "ANY_F8_ANY_F8_ANY", "ANY_F8_ANY_F8_ANY_FAST_ACCUM"),
    *("F16_F16_F16", "F16_F16_F32", "BF16_BF16_BF16", "BF16_BF16_F32", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6"),
    *("BF16_BF16_F32_X9", "TF32_TF32_F32", "TF32_TF32_F32_X3", "F32_F32_F32", "F64_F64_F64"),
)
_LEVELS = ("NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FILTERINGS = ("off", "tracebackhide", "remove_frames", "quiet_remove_frames", "auto")

KEPT = {
    "JAX_PLATFORMS": Kept("which devices compute"),
    "JAX_PLATFORM_NAME": Kept("which devices compute"),
    "JAX_CUDA_VISIBLE_DEVICES": _cards("which cards compute"),
    "JAX_ROCM_VISIBLE_DEVICES": _cards("which cards compute"),
    "JAX_NUM_CPU_DEVICES": _number("how many devices the CPU stands for"),
    "JAX_CPU_ENABLE_ASYNC_DISPATCH": _flag("speed alone"),
    "JAX_CPU_GET_LOCAL_TOPOLOGY_TIMEOUT_MINUTES": _number("how long the processes of a run wait for each other"),
    "JAX_CPU_GET_GLOBAL_TOPOLOGY_TIMEOUT_MINUTES": _number("how long the processes of a run wait for each other"),
    "JAX_PJRT_CLIENT_CREATE_OPTIONS": Kept("memory of the device"),
    "JAX_DEFAULT_MATMUL_PRECISION": _choice("the card's own precision; `cards` sets it", *_PRECISIONS),
    "JAX_ENABLE_COMPILATION_CACHE": _flag("speed alone"),
    "JAX_COMPILATION_CACHE_DIR": Kept("where compiled programs are kept"),
    "JAX_COMPILATION_CACHE_MAX_SIZE": _number("how many bytes of compiled programs are kept"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": _fraction("which compiled programs are kept"),
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": _number("which compiled programs are kept"),
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": Kept("which compiled programs are kept"),
    "JAX_CHECK_PROXY_ENVS": _flag("messages alone"),
    "JAX_LOG_COMPILES": _flag("messages alone"),
    "JAX_EXPLAIN_CACHE_MISSES": _flag("messages alone"),
    "JAX_DEBUG_LOG_MODULES": Kept("messages alone"),
    "JAX_LOGGING_LEVEL": _choice("messages alone", *_LEVELS),
    "JAX_DUMP_IR_TO": Kept("files to look into"),
    "JAX_DUMP_IR_MODES": Kept("files to look into"),
    "JAX_TRACEBACK_FILTERING": _choice("messages alone", *_FILTERINGS),
    "XLA_FLAGS": Kept("tuning of the compiler, which names a flag that it does not know and ends"),
    "XLA_CLIENT_MEM_FRACTION": _fraction("memory of the card; `cards` sets it"),
    "XLA_PYTHON_CLIENT_MEM_FRACTION": _fraction("the same by its old name"),
    "TF_CPP_*": Kept("messages alone"),
    "TF_ENABLE_ONEDNN_OPTS": Kept("TensorFlow computes nothing here"),
    "TF_CLI_*": Kept("another program's, Terraform's"),
    "TF_VAR_*": Kept("another program's, Terraform's"),
}

# By name or pattern; what stands in KEPT is none of them.
OVERRULED = {
    "JAX_ENABLE_X64": "parameters are float32, always",
    "JAX_DEFAULT_DTYPE_BITS": "parameters are float32, always",
    "JAX_EXPLICIT_X64_DTYPES": "parameters are float32, always",
    "JAX_NUMPY_DTYPE_PROMOTION": "errors in libraries that promote",
    "JAX_NUMPY_RANK_PROMOTION": "errors in libraries that promote",
    "JAX_*PRNG*": "the same seed gives the same weights",
    "JAX_THREEFRY_*": "the same seed gives the same weights",
    "JAX_RANDOM_SEED_OFFSET": "the same seed gives the same weights",
    "JAX_DISABLE_JIT": "the steps are compiled before they run",
    "JAX_NO_*": "the steps are compiled before they run",
    "JAX_DEBUG_*": "float16 overflows on purpose, and a run names its own NaNs",
    "JAX_ERROR_CHECKING_*": "float16 overflows on purpose, and a run names its own NaNs",
    "JAX_TRANSFER_GUARD*": "arrays move between the host and the device on purpose",
    "JAX_*": "JAX's other options: experiments and debugging, under which nothing here has been tried",
    "JAX2TF_*": "as JAX's other options",
    "CHECK_VMA": "as JAX's other options",
    "EAGER_CONSTANT_FOLDING": "as JAX's other options",
    "MOCK_NUM_GPU_PROCESSES": "as JAX's other options",
    "FLAX_*": "what flax's modules are and how its errors look",
    "ORBAX_*": "how checkpoints are written",
    "ENABLE_ORBAX_*": "how checkpoints are written",
    "ENABLE_PATHWAYS_*": "how checkpoints are written",
    "TENSORSTORE_*": "how checkpoints are written",
    "EPATH_*": "which library opens files",
    "FSSPEC_*": "which library opens files",
    "GRAIN_*": "how batches are read",
    "PYGRAIN_*": "how batches are read",
    "PROMETHEUS_MULTIPROC_DIR": "counters that nobody reads",
    "TFDS_*": "where prepared data sets are is data.cache_dir's to say",
    "TF_*": "TensorFlow writes event files and nothing else",
    "TF2_BEHAVIOR": "TensorFlow writes event files and nothing else",
    "KERAS_*": "TensorFlow's companion, of no use here",
    "PROTOCOL_BUFFERS_*": "which of protobuf's implementations are installed is pip's to say",
    "NPY_*": "what NumPy's compiled code uses; a name that it does not know is an error",
    "NUMPY_*": "NumPy's experiments",
    "SCIPY_*": "SciPy's experiments",
    "SKIMAGE_*": "scikit-image's backends",
    "MATPLOTLIBRC": "figures look the same for everyone",
    "TQDM_*": "defaults of progress bars; a name or value that tqdm does not know is an error",
    "TORCH_FORCE_*": "nothing in a PyTorch file is ever run",
    "TORCH_SERIALIZATION_*": "nothing in a PyTorch file is ever run",
    "PYTHONIOENCODING": "names in any script can be printed",
}

SET = {
    "MPLBACKEND": ("agg", "figures are files, whatever a notebook or a desktop has set"),
    "MPL_IGNORE_SYSTEM_FONTS": ("1", "figures look the same on every machine"),
}

# Python itself has read these before anything could be done about them: it starts once more without.
PYTHON = {
    "PYTHONINSPECT": "a prompt at the end, and exit code 0 for every error",
    "PYTHONOPTIMIZE": "libraries count on their assertions and docstrings",
    "PYTHONWARNINGS": "errors in libraries that warn",
}

_NARROWEST = 20  # columns of a terminal
_OLD_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
_overruled: list[str] = []  # by `prepare`, in this process


def prepare() -> None:
    """Makes the environment that of the program, in place; may start Python once more, in the same process.

    Raises:
      UserError: a variable that counts holds what means nothing, or matplotlib cannot read what it will read.
    """
    _start_python_again(os.environ)
    _overruled.extend(overrule(os.environ))
    _check_matplotlibrc(Path("matplotlibrc"))


def overruled() -> tuple[str, ...]:
    """Returns the names of the variables that were set and have no say."""
    return tuple(_overruled)


def overrule(environment: MutableMapping[str, str]) -> list[str]:
    """Changes what must not matter, and returns the names of what was set otherwise.

    Raises:
      UserError: a variable that counts holds what means nothing.
    """
    changed = []
    for name in sorted(environment):
        if (kept := _kept(name)) is not None:
            _check(name, kept, environment)
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in OVERRULED):
            del environment[name]
            changed.append(name)
    if all(environment.get(name) for name in _OLD_FRACTION):  # JAX refuses both
        del environment[_OLD_FRACTION[0]]
    for name, (value, _) in SET.items():
        if environment.get(name, value) != value:
            changed.append(name)
        environment[name] = value
    _choose_folders(environment)
    return sorted(changed)


def _kept(name: str) -> Kept | None:
    return next((kept for pattern, kept in KEPT.items() if fnmatch.fnmatchcase(name, pattern)), None)


def _check(name: str, kept: Kept, environment: MutableMapping[str, str]) -> None:
    """Leaves the value as its library reads it: some know one spelling alone, and none wants spaces around it."""
    given = environment[name].strip()
    value = next((word for word in kept.words if word.casefold() == given.casefold()), given)
    if not value:  # as good as not set, but not for every library
        del environment[name]
    elif not re.fullmatch(kept.values, value):
        raise UserError(f"{name} is {environment[name]!r} in the environment, expected {kept.expected}")
    else:
        environment[name] = value


def _choose_folders(environment: MutableMapping[str, str]) -> None:
    """A home that is there, temporary files where they can be made, and matplotlib's lists among our caches."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        if name in environment and not os.access(environment[name], os.R_OK | os.W_OK | os.X_OK):
            del environment[name]
    for name in ("COLUMNS", "LINES"):
        value = environment.get(name, "")
        if not (value.isdecimal() and int(value) >= _NARROWEST):  # the help of a command has no room in less
            environment.pop(name, None)
    if not environment.get("HOME", "-"):
        del environment["HOME"]  # Python then asks the system for this user's
    home = environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  which raises nothing
    if home == "~":
        environment["HOME"] = home = environment.get("TMPDIR", "/tmp")  # a user without a name, as containers have them
    if environment.get("IMGINAV_CACHE"):
        cache = Path(environment["IMGINAV_CACHE"]) / "matplotlib" / str(os.getuid())  # it may be shared
    else:
        cache = Path(home) / ".cache" / "imginav_jax" / "matplotlib"
    environment["MPLCONFIGDIR"] = str(cache)


def _check_matplotlibrc(path: Path) -> None:
    """matplotlib passes over lines that mean nothing to it, but not over bytes."""
    try:
        if os.path.isfile(path):  # noqa: PTH113  as matplotlib asks, which raises nothing
            path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.absolute()} cannot be read, as matplotlib does when it starts: {error}") from None


def _start_python_again(environment: MutableMapping[str, str]) -> None:
    """Where Python has started in a way that cannot be mended: as PYTHON says, or without UTF-8 for file names."""
    wanted = {name: value for name, value in environment.items() if name not in PYTHON}
    is_utf8 = sys.getfilesystemencoding().lower() == "utf-8"
    if not is_utf8:
        wanted["PYTHONUTF8"] = "1"
    if not sys.executable or wanted == dict(environment):
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
