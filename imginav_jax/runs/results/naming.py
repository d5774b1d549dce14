"""What the result files of a device are called."""

import re


def device_file(result: str, device_kind: str, precision: str) -> str:
    """Returns the name of the JSON file of one kind of result: "control_nvidia-l40s_bfloat16.json"."""
    device = re.sub(r"[^a-z0-9]+", "-", device_kind.lower()).strip("-")
    return f"{result}_{device}_{precision}.json"
