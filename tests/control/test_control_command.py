"""The command as its user types it: a whole measurement in small, and what it refuses."""

import json

import pytest

from helpers import complaint, run, tiny_config
from imginav_jax.control import measure
from imginav_jax.runs.results import control_file, noise_file
from imginav_jax.system.errors import UserError
from imginav_jax.training import train

SMALL = ["--quick", "--unet-steps", "6", "--controlnet-steps", "8", "--batch-size", "4", "--held-out", "24"]
DATA = {"data.synthetic_size": 300, "num_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """R1 of 4x4 cells, with a dozen scenes held out."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config(folder, "R1,quick", **DATA)
    train.train(config, str(folder / "work"))
    return folder


@pytest.fixture(scope="module")
def measured(trained):
    out = trained / "phase" / "control_cpu_float32.json"
    result = run("control", trained / "work", *SMALL)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_a_measurement_leaves_its_files_and_a_table(measured):
    out, said = measured
    control = control_file.load(out)
    (latents,) = control.latents
    assert (latents.label, latents.latent_shape) == ("R1", (4, 4, 16))
    assert [point.step for point in latents.trials[0].equal_steps] == list(range(9))
    assert control.condition == "walls"
    noise = noise_file.load(noise_file.beside(out))
    assert noise.held_out == control.held_out
    assert noise.latents[0].points[0].sigma == 0
    there = {path.name for path in out.parent.glob("*control*")}
    assert there == {
        f"control_cpu_float32{end}" for end in (".json", ".npz", "_curves.png", "_pictures.png", "_noise.png")
    }
    assert "walls' F, 2 px of held-out layouts" in said
    assert str(out) in said.splitlines()[-1]


def test_the_report_shows_it(measured, trained):
    result = run("report", trained / "phase", "--out", trained / "report")
    assert result.returncode == 0, result.stderr
    page = (trained / "report" / "index.html").read_text()
    assert '<h2 id="control-measured">' in page
    assert "control&#39;s walls&#39; F, 2 px" in page
    assert (trained / "report" / "control.csv").read_text().count("\n") == 6
    content = json.loads((trained / "report" / "metrics.json").read_text())
    assert content["control"][0]["label"] == "R1"
    values = content["decisions"]["plain"]["outcomes"][0]["values"]
    assert "control's walls' F, 2 px" in values
    assert "probe's mIoU" not in values


def test_weights_that_have_changed_do_not_count(measured, trained, tmp_path):
    out, _ = measured
    content = json.loads(out.read_text())
    kept = out.read_text()
    content["latents"][0]["digest"] = "0"
    try:
        out.write_text(json.dumps(content))
        result = run("report", trained / "phase", "--out", tmp_path / "report")
    finally:
        out.write_text(kept)
    assert result.returncode == 0, result.stderr
    assert "is of other weights of phase1_2_AE_R1_ds3_quick: measure again" in result.stdout + result.stderr
    assert "probe" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a phase folder or workdirs are missing"),
        (["nowhere"], "nowhere"),
        (["--shift", "0", "x"], "--shift is 0.0, expected a number above 0"),
        (["--seeds", "0", "x"], "--seeds"),
        (["--condition", "rooms", "x"], "--condition"),
    ],
)
def test_mistakes_are_one_line(words, message):
    result = run("control", *words)
    assert result.returncode in (1, 2)
    assert message in complaint(result)


def test_what_cannot_be_measured_is_named(trained):
    few = complaint(run("control", trained / "work", *SMALL, "--held-out", "8"))
    assert "the 8 held-out layouts are of " in few
    assert "scenes, expected at least 10 for an interval" in few


def test_a_grid_must_be_halved_twice():
    measure.require_grid("R1", (64, 4, 16))
    for shape in ((6, 8, 16), (8, 2, 16)):
        with pytest.raises(UserError, match=f"R1 has latents of {shape[0]}x{shape[1]} cells, expected multiples of 4"):
            measure.require_grid("R1", shape)
