"""Orbax checkpoints of a run: the training state as arrays, the loop's position as JSON, by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from imginav_jax.errors import UserError

_STATE, _POSITION = "state", "position"


class _Preserve:
    """Keeps the latest step, the best one, and every multiple of a period."""

    def __init__(self, period: int):
        self._period = period
        self.best_step = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        latest = max((each.step for each in checkpoints), default=None)
        return [each.step in (latest, self.best_step) or each.step % self._period == 0 for each in checkpoints]


def complete_steps(directory: Path) -> list[int]:
    """In order; nothing is changed."""
    return sorted(ocp.utils.checkpoint_steps(directory.absolute())) if directory.exists() else []


def latest_position(directory: Path) -> dict[str, Any] | None:
    """The JSON of the latest complete step, None where there is none; nothing is changed.

    Raises:
      UserError: the step was not saved by `Checkpoints`.
    """
    steps = complete_steps(directory)
    if not steps:
        return None
    path = directory.absolute() / str(steps[-1]) / _POSITION
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path.parent} is not a checkpoint of this program: {error}") from None


def restore_part(directory: Path, step: int, abstract_part: Any) -> Any:
    """Some of a step's state, onto the shapes, dtypes and shardings of `abstract_part`: the weights alone, say.

    Raises:
      UserError: the step cannot be read or holds other arrays.
    """
    path = directory.absolute() / str(step) / _STATE
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract_part)
    args = ocp.args.PyTreeRestore(abstract_part, restore_args, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=args)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path.parent} cannot be restored: {str(error).splitlines()[0]}") from None


class Checkpoints:
    """The checkpoints in one directory; close it, or the last save may be lost."""

    def __init__(self, directory: Path, keep_period: int):
        """Makes the directory where it is missing; steps that are multiples of `keep_period` are kept for good."""
        self._preserve = _Preserve(keep_period)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._preserve,
            cleanup_tmp_directories=True,  # of a job that was killed while it saved
        )
        handlers = {_STATE: ocp.StandardCheckpointHandler(), _POSITION: ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers)

    def save(self, step: int, state: Any, position: dict[str, Any], best_step: int) -> None:
        """Starts a save in the background; what goes wrong is raised by this or a later call.

        Args:
          step: optimizer steps done.
          state: a pytree of arrays.
          position: JSON that says where the loop stands.
          best_step: the step to keep as the best.
        """
        self._preserve.best_step = best_step
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        self._manager.save(step, args=items)

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, onto the shapes, dtypes and shardings of `abstract_state`.

        Raises:
          UserError: the step is not there.
        """
        if step not in self._manager.all_steps():
            raise UserError(f"{self._manager.directory} has no checkpoint of step {step}")
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(step, args=items)[_STATE]

    def wait(self) -> None:
        """Until the last save is on disk; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()
