"""The VAE test: its rule, its measures of smoothness, and a report on two tiny runs."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import fast_config

from configs import phase1_3
from helpers import ROOT, tiny_config
from imginav_jax.datasets import synthetic
from imginav_jax.report import build, next_config, settings
from imginav_jax.report.decision import vae
from imginav_jax.report.decision.bootstrap import Estimate, Resampling
from imginav_jax.report.decision.outlook import Earlier
from imginav_jax.report.decision.vae import Comparison, Smoothness
from imginav_jax.report.decision.verdict import Candidate, Rule
from imginav_jax.report.measurement import realism, smoothness, structure
from imginav_jax.runs import continuation, phase_folder
from imginav_jax.system.errors import UserError
from imginav_jax.training import train

LABELS = "V1 deterministic", "V2 VAE"
RULE = Rule(margin=0.02, weights={"walls": 1.0, "objects": 3.0}, confidence=0.95)
NOISE = np.linspace(-1, 1, 201)


def candidate(label, walls, objects, spread=0.0, gained=0.0):
    """Two metrics, how far their samples reach to both sides, and what the last doubling of the training gave."""

    def estimates(less):
        found = {"walls": walls - less, "objects": objects - less}
        return {name: Estimate(value, value + spread * NOISE) for name, value in found.items()}

    return Candidate(label, (64, 64, 16), estimates(0.0), earlier=Earlier(estimates(gained), 1.0))


def between(palette, mmd, earlier=None):
    """Smoothness by the gain of each measure, with an interval of 0.01 to both sides."""
    measures = [
        Comparison(name, 0.5, 0.5, gain, gain - 0.01, gain + 0.01)
        for name, gain in ((vae.PALETTE, palette), (vae.MMD, mmd))
    ]
    return Smoothness(100, tuple(measures), earlier)


def decide(tested, smooth, reference=None, **options):
    return vae.decide([tested, reference or candidate(LABELS[0], 0.9, 0.9)], RULE, LABELS, smooth, **options)


@pytest.mark.parametrize(
    ("palette", "mmd", "verdict"),
    [
        (0.02, 0.02, "smoother"),
        (0.02, 0.0, "smoother"),
        (0.0, 0.02, "smoother"),
        (-0.02, 0.0, "not smoother"),
        (-0.02, -0.02, "not smoother"),
        (0.0, 0.0, "undecided"),
        (0.02, -0.02, "undecided"),
    ],
)
def test_smoother_is_what_is_better_by_one_measure_and_worse_by_none(palette, mmd, verdict):
    assert between(palette, mmd).verdict == verdict


def test_the_variational_model_wins_where_no_detail_is_lost_and_its_latents_are_smoother():
    found = decide(candidate(LABELS[1], 0.89, 0.89), between(0.02, 0.0, earlier="smoother"))
    assert (found.winner, found.status) == ("V2 VAE", "firm")
    assert found.sentence.startswith(
        "Take V2 VAE: every detail metric is within 2 points of V1 deterministic, and its latents are smoother: "
        "palette share of the midpoints 0.500 against 0.500 (better by 0.010 to 0.030) and"
    )
    assert [each.verdict for each in found.outcomes] == ["preferred", "within"]


def test_every_metric_counts_and_not_their_mean():
    found = decide(candidate(LABELS[1], 0.85, 0.9), between(0.02, 0.0))
    assert (found.winner, found.status) == ("V1 deterministic", "firm")
    assert found.sentence == "Take V1 deterministic: V2 VAE's walls falls by 5.0 points [5.0, 5.0], margin 2.0."
    assert found.would_change == "V2 VAE's walls, were it 3.0 points higher"


def test_the_deterministic_model_wins_where_the_latents_are_not_smoother():
    found = decide(candidate(LABELS[1], 0.9, 0.9), between(-0.02, 0.0, earlier="smoother"))
    assert (found.winner, found.status) == ("V1 deterministic", "provisional")
    assert "the latents of V2 VAE are not smoother" in found.sentence
    assert found.sentence.endswith("Provisional, because at about half the training the latents were smoother.")
    found = decide(candidate(LABELS[1], 0.9, 0.9), between(-0.02, 0.0, earlier="not smoother"))
    assert (found.winner, found.status) == ("V1 deterministic", "firm")


def test_a_verdict_that_more_training_might_change_is_provisional():
    found = decide(candidate(LABELS[1], 0.89, 0.89), between(0.02, 0.0))
    assert (found.winner, found.status) == ("V2 VAE", "provisional")
    assert "no checkpoint from about half the training is left" in found.sentence
    still_improving = candidate(LABELS[1], 0.85, 0.9, gained=0.1)
    found = decide(still_improving, between(0.02, 0.0))
    assert (found.winner, found.status) == ("V1 deterministic", "provisional")
    assert "V2 VAE is still improving: the last doubling of training gave its walls 10.0 points more" in found.sentence


def test_what_cannot_be_told_is_undecided_with_its_reason():
    same, worse = candidate(LABELS[1], 0.9, 0.9), candidate(LABELS[1], 0.88, 0.9, spread=0.03)
    cases = [
        (same, between(0.0, 0.0), "Undecided, because nothing says whose latents are smoother: palette share"),
        (worse, between(0.02, 0.0), "Undecided, because V2 VAE may or may not be good enough: walls falls by 2.0"),
        (same, None, "Undecided, because its midpoints were not measured."),
    ]
    assert decide(same, between(0.0, 0.0)).would_change == "more validation scenes, for narrower intervals"
    capped = dataclasses.replace(between(0.0, 0.0), is_capped=True)
    assert "a larger smoothness.pairs" in decide(same, capped).would_change
    for tested, smooth, reason in cases:
        found = decide(tested, smooth)
        assert (found.winner, found.status) == (None, "undecided")
        assert found.sentence.startswith(reason)
    alone = vae.decide([candidate(LABELS[0], 0.9, 0.9)], RULE, LABELS, None)
    assert alone.sentence == "Undecided, because V2 VAE is missing."
    known = decide(candidate(LABELS[1], 0.9, 0.9), between(0.02, 0.0), incomplete={LABELS[1]: "V2 has not finished"})
    assert known.sentence == "Undecided, because V2 has not finished."


@pytest.fixture(scope="module")
def real():
    scenes = (synthetic.generate_scene(0, index, 64) for index in range(120))
    maps = [structure.class_map(np.asarray(scene[0].image))[1] for scene in scenes]
    return np.stack([realism.features(each) for each in maps])


def test_of_two_models_alike_the_difference_is_0_within_its_interval(real):
    random, held = np.random.default_rng(0), []
    groups = [str(index) for index in range(40)]
    scaled = realism.standardize(real, real)
    for draw in range(150):
        order = random.permutation(len(scaled))
        first, second, target = (scaled[order[start : start + 40]] for start in (0, 40, 80))
        found = realism.compare_mmd(first, second, target, groups, 0.95, seed=draw)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.05)


def test_the_interval_is_that_of_exchanging_the_models_one_by_one(real):
    scaled = realism.standardize(real, real)
    first, second, target = scaled[:20], scaled[20:40] + 0.3, scaled[40:60]
    groups = [str(index // 2) for index in range(20)]
    swaps = np.random.default_rng(0).choice([-1.0, 1.0], (1000, 10)).repeat(2, 1) < 0
    values = []
    for swap in swaps:
        pair = np.where(swap[:, None], second, first), np.where(swap[:, None], first, second)
        near, far = (realism.mmd(each, target, groups, 0.9).value for each in pair)
        values.append(near - far)
    found = realism.compare_mmd(first, second, target, groups, 0.9)
    low, high = np.quantile(values, [0.05, 0.95])
    assert (found.value - found.high, found.value - found.low) == pytest.approx((low, high), abs=1e-9)


def test_a_model_that_draws_what_no_layout_has_is_found_out(real):
    scaled = realism.standardize(real, real)
    first, second, target = scaled[:40] + 1.0, scaled[40:80], scaled[80:]
    found = realism.compare_mmd(first, second, target, [str(index) for index in range(40)], 0.95)
    assert found.low > 0
    counts = [
        {"palette_fidelity": np.full(40, share), "features": real[:40] + step * real.std(0)}
        for share, step in ((0.5, 1.0), (0.75, 0.0))
    ]
    scenes = [str(index) for index in range(40)]
    palette, mmd = vae.compare(*counts, real[80:], scenes, RULE, Resampling(scenes, 100, 0))
    assert (palette.deterministic, palette.variational, palette.gain) == (0.5, 0.75, 0.25)
    assert (palette.verdict, mmd.verdict) == ("better", "better")


@given(st.lists(st.sampled_from("abcdefg"), min_size=0, max_size=40), st.integers(1, 20), st.integers(0, 5))
def test_pairs_of_different_groups_have_no_scene_in_common_and_no_layout_is_in_two(scenes, count, seed):
    pairs = smoothness.choose_pairs(scenes, count, seed)
    assert len(pairs) <= count
    assert len({*pairs.first, *pairs.second}) == 2 * len(pairs)
    groups = {}
    for a, b, group in zip(pairs.first, pairs.second, pairs.groups, strict=True):
        assert scenes[a] != scenes[b]
        groups.setdefault(group, set()).update((scenes[a], scenes[b]))
    assert all(len(each) == 2 for each in groups.values())
    assert len(set().union(*groups.values())) == 2 * len(groups)
    assert pairs == smoothness.choose_pairs(scenes, count, seed)
    if len({*scenes}) > 1 and count > 2:
        assert pairs.groups


def test_pairs_are_spread_over_all_scenes():
    scenes = [scene for scene in "abcdef" for _ in range(5)]
    assert sorted(smoothness.choose_pairs(scenes, 3, 0).groups) == ["0", "1", "2"]
    assert len(smoothness.choose_pairs(scenes, 200, 0)) == 15


def test_layouts_alike_within_their_scenes_do_not_make_intervals_too_narrow():
    random, held = np.random.default_rng(0), []
    scenes = [str(scene) for scene in range(20) for _ in range(8)]
    pairs = smoothness.choose_pairs(scenes, 80, 0)
    for draw in range(200):
        effect = random.normal(size=20).repeat(8)  # of a scene on the gain of its layouts; 0 on average
        gain = effect[pairs.first] + effect[pairs.second] + random.normal(size=len(pairs)) / 4
        resampling = Resampling(pairs.groups, 400, draw)
        counts = {"sum": gain, "number": np.ones(len(pairs))}
        mean = {"mean": lambda counts: counts["sum"] / counts["number"]}
        low, high = resampling.estimate([counts], mean, resampling.draw_seeds(1))["mean"].interval(0.95)
        held.append(low <= 0 <= high)
    assert np.mean(held) > 0.9


def train_tiny(folder, argument):
    changes = {
        "data.synthetic_size": 120,
        "model.downsampling_steps": 1,
        "num_epochs": 2,
        "samples.count": 1,
        "checkpoint.every_epochs": 1,
    }
    config = tiny_config(folder, f"{argument},quick", phase1_3.get_config, **changes)
    train.train(config, str(folder / argument))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What was found of V1 and V2, and the report's folder."""
    folder = tmp_path_factory.mktemp("vae")
    for argument in ("V1", "V2"):
        train_tiny(folder, argument)
    config = fast_config(**{"bootstrap.min_scenes": 1, "smoothness.pairs": 6})
    return *build.build([folder / "phase"], None, config), folder


