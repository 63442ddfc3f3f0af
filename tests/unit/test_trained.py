"""The models of a study as `spikeproof list models` prints them."""

import json
import shutil

import pytest
from click.testing import CliRunner

import spikeproof
from spikeproof.command.cli import cli
from spikeproof.experiments.read.trained import _cost, _overfitted

STUDY = """
name: two
data: digits
models:
  - {encoder: {latency: {steps: 4}}, network: {mlp: {hidden: [4]}}, rule: {bptt: {epochs: 1}}}
  - {encoder: {direct: {steps: 4}}, network: {mlp: {hidden: [4]}}, rule: {bptt: {epochs: 1}}}
examples: 10
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.yaml").write_text(STUDY)
    out = folder / "out"
    done = CliRunner().invoke(cli, ["run", str(folder / "two.yaml"), "--out", str(out), "--workers", "1"])
    assert done.exit_code == 0, done.output
    return out


def listed(study):
    return json.loads(CliRunner().invoke(cli, ["list", "models", str(study), "--json"]).output)


def test_every_model_is_listed_with_a_directory_that_loads(study):
    found = listed(study)
    assert [row["encoder"] for row in found] == ["latency", "direct"]
    for row in found:
        assert row["trained"]
        assert type(spikeproof.load(row["model"]).encoder).__name__.lower() == row["encoder"]
        assert row["processor_seconds"] > 0
        assert row["overfitted"] is None
    words = CliRunner().invoke(cli, ["list", "models", str(study)]).output
    assert all(f"{row['processor_seconds']:<7.3g}  {row['model']}" in words for row in found)


def test_an_overfitted_training_is_said_to_be_one_and_an_older_record_has_no_cost():
    watch = {"weak": 0.9, "strong": 0.1, "overfitted": True}
    assert _overfitted([{"epoch": 1, "watch": None}, {"epoch": 2, "watch": watch}]) == 2
    assert _overfitted([{"epoch": 1}]) is None
    assert _cost([{"epoch": 1}, {"epoch": 2, "processor_seconds": 3.0}]) == 3.0
    assert _cost([{"epoch": 1}]) is None


def test_a_model_without_weights_is_said_to_be_untrained(study, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    shutil.rmtree(copy / "cells" / listed(study)[0]["model"].rsplit("/")[-1])
    assert [row["trained"] for row in listed(copy)] == [False, True]
    assert "(not trained yet)" in CliRunner().invoke(cli, ["list", "models", str(copy)]).output


def test_a_directory_without_a_study_is_refused_in_one_sentence(tmp_path):
    for arguments in (["list", "models"], ["list", "models", str(tmp_path)]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 2
        assert "Traceback" not in done.output
