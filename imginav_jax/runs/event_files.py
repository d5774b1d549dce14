"""TensorBoard's event files of a run that goes on: what was written of steps that are trained once more goes.

TensorBoard itself drops such events at the start of a session where it reads them as scalars of its own old kind; other
readers never do.  So they are taken out of the files, and the start of a session tells a TensorBoard that is open.
"""

import time
from pathlib import Path
from typing import Any

PATTERN = "events.out.tfevents.*"
TRAIN = "train"  # folder in the workdir of what training shares with validation: one chart, a line each
WRITTEN_AT_THE_END = "best/"  # begins the tags of what a run writes when it is over


def forget_after(workdir: Path, step: int) -> None:
    """Takes what comes after `step` out of every event file in the folder, and marks the start of a session.

    Raises:
      OSError: a file cannot be written.
    """
    paths = sorted(workdir.glob(PATTERN))
    for path in paths:
        _cut(path, step)
    if paths:
        _mark_start(workdir, step + 1)


def _cut(path: Path, step: int) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    temporary = path.with_name(f".{path.name}.tmp")  # which no reader takes for an event file
    dropped = 0
    with temporary.open("wb") as file:
        records = RecordWriter(file)
        for serialized in _read(path):
            if _is_repeated(serialized, step):
                dropped += 1
            else:
                records.write(serialized)
    if dropped:
        temporary.replace(path)
    else:
        temporary.unlink()


def _read(path: Path) -> Any:
    """Serialized events, as far as the file is whole."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    return RawEventFileLoader(str(path)).Load()


def _is_repeated(serialized: bytes, step: int) -> bool:
    """Whether a run that goes on after `step` writes the event once more; the file's own header is none of them."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    event = Event.FromString(serialized)
    return any(event.step > step or value.tag.startswith(WRITTEN_AT_THE_END) for value in event.summary.value)


def _mark_start(workdir: Path, step: int) -> None:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(workdir))  # its file's name comes before that of clu's writer, which is opened next
    start = SessionLog(status=SessionLog.START)
    writer.add_event(Event(wall_time=time.time(), step=step, session_log=start))
    writer.close()