def test_the_report_of_a_vae_test_is_about_nothing_else(report):
    found, out, folder = report
    assert list(found.decisions) == ["VAE_test"]
    assert [each.label for each in found.first_decision.outcomes] == list(LABELS)
    content = json.loads((out / "metrics.json").read_text())
    assert content["chosen"] is None
    names = [each["name"] for each in content["smoothness"]["VAE_test"]["measures"]]
    assert names == [vae.PALETTE, vae.MMD]
    page = (out / "index.html").read_text()
    assert "<title>Deterministic or variational?</title>" in page
    assert "The runs differ in more" not in page
    assert "The rule of a VAE test" in page
    assert "finest latent" not in page
    assert not (out / "quality_latent.png").exists()
    assert (out / "midpoints_VAE_test.png").exists()
    (row,) = content["posteriors"]
    with (folder / "phase" / "phase1_3_AE_V2_vae_light_quick_metrics.csv").open(newline="") as file:
        logged = {each["step"]: each for each in csv.DictReader(file)}
    best = str(found.found.groups[1].runs[0].trained.weights.step)
    assert row["kl"] == pytest.approx(float(logged[best]["val_KLD"]) / 1e-4)
    assert re.search(rf"{row['active_channels']} of 16", page)


def test_a_second_report_measures_no_midpoint_again(report, monkeypatch):
    found, out, folder = report
    monkeypatch.setattr(smoothness, "decode_midpoints", None)
    monkeypatch.setattr("imginav_jax.report.page.gallery._midpoints", lambda *_: [])
    again, _ = build.build([folder / "phase"], out, found.config)
    assert again.smoothness == found.smoothness


