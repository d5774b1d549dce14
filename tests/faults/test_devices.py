"""Several devices and several processes: the same losses, one checkpoint for all, one end for all."""

import pytest

from imginav_jax.runs import checkpoints

EPOCHS = 4  # of six steps
LOSSES = ("train_loss", "val_loss")


def losses_of(place):
    return [[float(row[name]) for name in LOSSES] for row in place.rows()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, cache):
    from faults.conftest import Place

    place = Place(tmp_path_factory.mktemp("one"), cache)
    code, output = place.run(num_epochs=EPOCHS)
    assert code == 0, output
    return losses_of(place)


@pytest.mark.parametrize("devices", [4, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.fault(22, "2 and 4 devices: the losses of 24 steps")
def test_devices(place, expected, counted, devices):
    code, output = place.run(num_epochs=EPOCHS, devices=devices)
    assert code == 0, output
    assert losses_of(place) == [pytest.approx(losses, rel=1e-5) for losses in expected]
    counted(1)


@pytest.mark.fault(22, "2 processes: the losses of 24 steps")
def test_two_processes(place, expected, counted):
    codes, outputs = place.run_processes((), (), num_epochs=EPOCHS)
    assert codes == [0, 0], outputs
    assert losses_of(place) == [pytest.approx(losses, rel=1e-5) for losses in expected]
    assert outputs[1].count("Epoch") == 0, "one of them speaks"
    counted(1)


@pytest.mark.parametrize("name", ["USR2", pytest.param("TERM", marks=pytest.mark.slow)])
@pytest.mark.fault(22, "2 processes, one gets a signal: both save the same step and end")
def test_two_processes_and_a_signal(place, expected, counted, name):
    codes, outputs = place.run_processes((), (f"signal:{name}:step:8",), num_epochs=EPOCHS)
    assert codes == [{"USR2": 75, "TERM": 143}[name]] * 2, outputs
    found = checkpoints.find(place.checkpoints)
    assert found is not None
    assert found.damaged == {}
    assert 8 < found.step <= 11
    codes, outputs = place.run_processes((), (), num_epochs=EPOCHS)
    assert codes == [0, 0], outputs
    assert f"from the checkpoint of step {found.step}," in outputs[0]
    assert losses_of(place) == [pytest.approx(losses, rel=1e-5) for losses in expected]
    counted(1)


@pytest.mark.slow
@pytest.mark.fault(22, "2 processes that start from given weights")
def test_two_processes_from_given_weights(begun, counted, tmp_path):
    begun.folder = tmp_path / "on"
    codes, outputs = begun.run_processes((), (), num_epochs=1, init_from=tmp_path / "work")
    assert codes == [0, 0], outputs
    assert [row["epoch"] for row in begun.rows()] == ["0", "1"]
    counted(1)


@pytest.mark.slow
@pytest.mark.fault(22, "2 processes, one gets a signal while it compiles")
def test_two_processes_and_an_early_signal(place, counted):
    codes, outputs = place.run_processes((), ("signal:USR2:compile",), num_epochs=EPOCHS)
    assert codes == [75, 75], outputs
    counted(1)


@pytest.mark.parametrize(("first", "second"), [(4, 1), pytest.param(1, 4, marks=pytest.mark.slow)])
@pytest.mark.fault(22, "a checkpoint from 4 devices on 1, and from 1 on 4")
def test_another_number_of_devices(place, expected, counted, first, second):
    code, output = place.run("signal:USR2:step:9", num_epochs=EPOCHS, devices=first)
    assert code == 75, output
    code, output = place.run(num_epochs=EPOCHS, devices=second)
    assert code == 0, output
    assert losses_of(place) == [pytest.approx(losses, rel=1e-5) for losses in expected]
    counted(1)


@pytest.mark.parametrize("batch_size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4))])
@pytest.mark.fault(23, "a validation size that the batch does not divide")
def test_validation_in_batches(begun, counted, batch_size, tmp_path):
    """The same weights evaluated in batches and an image at a time."""
    rows = []
    for size in (1, batch_size):
        begun.folder = tmp_path / f"by {size}"
        code, output = begun.run(init_from=tmp_path / "work", num_epochs=0, batch_size=size)
        assert code == 0, output
        rows.append({name: float(value) for name, value in begun.rows()[0].items() if name.startswith("val_")})
    assert rows[1] == pytest.approx(rows[0], rel=1e-6, nan_ok=True)
    counted(1)
