"""The card that a job got, and the settings that suit it.

Standard library only: it is asked before the program itself, which reads the environment when it starts.  A variable
that is set already wins.  No XLA flag is set for any card: the defaults are good, and one that XLA does not know aborts
it.

    IMGINAV_PRECISION  float32, bfloat16 or float16 instead of the card's own
    IMGINAV_TF32       1: float32 is multiplied in TF32 where the card can; else float32 means float32 on every card
    IMGINAV_CACHE      folder of caches instead of ~/.cache/imginav_jax
    JAX_PLATFORMS      cpu: no card is wanted
"""

import dataclasses
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from imginav_jax.system import versions
from imginav_jax.system.errors import UserError

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
PRECISIONS = ("float32", "bfloat16", "float16")
CUDNN = "nvidia-cudnn-cu12"
LAST_VOLTA_CUDNN = "9.10.2.21"  # the last one with kernels for the V100
OLD_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # the old name; an error where the new one is set too
_FRACTION = "XLA_CLIENT_MEM_FRACTION"
_QUERY_SECONDS = 120  # the driver may have to be started first
_MAX_WORKERS = 4  # together they decode more layouts than any card trains on
_VISIBLE = re.compile(r"\s*(\d|(GPU|MIG)-)")  # what CUDA_VISIBLE_DEVICES begins with where it names a card
_SETTINGS = (
    "IMGINAV_PRECISION",
    "IMGINAV_WORKERS",
    _FRACTION,
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_FLAGS",
    "JAX_PLATFORMS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_COMPILATION_CACHE_DIR",
)  # what `describe` reports


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What suits one kind of card."""

    label: str
    precision: str  # of the convolutions
    memory_fraction: str | None = None  # of the card's memory for XLA's pool, taken at once; None: XLA's own default
    memory_mib: int = 0  # of the card, as CUDA reports it: a little less than its name says; 0 where it is not known
    chip: str | None = None  # what a program is compiled for, whatever the memory


UNKNOWN = Tuning("unknown", "float32")
NONE = Tuning("none", "float32")

# The one table: name, memory in MiB (from, below), settings.  What is outside the pool (command buffers, cuDNN, the
# driver's own) takes about the same on every card, hence the smaller fraction of the smallest.  Volta computes bfloat16
# in float32, hence its float16.
TABLE = (
    (r"\bV100S?\b", 0, 20_000, Tuning("V100 16 GB", "float16", ".88", 16_128, "V100")),
    (r"\bV100S?\b", 20_000, 40_000, Tuning("V100 32 GB", "float16", ".92", 32_480, "V100")),
    (r"\bL40S\b", 40_000, 60_000, Tuning("L40S", "bfloat16", ".92", 45_460, "L40S")),
    (r"\bA100\b", 30_000, 60_000, Tuning("A100 40 GB", "bfloat16", ".92", 40_370, "A100")),
    (r"\bA100\b", 60_000, 90_000, Tuning("A100 80 GB", "bfloat16", ".92", 81_050, "A100")),
    (r"\bH100\b", 60_000, 90_000, Tuning("H100 80 GB", "bfloat16", ".92", 81_008, "H100")),
)
TUNINGS = tuple(tuning for *_, tuning in TABLE)
CHIPS = tuple(dict.fromkeys(tuning.chip for tuning in TUNINGS if tuning.chip))


@dataclasses.dataclass(frozen=True)
class Card:
    """The cards that a job sees, which are all alike; otherwise they count as unknown."""

    name: str  # as nvidia-smi says, "Tesla V100-SXM2-16GB"; why there is none where there is none
    memory_mib: int  # of one, 0 where it is not known
    driver: str
    count: int
    tuning: Tuning

    @property
    def exists(self) -> bool:
        return self.count > 0


def find(environment: Mapping[str, str] = os.environ) -> Card:
    """Asks nvidia-smi and returns the card; only those that CUDA_VISIBLE_DEVICES names count, as CUDA reads it."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if environment.get("JAX_PLATFORMS") == "cpu":
        return _no_card("none is wanted, JAX_PLATFORMS is cpu")
    if visible is not None and not _VISIBLE.match(visible):
        return _no_card(f"none is granted, CUDA_VISIBLE_DEVICES is {visible or 'empty'}")
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True).stdout
    except FileNotFoundError:
        return _no_card("nvidia-smi is not installed")
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout} {error.stderr}".split()
        return _no_card(f"nvidia-smi failed: {' '.join(said)}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return _no_card(f"nvidia-smi failed: {error}")
    rows = [[field.strip() for field in line.rsplit(",", 2)] for line in answer.splitlines() if line.count(",") >= 2]
    return _card([(name, int(mib) if mib.isdecimal() else 0, driver) for name, mib, driver in _granted(rows, visible)])


def settings(card: Card, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the environment variables for `card`; those that are set already keep their values.

    Raises:
      UserError: IMGINAV_PRECISION or IMGINAV_TF32 has a value that means nothing.
    """
    wanted = {
        "IMGINAV_PRECISION": card.tuning.precision,
        "IMGINAV_WORKERS": str(loader_workers(environment) if card.exists else 0),
    }
    if card.exists:
        wanted |= {
            "JAX_COMPILATION_CACHE_DIR": str(compilation_cache(card, environment)),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that CUDA and nvidia-smi number the cards alike
            "JAX_PLATFORMS": "cuda,cpu",  # a card that cannot be used is an error, not a run on the CPU
        }
    if card.tuning.memory_fraction is not None:
        wanted |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_ALLOCATOR": "default"}
    if fraction := environment.get(OLD_FRACTION) or card.tuning.memory_fraction:
        wanted[_FRACTION] = fraction
    chosen = {name: environment.get(name) or value for name, value in wanted.items()}
    if chosen["IMGINAV_PRECISION"] not in PRECISIONS:
        raise UserError(f"IMGINAV_PRECISION is {chosen['IMGINAV_PRECISION']!r}, expected {', '.join(PRECISIONS)}")
    if card.exists and chosen["IMGINAV_PRECISION"] == "float32":
        name = "JAX_DEFAULT_MATMUL_PRECISION"
        chosen[name] = environment.get(name) or ("tensorfloat32" if _wants_tf32(environment) else "highest")
    return chosen


def loader_workers(environment: Mapping[str, str] = os.environ) -> int:
    """Returns how many processes decode layouts: one less than this host's slots, which is for the program itself."""
    cores = len(os.sched_getaffinity(0))
    granted = environment.get("LSB_DJOB_NUMPROC", "")
    hosts = max(1, len(environment.get("LSB_MCPU_HOSTS", "").split()) // 2)
    slots = int(granted) // hosts if granted.isdecimal() else cores
    return max(0, min(slots - 1, cores - 1, _MAX_WORKERS))


def compilation_cache(card: Card, environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder for this user's compiled programs on this kind of card or CPU.

    What was tuned on one kind of card is wrong on another, and a program for one kind of CPU may not run on another.
    """
    if card.exists:
        name = card.name if card.tuning is UNKNOWN else card.tuning.label
    else:
        name = f"cpu_{hashlib.sha256(_cpu().encode()).hexdigest()[:8]}"
    folder = re.sub(r"\W+", "_", name.lower()).strip("_")
    if environment.get("IMGINAV_CACHE"):
        return Path(environment["IMGINAV_CACHE"]) / "xla" / str(os.getuid()) / folder  # it may be shared
    return Path("~/.cache/imginav_jax/xla").expanduser() / folder


def compiler_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns where what compiles for cards stands, for JAX's own version, where no card is.

    It is a folder of its own, which only a process sees that asks for it: among the other packages it would make JAX
    complain in every command.
    """
    caches = Path(environment.get("IMGINAV_CACHE") or "~/.cache/imginav_jax").expanduser()
    return caches / "compiler_for_cards" / (versions.version("jax") or "unknown")


def prepare_to_compile() -> None:
    """Makes this process able to compile for cards that are not here; to be called before JAX is imported.

    JAX then reads that it must not look for a card, and where the compiler is.
    """
    sys.path.insert(0, str(compiler_folder()))
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("CUDA_ROOT", None)  # it may name another version


def cudnn_version() -> str | None:
    """Returns the version of the installed cuDNN wheel, such as "9.10.2.21"; None where there is none."""
    return versions.version(CUDNN)


def check_cudnn(card_name: str, version: str | None) -> None:
    """Raises UserError where cuDNN (its version as "9.10.2.21") is too new for the card.

    `card_name` is what nvidia-smi or JAX calls it, "Tesla V100-SXM2-16GB".
    """
    if version is None or "V100" not in card_name:
        return
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) > (9, 10):
        raise UserError(
            f"cuDNN {version} has no kernels for {card_name}; install the last one that has: "
            f"pip install {CUDNN}=={LAST_VOLTA_CUDNN}"
        )


def describe(card: Card | None = None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns lines for the start of a run: card and driver, versions, settings in force; finds `card` by default."""
    card = find(environment) if card is None else card
    libraries = f"jaxlib {versions.version('jaxlib') or 'unknown'}"
    if card.exists:
        libraries += f", cuDNN {cudnn_version() or 'not from a wheel'}"
    in_force = [f"{name}={environment[name]}" for name in _SETTINGS if environment.get(name)]
    return [title(card), libraries, " ".join(in_force) or "no settings in the environment, JAX's own defaults"]


def _card(rows: list[tuple[str, int, str]]) -> Card:
    """From name, MiB and driver of each."""
    if not rows:
        return _no_card("nvidia-smi names none that is granted")
    name, mib, driver = rows[0]
    names = list(dict.fromkeys(row[0] for row in rows))
    memory = min(row[1] for row in rows)
    if len(names) > 1:
        return Card(" and ".join(names), memory, driver, len(rows), UNKNOWN)
    for pattern, least, below, tuning in TABLE:
        if re.search(pattern, name) and least <= mib < below:
            return Card(name, memory, driver, len(rows), tuning)
    return Card(name, memory, driver, len(rows), UNKNOWN)


def _no_card(reason: str) -> Card:
    return Card(reason, 0, "", 0, NONE)


def _granted(rows: list[list[str]], visible: str | None) -> list[list[str]]:
    """Those that CUDA_VISIBLE_DEVICES names before the first entry that names none, which is where CUDA stops.

    nvidia-smi is not asked for UUIDs: as many of the cards as there are UUIDs, or all where they are not alike.
    """
    if visible is None:
        return rows
    granted = []
    for entry in (each.strip() for each in visible.split(",")):
        if entry.isdecimal() and int(entry) < len(rows):
            granted.append(rows[int(entry)])
        elif entry.startswith(("GPU-", "MIG-")) and rows:
            if any(row != rows[0] for row in rows):
                return rows
            granted.append(rows[0])
        else:
            break
    return granted


def title(card: Card) -> str:
    if not card.exists:
        return f"no card ({card.name}): the CPU computes"
    count = f"{card.count} x " if card.count > 1 else ""
    known = f"settings for {card.tuning.label}" if card.tuning is not UNKNOWN else "NOT KNOWN here: safe defaults"
    return f"{count}{card.name}, {card.memory_mib:,} MiB, driver {card.driver}, {known}"


def _cpu() -> str:
    """Its name and what it can do, as far as the system says."""
    try:
        processor = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(re.findall(r"^(?:model name|flags|Features)\s*:.*$", processor, re.MULTILINE))


def _wants_tf32(environment: Mapping[str, str]) -> bool:
    value = environment.get("IMGINAV_TF32", "")
    if value not in ("", "0", "1"):
        raise UserError(f"IMGINAV_TF32 is {value!r}, expected 0 or 1")
    return value == "1"