def test_a_run_of_the_test_goes_on_by_its_own_config(report):
    _, _, folder = report
    for label, run in zip(("V1", "V2"), phase_folder.find([folder / "phase"]).runs, strict=True):
        said = continuation.command(run, 4)
        assert said.startswith(f"python -m imginav_jax.main --config=configs/phase1_3.py:{label},quick ")
        assert "--config.loss.kl" not in said


def test_a_config_that_an_earlier_version_has_written_is_passed_over(report, tmp_path, monkeypatch):
    _, _, folder = report
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "phase1_3.py").write_text("def get_config():\n    return None\n")
    monkeypatch.chdir(tmp_path)
    assert continuation.command(phase_folder.find([folder / "phase"]).runs[0], 4) == ""


def test_phase_1_3_starts_from_a_run_of_phase_1_2_alone(report):
    expected = r"phase1_3_AE_V2_vae_light_quick is of configs/phase1_3\.py, expected a run of configs/phase1_2\.py"
    with pytest.raises(UserError, match=expected):
        next_config.find_choice(dataclasses.replace(report[0], chosen="V2 VAE"))
    found, _, folder = report
    with pytest.raises(UserError, match=expected):  # and before anything is measured
        build.build([folder / "phase"], folder / "never", found.config, chosen="V2 VAE")
    assert not (folder / "never").exists()


def test_a_config_of_before_there_were_vae_tests_is_completed(tmp_path):
    path = tmp_path / "older.py"
    path.write_text(
        f"""import runpy

def get_config():
    config = runpy.run_path({str(ROOT / "configs" / "report.py")!r})["get_config"]()
    del config.smoothness, config.decision.vae_tests
    return config
"""
    )
    assert settings.load(path).smoothness.pairs == 200
