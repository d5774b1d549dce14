"""What a GPU node installs: it resolves against the package index, together with requirements.txt."""

import json
import os
import re
import subprocess
import sys

import pytest

from helpers import ROOT
from imginav_jax.devices import cards

FILES = ROOT / "requirements.txt", ROOT / "requirements-gpu.txt"
PIP = "pip==26.3"  # reads the wheels' metadata alone, if told to; older ones fetch gigabytes even in a dry run


def pins(path):
    """Versions by package, of lines such as `name[extra]==1.2  # why`."""
    found = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def pip(*arguments, folder=None):
    environment = {**os.environ, "PYTHONPATH": str(folder)} if folder else None
    return subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_pins_belong_together():
    cpu, gpu = map(pins, FILES)
    assert gpu["jax-cuda12-plugin"] == gpu["jax-cuda12-pjrt"] == cpu["jax"] == cpu["jaxlib"]
    assert gpu[cards.CUDNN] == cards.LAST_VOLTA_CUDNN
    assert all("cu13" not in name and "cuda13" not in name for name in gpu)
    cards.check_cudnn("Tesla V100-SXM2-16GB", gpu[cards.CUDNN])


@pytest.mark.card
def test_they_resolve_against_the_index_and_every_package_for_the_card_is_pinned(tmp_path):
    if sys.platform != "linux":
        pytest.skip("the CUDA wheels are for Linux")
    fetched = pip("install", "--quiet", "--no-deps", "--retries=1", "--timeout=10", "--target", tmp_path / "pip", PIP)
    if fetched.returncode:
        pytest.skip(f"the package index cannot be reached: {fetched.stderr.strip().splitlines()[-1]}")
    report = tmp_path / "report.json"
    files = [option for path in FILES for option in ("-r", path)]
    options = "--dry-run", "--quiet", "--ignore-installed", "--use-feature=fast-deps", "--report", report
    resolved = pip("install", *options, *files, folder=tmp_path / "pip")
    assert resolved.returncode == 0, resolved.stderr
    packages = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    found = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in packages}
    pinned = pins(FILES[0]) | pins(FILES[1])
    assert found | pinned == found
    assert not [name for name in found if name.startswith(("nvidia", "jax")) and name not in pinned]
