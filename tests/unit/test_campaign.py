"""Campaigns whose workers, drivers and nodes are killed at random: short runs of `scripts/campaign.py`."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def campaign(tmp_path, monkeypatch, capsys):
    """Runs a campaign in this process; its drivers and workers are forked from one that has imported all."""
    monkeypatch.syspath_prepend(SCRIPTS)
    given = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", given)  # the script adds to it where it is imported for the first time
    import campaign

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([campaign.SYNTHETIC, given]))

    def run(executor, **options):
        words = [f"--{name}={value}" for name, value in options.items()]
        out = [f"--out={tmp_path / 'out'}", f"--executor={executor}", "--start=forkserver"]
        monkeypatch.setattr(sys, "argv", ["campaign.py", *out, *words])
        with pytest.raises(SystemExit) as ended:
            campaign.main()
        shown = capsys.readouterr().out
        assert not ended.value.code, shown
        return json.loads(shown[shown.index("{") :])

    return run


def test_two_drivers_that_are_killed_lose_no_cell_and_repeat_none(campaign):
    found = campaign("processes", cells=40, kills=3, every=0.5, workers=1)
    assert (found["cells"], found["killed"]) == (40, 3)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_of_two_nodes_that_are_killed_loses_no_cell_and_repeats_none(campaign):
    found = campaign("ray", cells=60, kills=3, every=3, workers=1, drivers=1, nodes=2, seed=3)
    assert (found["cells"], found["killed"]) == (60, 3)
