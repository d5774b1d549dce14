"""What outputs and metrics are called, everywhere on the page, in its charts and in the terminal."""

from imginav_jax.report.decision.metrics import METRICS
from imginav_jax.report.measurement.subjects import PROBE, RGB, SEGMENTATION

OUTPUTS = {RGB: "snapped RGB", SEGMENTATION: "segmentation head", PROBE: "linear probe"}
ARROWS = {"higher": "↑", "lower": "↓"}


def call(metric: str, output: str = RGB) -> str:
    """Returns a metric's name; that of classes says whose, unless they are those of the snapped RGB output.

    The mIoU of one output is not that of another.
    """
    label = METRICS[metric].label
    return label if output == RGB else f"{label} of the {OUTPUTS[output]}"


def call_arm(arm: str) -> str:
    """Returns an arm's name as it begins a sentence."""
    name = arm.replace("_", " ")
    return name[:1].upper() + name[1:]


def with_unit(metric: str, output: str = RGB) -> str:
    """Returns a metric's name with its unit and an arrow to where it is better."""
    unit = f", {METRICS[metric].unit}" if METRICS[metric].unit else ""
    return f"{call(metric, output)}{unit} {ARROWS[METRICS[metric].is_better]}"
