"""Checkpoints of a run, by step: Orbax holds the training state, `checkpoint.json` what it was and its checksums.

A step is written into a temporary directory and renamed when it is complete, checksums and all, so a step that is
there was saved whole.  Whether it still is what was saved is checked before anything is restored.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint.options import AsyncOptions

from imginav_jax.system.errors import RunError, UserError, first_line
from imginav_jax.system.files import nearest, write_atomically

_STATE = "state"
_INDEX = "manifest.ocdbt"  # of the arrays; Orbax restores by it
_RECORD = "checkpoint.json"
_DAMAGED = "damaged_checkpoints"
_MIB = 2**20


class Found(NamedTuple):
    """The newest sound step, and what is wrong with the others."""

    step: int
    contents: dict[str, Any]  # as they were given to `Checkpoints.save`
    sound: list[int]  # every step that can be restored
    damaged: dict[int, str]  # the reason by step


class _DamagedError(Exception):
    """The message says what is wrong with a step."""


def find(directory: Path) -> Found | None:
    """Checks every step, changes nothing, and returns what it has found; None where there is no step.

    Raises:
      UserError: there are steps, and none of them can be restored.
    """
    records: dict[int, dict[str, Any]] = {}
    damaged: dict[int, str] = {}
    for step in steps(directory):
        try:
            records[step] = _verified_record(directory / str(step))
        except _DamagedError as error:
            damaged[step] = str(error)
    if records:
        newest = max(records)
        return Found(newest, records[newest]["contents"], sorted(records), damaged)
    if damaged:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise UserError(f"no checkpoint in {directory} can be restored ({reasons}); move them away to start anew")
    return None


def steps(directory: Path) -> list[int]:
    """Returns the number of every directory that looks like a complete step, in order; sound or not."""
    names = [path.name for path in directory.iterdir() if path.is_dir()] if directory.exists() else []
    return sorted(int(name) for name in names if name.isdecimal())


def set_aside(directory: Path, damaged: Sequence[int]) -> Path:
    """Moves steps to where nothing takes them for checkpoints; returns the place."""
    place = directory.parent / _DAMAGED
    if jax.process_index() != 0:
        return place
    place.mkdir(exist_ok=True)
    for step in damaged:
        target, number = place / str(step), 1
        while target.exists():
            number += 1
            target = place / f"{step}-{number}"
        (directory / str(step)).rename(target)
    return place


def restore(directory: Path, step: int, abstract_state: Any, *, is_verified: bool = False) -> Any:
    """Returns a step's state, or a part of it, onto the shapes, dtypes and shardings of `abstract_state`.

    Args:
      directory: of the steps.
      step: which one.
      abstract_state: its shapes.
      is_verified: `find` has just found it sound; else its checksums are compared first.

    Raises:
      UserError: the step is not there, or is not what was saved.
    """
    path = directory.absolute() / str(step)
    if not path.exists():
        raise UserError(f"{directory} has no checkpoint of step {step}")
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract_state)
    args = ocp.args.PyTreeRestore(abstract_state, restore_args, partial_restore=True)
    try:
        if not is_verified:
            _verified_record(path)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path / _STATE, args=args)
    except (_DamagedError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be restored: {first_line(error)}") from None


def count_kept(num_epochs: int, every_epochs: int) -> int:
    """Returns how many steps a whole run keeps: the two latest, the best and the periodic ones."""
    return 3 + num_epochs // every_epochs


def copies_missing(directory: Path, kept: int) -> int:
    """Returns how many steps are still missing of `kept`, and one more on its way."""
    return max(kept - len(steps(directory)), 0) + 1


def state_bytes(state: Any) -> int:
    """Returns the size in bytes of a pytree of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def require_space(directory: Path, state: Any, kept: int) -> None:
    """Raises UserError if the disk cannot take the steps that are missing of `kept`, and one more on its way."""
    copies = copies_missing(directory, kept)
    needed = copies * state_bytes(state)
    free = shutil.disk_usage(nearest(directory)).free
    if free < needed:
        raise UserError(
            f"{directory} has {free / _MIB:,.0f} MiB free, expected {needed / _MIB:,.0f} MiB for {copies} more "
            "checkpoints; free some space and start again"
        )


