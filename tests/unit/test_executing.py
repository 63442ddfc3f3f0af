"""Where cells are computed, as the command line says it: executors, their options, and a second machine."""

import gc
import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from spikeproof.command.cli import cli
from spikeproof.command.executing import HERE, Workplace
from spikeproof.command.terminal import Lines
from spikeproof.errors import InputError
from spikeproof.experiments.run.driver import Alive, Busy, cells_of_plan
from spikeproof.experiments.run.executors import Processes, Progress, Serial, pools
from spikeproof.experiments.run.executors.on_ray import Ray
from spikeproof.experiments.run.executors.on_slurm import Slurm
from spikeproof.experiments.run.queue.failures import Failure

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import FORKING

STUDY = """\
name: tiny
data: digits
models:
  - encoder: {latency: {steps: 2}}
    network: {mlp: {hidden: [4]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
attacks: [fgsm, {noise: {draws: 2}}]
epsilons: [0.1]
examples: 10
"""


def call(*arguments, status=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


def numbers(out):
    paths = ("model", "cell", "train_cell", "clean_cell")
    rows = json.loads(call("show", out, "--json"))
    return [{key: value for key, value in row.items() if key not in paths} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("executing")
    (folder / "study.yaml").write_text(STUDY)
    output = call("run", folder / "study.yaml", "--out", folder / "out", "--executor", "serial")
    assert "5 cells: 5 computed" in output
    return folder


def extra(name):
    return pytest.param(
        name, marks=pytest.mark.skipif(not importable(name), reason=f"{name} is not installed")
    )


def importable(name):
    from importlib.util import find_spec

    return find_spec({"slurm": "submitit"}.get(name, name)) is not None


OPTIONS = {
    "processes": ["--workers", 1],
    "ray": ["--workers", 1],
    "slurm": ["--workers", 1, "--slurm", "cluster=local", "--slurm", "timeout_min=5"],
}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # processes of ray and submitit
@pytest.mark.parametrize("executor", ["processes", extra("ray"), extra("slurm")])
def test_every_executor_gives_the_same_numbers(executor, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "START", FORKING)
    out = tmp_path / "out"
    output = call("run", whole / "study.yaml", "--out", out, "--executor", executor, *OPTIONS[executor])
    assert "5 cells: 5 computed" in output
    assert numbers(out) == numbers(whole / "out")
    gc.collect()  # here, where warnings about processes that are left are ignored


def test_a_second_machine_computes_what_is_left_of_a_study_it_did_not_begin(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    for cell in cells_of_plan(out)[2:4]:
        shutil.rmtree(out / "cells" / cell.address)
    output = call("work", out, "--executor", "serial", "--device", "cpu")
    assert "5 cells: 2 computed, 3 kept" in output
    assert numbers(out) == numbers(whole / "out")
    assert "Expected the output directory of a study" in call("work", tmp_path / "none", status=2)


def placed(**options):
    return {**HERE, **options}


@pytest.mark.parametrize(
    ("options", "executor"),
    [
        ({"workers": 1}, Serial),
        ({"workers": 3}, Processes(3)),
        ({"executor": "serial"}, Serial),
        ({"executor": "processes", "workers": 1}, Processes(1)),
        ({"executor": "ray", "ray_address": "auto", "gpus_per_worker": 0.5}, Ray(None, "auto", 0.5)),
        (
            {"executor": "slurm", "workers": 2, "slurm": ("mem_gb=1.5", "slurm_partition=long")},
            Slurm(2, {"mem_gb": 1.5, "slurm_partition": "long"}),
        ),
        (
            {"executor": "slurm", "workers": 2, "slurm": ("cluster=local", "timeout_min=3")},
            Slurm(2, {"timeout_min": 3}, "local"),
        ),
    ],
)
def test_options_make_an_executor(options, executor):
    found = Workplace(placed(**options), "cpu", 9).executor()
    assert found == executor or type(found) is executor


def test_workers_of_ray_on_accelerators_have_one_each():
    assert Workplace(placed(executor="ray", workers=2), "cuda:0", 9).executor().gpus == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ray_address": "auto"}, "--ray-address with --executor ray"),
        (
            {"executor": "slurm", "workers": 1, "gpus_per_worker": 0.5},
            "--gpus-per-worker with --executor ray",
        ),
        ({"executor": "ray", "slurm": ("a=1",)}, "--slurm with --executor slurm"),
        ({"executor": "slurm"}, "--workers with --executor slurm"),
        ({"executor": "slurm", "workers": 1, "slurm": ("nothing",)}, "--slurm KEY=VALUE"),
        ({"executor": "slurm", "workers": 1, "slurm": ("a b=1",)}, "--slurm KEY=VALUE"),
        ({"executor": "serial", "workers": 2}, "One worker with --executor serial"),
    ],
)
def test_options_of_another_executor_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Workplace(placed(**options), "cpu", 9).executor()


def test_an_executor_whose_package_is_missing_says_how_to_install_it(whole, tmp_path, monkeypatch):
    import sys

    for package, extra in (("ray", "ray"), ("submitit", "slurm")):
        monkeypatch.setitem(sys.modules, package, None)
        arguments = ("run", whole / "study.yaml", "--out", tmp_path / "out", "--workers", 1)
        assert f"'spikeproof[{extra}]'" in call(*arguments, "--executor", extra, status=2)


def test_a_long_silence_is_broken_by_a_line_with_a_forecast(whole, monkeypatch, capsys):
    monkeypatch.setattr("spikeproof.command.terminal.SECONDS_BETWEEN_SIGNS", -1.0)
    cells, lines = cells_of_plan(whole / "out"), Lines()
    lines.planned(cells)
    busy = Busy(cells[3], 75.0, Progress(1, 2))
    lines.alive(Alive(3, 5, 7300.0, (busy,)))
    lines.alive(Alive(3, 5, None, ()))
    lines.retrying(cells[3], Failure("OSError: busy", aside=False))
    shown = capsys.readouterr().out.splitlines()
    assert "about 2.0 h left" in shown[0]
    assert "fgsm 0.1 on mlp/lif/latency/count for 75 s" in shown[0]
    assert "fgsm 0.1 on mlp/lif/latency/count for 75 s (1 of 2)" in shown[0]
    assert "no forecast yet" in shown[1]
    assert shown[2].startswith("once more in 1 s: fgsm")
