"""Runs of seconds and a config of the report that go with them."""

from configs import report as report_config
from helpers import ROOT, tiny_config
from imginav_jax.training import train

NAMES = {"R1": "phase1_2_AE_R1_ds3_quick", "R2": "phase1_2_AE_R2_ds4_quick", "R3": "phase1_2_AE_R3_ds5_quick"}


def train_tiny(folder, argument, **overrides):
    settings = {"data.synthetic_size": 60, "num_epochs": 2, "optimizer.learning_rate": 3e-3, "samples.count": 1}
    work = folder / "work" / argument.partition(",")[0]
    train.train(tiny_config(folder, argument, **settings | overrides), str(work))
    return work


def fast_config(**overrides):
    config = report_config.get_config()
    config.update_from_flattened_dict({"probe.steps": 20, "bootstrap.samples": 50, **overrides})
    return config


def write_config(path, min_scenes):
    """`fast_config` as a user would write it: the probe alone decides, with a margin that everything is within."""
    path.write_text(f"""import runpy

def get_config():
    config = runpy.run_path({str(ROOT / "configs" / "report.py")!r})["get_config"]()
    config.probe.steps, config.bootstrap.samples = 20, 50
    config.bootstrap.min_scenes, config.decision.margin = {min_scenes}, 0.99
    for name in config.decision.weights:
        config.decision.weights[name] = float(name == "probe_mean_iou")
    return config
""")
    return path
