"""PyTorch files whose dict holds more than tensors and plain values, read without running anything in them.

People keep a best loss, their arguments, a path or a list of losses beside the weights, and `weights_only` lets none of
them through.  What is known to be harmless is read as something that can do no harm: numbers, lists and dicts as such,
and all else as a `StandIn`, which has the name and nothing of the thing.  No class of the file is ever called: NumPy's
own, for one, would take a file's word for where in memory an array lies.
"""

import contextlib
import itertools
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imginav_jax.system.errors import UserError

_NAMED = 4  # things in a message
_BUILTINS = ("bool", "dict", "float", "frozenset", "int", "list", "range", "slice", "str", "tuple")
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
_STOOD_IN_FOR = (
    *(f"builtins.{name}" for name in _BUILTINS),
    *("argparse.Namespace", "decimal.Decimal", "fractions.Fraction", "numpy.ndarray", "types.SimpleNamespace"),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *("torch.torch_version.TorchVersion", "uuid.SafeUUID", "uuid.UUID"),
)
_NUMBER = re.compile(r"[bfiuc]\d+")  # NumPy's names of the dtypes that are numbers
_shortened = reprlib.Repr()
_shortened.maxlevel = 2
_shortened.maxstring = _shortened.maxother = 80  # letters


class StandIn:
    """Stands where a thing was whose class is not called."""

    def __init__(self, *arguments: Any):
        del arguments

    def __setstate__(self, state: Any) -> None:
        del state


class _DType(StandIn):
    """NumPy's, as far as numbers need it."""

    def __init__(self, name: Any = "", *arguments: Any):
        super().__init__(*arguments)
        self.name, self.order = str(name), ""

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
        self.order = order if order in ("<", ">") else ""


def require_torch() -> None:
    """Checks that PyTorch is there and can be told what is harmless.

    Raises:
      UserError: it is missing or too old.
    """
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch reads these files and is not installed: pip install torch") from None
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise UserError(f"PyTorch {torch.__version__} is installed, expected 2.6 or newer: pip install -U torch")


def load(path: Path) -> Any:
    """Reads a file of `torch.save` and returns what it holds, its tensors on the CPU.

    A list of the file that stands in many places is one list here as well: walk or print it by `shorten` alone.

    Raises:
      ValueError: the file holds what is not known to be harmless, or is no such file; names it, in a line.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes; PyTorch's own text advises to run it
        raise ValueError(_explain(path, error)) from None


def shorten(value: Any) -> str:
    """Returns a value as in Python's code, cut short: a few shared lists in one another can be billions."""
    return _shortened.repr(value)


def _harmless() -> list[Any]:
    """Pairs of what is called, and the name in the file for which it is."""
    called: dict[str, Callable[..., Any]] = {name: _stand_in(name) for name in _STOOD_IN_FOR}
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # of NumPy 2 and 1
        called |= {f"{module}._reconstruct": _stand_in("numpy.ndarray"), f"{module}.scalar": _read_number}
    called |= {"numpy.dtype": _DType, "collections.defaultdict": _make_dict, "collections.deque": _make_list}
    return [(call, name) for name, call in called.items()]


def _stand_in(name: str) -> type[StandIn]:
    return type(name, (StandIn,), {"__repr__": lambda self: f"a {name}"})


def _read_number(dtype: Any, content: Any = b"") -> Any:
    """A NumPy number as Python's; a stand-in for what is no number."""
    import numpy as np

    content = content.encode("latin1") if isinstance(content, str) else content
    if isinstance(dtype, _DType) and isinstance(content, bytes) and _NUMBER.fullmatch(dtype.name):
        return np.frombuffer(content, np.dtype(dtype.order + dtype.name))[0].item()
    return _stand_in("numpy scalar")()


def _make_dict(*arguments: Any) -> dict[Any, Any]:
    del arguments
    return {}


def _make_list(*arguments: Any) -> list[Any]:
    del arguments
    return []


def _explain(path: Path, error: Exception) -> str:
    """In one line: what is not plain, and where it lies."""
    start = "is not a checkpoint of tensors and plain values alone; nothing in it was run"
    names = _unknown_names(path, error)
    if not names:
        return f"{start} ({type(error).__name__})"
    places = _places(path, names)
    where = f" (at {', '.join(places)})" if places else ""
    return f"{start}: it holds {_some(names)}{where}; save it once more without, its state_dict and config alone"


def _unknown_names(path: Path, error: Exception) -> list[str]:
    import torch

    with contextlib.suppress(Exception), torch.serialization.safe_globals(_harmless()):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return re.findall(r"GLOBAL (\S+) ", str(error))[:1]  # of a file older than PyTorch's zip format


def _places(path: Path, names: list[str]) -> list[str]:
    """Keys under which the first of the named things lie; none where that cannot be told."""
    import torch

    unknown = {name: type(name, (_Unknown,), {}) for name in names}
    pairs = [(call, name) for name, call in unknown.items()]
    with contextlib.suppress(Exception), torch.serialization.safe_globals([*_harmless(), *pairs]):
        payload = torch.load(path, map_location="cpu", weights_only=True)
        found = list(itertools.islice(_find(payload, "", set()), _NAMED + 1))
        return [*found[:_NAMED], "and elsewhere"] if len(found) > _NAMED else found
    return []


class _Unknown(StandIn):
    """Of what is to be named."""


def _find(value: Any, place: str, visited: set[int]) -> Iterator[str]:
    """Where what is to be named lies; what is shared, at the first of its places."""
    if id(value) in visited:
        return
    if isinstance(value, _Unknown):
        visited.add(id(value))
        yield place
    elif isinstance(value, (dict, list, tuple)):
        visited.add(id(value))
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _find(each, f"{place}[{shorten(key)}]", visited)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join([*names[:_NAMED], f"and {more} more"] if more > 0 else names)
