"""Writers: they work beside the run, which goes on where they fail; TensorBoard's, and one's own."""

import threading

from imginav_jax.system import progress
from imginav_jax.training.writers import OptionalWriter


class _Writer:
    """Remembers what it is told, and in which thread."""

    def __init__(self):
        self.calls, self.threads = [], set()

    def __getattr__(self, name):
        def call(*values):
            self.calls.append((name, *values))
            self.threads.add(threading.get_ident())

        return call


def test_tensorboards_writers_work_in_a_thread_and_open_with_the_first_values():
    opened, own, of_training = [], _Writer(), _Writer()
    writer = OptionalWriter(lambda: opened.append(threading.get_ident()) or {"": own, "train": of_training})
    writer.write_start({"seed": 1})
    assert not opened
    writer.write_scalars(10, {"loss": 0.5})
    writer.write_scalars(10, {"loss": 0.7}, "train")
    writer.flush()
    writer.close()
    names = [name for name, *_ in own.calls]
    assert names == ["write_summaries", "write_hparams", "write_texts", "write_scalars", "flush", "close"]
    assert own.calls[1][1] == {"seed": 1}
    assert "| seed | 1 |" in own.calls[2][2]["config"]
    assert own.calls[3][1:] == (10, {"loss": 0.5})
    assert of_training.calls == [("write_scalars", 10, {"loss": 0.7}), ("flush",), ("close",)]
    assert set(opened) == own.threads == of_training.threads != {threading.get_ident()}
    OptionalWriter(lambda: opened.append("never")).close()
    assert len(opened) == 1


def test_a_writer_that_fails_is_named_once_and_a_run_may_have_none(caplog, monkeypatch):
    monkeypatch.setattr(progress.logger, "propagate", True)
    for open_writer, warnings in ((lambda: 1 / 0, 1), (lambda: None, 0)):
        caplog.clear()
        writer = OptionalWriter(open_writer)
        for step in range(3):
            writer.write_scalars(step, {})
        writer.close()
        assert [record.getMessage() for record in caplog.records] == [
            "TensorBoard's events cannot be written: division by zero. The run goes on without."
        ] * warnings
