"""Event files of a run that goes on: what is trained once more is in them once."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from imginav_jax.runs import event_files


def write(folder, steps, tag="step/loss"):
    writer = EventFileWriter(str(folder))
    for step in steps:
        value = Summary.Value(tag=tag, simple_value=step / 2)
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()


def steps_of(folder, tag="step/loss"):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    found.Reload()
    return sorted(event.step for event in found.Scalars(tag)) if tag in found.Tags()["scalars"] else []


@pytest.mark.parametrize("step", [-1, 0, 20, 25, 90])
def test_later_steps_go_and_come_once(tmp_path, step):
    write(tmp_path, [0, 10, 20, 30])
    event_files.forget_after(tmp_path, step)
    kept = [each for each in (0, 10, 20, 30) if each <= step]
    assert steps_of(tmp_path) == kept
    again = range(step + 1, step + 30, 10)
    write(tmp_path, again)
    assert steps_of(tmp_path) == [*kept, *again]


def test_what_is_written_at_the_end_is_written_once(tmp_path):
    write(tmp_path, [10, 20])
    write(tmp_path, [20], "best/comparison")
    event_files.forget_after(tmp_path, 20)
    assert steps_of(tmp_path) == [10, 20]
    assert steps_of(tmp_path, "best/comparison") == []


def test_a_torn_end_is_left_out_and_nothing_else_is_touched(tmp_path):
    write(tmp_path, [10, 20, 30])
    (path,) = tmp_path.glob(event_files.PATTERN)
    path.write_bytes(path.read_bytes()[:-5])
    before = path.read_bytes()
    event_files.forget_after(tmp_path, 30)
    assert path.read_bytes() == before
    event_files.forget_after(tmp_path, 10)
    assert steps_of(tmp_path) == [10]
    assert not list(tmp_path.glob(".*"))


def test_a_new_run_gets_no_file(tmp_path):
    event_files.forget_after(tmp_path, -1)
    assert not list(tmp_path.iterdir())
