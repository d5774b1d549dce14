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


class Checkpoints:
    """The checkpoints in one directory; close it, or the last save may be lost."""

    def __init__(self, directory: Path, keep_period: int = 1, read_only: bool = False):
        """`keep_period`: steps whose multiples are kept for good."""
        self._preserve = _Preserve(keep_period)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._preserve,
            cleanup_tmp_directories=not read_only,  # of a job that was killed while it saved
            create=not read_only,
            read_only=read_only,
        )
        handlers = {_STATE: ocp.StandardCheckpointHandler(), _POSITION: ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any], best_step: int) -> None:
        """Starts a save in the background, unless this step is saved already; errors come from this or a later call.

        Args:
          step: optimizer steps done.
          state: a pytree of arrays.
          position: JSON that says where the loop stands.
          best_step: the step to keep as the best.
        """
        self._preserve.best_step = best_step
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        if step not in self._manager.all_steps():
            self._manager.save(step, args=items)

    def position(self, step: int) -> dict[str, Any]:
        """The JSON of a step, without its arrays."""
        return self._manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))[_POSITION]

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, onto the shapes, dtypes and shardings of `abstract_state`.

        Raises:
          UserError: the step is not there.
        """
        if step not in self._manager.all_steps():
            raise UserError(f"{self._manager.directory} has no checkpoint of step {step}")
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(step, args=items)[_STATE]

    def close(self) -> None:
        """Waits for the last save; raises what went wrong with it."""
        self._manager.wait_until_finished()
        self._manager.close()