class Checkpoints:
    """The checkpoints in one directory; close it, or the last save may be lost."""

    def __init__(self, directory: Path, keep_period: int, kept: int = 0):
        """Makes the directory where it is missing.

        Args:
          directory: of the steps.
          keep_period: its multiples are kept for good, beside the best and the two latest steps.
          kept: how many are to be kept in the end; each save wants space for those still missing and itself.
        """
        self._kept = kept
        self._directory = directory.absolute()
        self._preserve = _Preserve(keep_period)
        self._saving: tuple[int, str] | None = None  # the step on its way to the disk, and its contents
        self._failed = False
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._preserve,
            cleanup_tmp_directories=True,  # of a job that was killed while it saved
            async_options=AsyncOptions(post_finalization_callback=self._write_record),
        )
        handlers = {_STATE: ocp.StandardCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handlers)

    def has(self, step: int) -> bool:
        """Returns whether the step is on disk; damaged ones are to be set aside before."""
        return (self._directory / str(step)).exists()

    def save(self, step: int, state: Any, contents: dict[str, Any], best_step: int) -> None:
        """Starts a save in the background; a step that is there already gets the new contents only.

        Args:
          step: optimizer steps done.
          state: a pytree of arrays.
          contents: JSON that says what the state is of and where the loop stands.
          best_step: the step to keep as the best.

        Raises:
          RunError: this save, or one before it, has failed; names the step.
        """
        self.wait()
        self._preserve.best_step = best_step
        text = json.dumps(contents)
        path = self._directory / str(step)
        with self._failing_by_name(step):
            if self.has(step):
                self._replace_record(path / _RECORD, text)
                self._prune()
                return
            require_space(self._directory, state, self._kept)
            self._saving = step, text
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

    def wait(self) -> None:
        """Waits until the last save is on disk; RunError if it failed."""
        with self._failing_by_name(self._saving[0] if self._saving else 0):
            self._manager.wait_until_finished()
        self._saving = None

    def close(self) -> None:
        """Waits, unless a failure has been reported already; RunError if the last save failed."""
        if not self._failed:
            self.wait()
            self._manager.close()

    def _replace_record(self, path: Path, text: str) -> None:
        if jax.process_index() == 0:
            write_atomically(path, _make_record(text, json.loads(path.read_text())["files"]))

    def _prune(self) -> None:
        there = self._manager.all_steps()
        for step in there:
            if not self._preserve.keeps(step, there):
                self._manager.delete(step)

    def _write_record(self) -> None:
        """Runs in the background when a step's files are complete and its directory has not got its name yet."""
        if self._saving is None or jax.process_index() != 0:
            return
        step, text = self._saving
        (path,) = self._directory.glob(f"{step}.orbax-checkpoint-tmp*")
        _require_whole_index(path / _STATE)
        write_atomically(path / _RECORD, _make_record(text, _checksums(path)))

    @contextlib.contextmanager
    def _failing_by_name(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the background thread or the file system came up with
            self._failed = True
            raise RunError(f"the checkpoint of step {step} could not be saved: {first_line(error)}") from error


class _Preserve:
    """Keeps the best step, every multiple of a period, and the two latest: the one before stands in for the last."""

    def __init__(self, period: int):
        self._period = period
        self.best_step = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        there = [each.step for each in checkpoints]
        return [self.keeps(step, there) for step in there]

    def keeps(self, step: int, there: Sequence[int]) -> bool:
        return step in sorted(there)[-2:] or step == self.best_step or step % self._period == 0


def _checksums(path: Path) -> dict[str, str]:
    """SHA-256 of every file of the state, by its path in the step; Orbax goes on writing its own notes beside it."""
    files = sorted(each for each in (path / _STATE).rglob("*") if each.is_file())
    return {str(each.relative_to(path)): _sha256(each) for each in files}


def _require_whole_index(state: Path) -> None:
    """OSError where the index that was written lacks an array: it could never be restored, whatever its checksums."""
    tree = json.loads((state / "_METADATA").read_text())["tree_metadata"].values()
    saved = [each for each in tree if each["value_metadata"]["value_type"] != "None"]
    names = {".".join(key["key"] for key in each["key_metadata"]) for each in saved}
    index = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{state}/"}}).result()
    missing = sorted(names - {key.decode().removesuffix("/.zarray") for key in index.list().result()})
    if missing:
        raise OSError(f"its index lacks {len(missing)} of {len(names)} arrays, {missing[0]} for one")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_record(text: str, files: dict[str, str]) -> bytes:
    record = {"contents": json.loads(text), "files": files}
    return json.dumps({**record, "sha256": _digest(record)}).encode()


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _verified_record(path: Path) -> dict[str, Any]:
    """The step's record, after every file has been found to be what was saved."""
    try:
        record = json.loads((path / _RECORD).read_text())
        is_sound = record["sha256"] == _digest({key: record[key] for key in ("contents", "files")})
    except FileNotFoundError:
        raise _DamagedError(f"it has no {_RECORD}") from None
    except (OSError, ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise _DamagedError(f"{_RECORD} is damaged")
    if f"{_STATE}/{_INDEX}" not in record["files"]:
        raise _DamagedError(f"it was saved without {_INDEX}")
    for name, checksum in record["files"].items():
        try:
            found = _sha256(path / name)
        except OSError:
            raise _DamagedError(f"{name} is missing") from None
        if found != checksum:
            raise _DamagedError(f"{name} is damaged")
    return record
