"""Campaigns whose workers, drivers and nodes are killed at random: short runs of `scripts/campaign.py`."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "campaign.py"


def campaign(out, executor, **options):
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, str(SCRIPT), f"--executor={executor}", f"--out={out}", *words]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return json.loads(shown.stdout[shown.stdout.index("{") :])


def test_two_drivers_that_are_killed_lose_no_cell_and_repeat_none(tmp_path):
    found = campaign(tmp_path / "out", "processes", cells=40, kills=3, every=0.5, workers=1)
    assert (found["cells"], found["killed"]) == (40, 3)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_of_two_nodes_that_are_killed_loses_no_cell_and_repeats_none(tmp_path):
    found = campaign(
        tmp_path / "out", "ray", cells=60, kills=3, every=3, workers=1, drivers=1, nodes=2, seed=3
    )
    assert (found["cells"], found["killed"]) == (60, 3)
