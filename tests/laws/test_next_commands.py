"""Laws of the commands that are named to a user: each is one of ours, and runs as it is printed."""

import html
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import spikeproof
import spikeproof.experiments.run.compute as compute
from spikeproof.auditing.checks import CHECKS
from spikeproof.command.cli import cli
from spikeproof.command.terminal import print_next
from spikeproof.experiments.read.results import records

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from shortened import brief_suites
from stored_study import Bench
from test_data_sets import idx

ROOT = Path(spikeproof.__file__).parent
SAID = re.compile(r"`(spikeproof [a-z][^`]*)`")
PROGRAM = """
import torch

def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
STUDY = """
name: given
data: digits
models: [{{model: {{foreign: {{make: "{0}:make_model"}}}}}}]
suite: quick
epsilons: [0.01]
examples: 30
"""


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    with brief_suites({"steps": 5, "restarts": 1, "refine": 5, "queries": 20}, compute):
        yield


@pytest.fixture
def program(tmp_path):
    folder = tmp_path / "my nets"
    folder.mkdir()
    (folder / "net.py").write_text(PROGRAM)
    return folder / "net.py"


def parsed(words):
    """The verb and the parameters of a command, which is not run."""
    name, verb, *rest = shlex.split(words)
    assert name == "spikeproof"
    command = cli.commands[verb]
    return verb, command.make_context(verb, rest).params


def ran(*arguments):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{arguments}: {done.output}"
    return done.output


def test_every_command_in_the_source_is_one_of_ours_with_options_that_it_has():
    texts = [path.read_text() for path in (*ROOT.rglob("*.py"), *ROOT.rglob("*.html"))]
    found = {
        words
        for text in texts
        for words in (*SAID.findall(text), *re.findall(r'"(spikeproof [a-z][^"]*)"', text))
    }
    found |= {words for check in CHECKS for words in SAID.findall(check.remedy)}
    assert len(found) > 10
    for words in found - {"spikeproof doctor"}:
        _, verb, *rest = words.split()
        options = {name for each in cli.commands[verb].params for name in each.opts}
        assert {word for word in rest if word.startswith("-")} <= options, words


@pytest.mark.parametrize("verb", ["evaluate", "run"])
def test_what_is_named_after_a_measurement_runs_as_it_is_printed(program, tmp_path, verb):
    out = tmp_path / "my runs"
    if verb == "run":
        (tmp_path / "given.yaml").write_text(STUDY.format(program))
        said = ran("run", tmp_path / "given.yaml", "--out", out, "--workers", 1)
    else:
        asked = ("--dataset", "digits", "--epsilon", "0.01", "--examples", "30", "--suite", "quick")
        said = ran("evaluate", f"{program}:make_model", *asked, "--out", out)
    page = (out / "report.html").read_text()
    (words,) = SAID.findall(said.splitlines()[-1])
    then, given = parsed(words)
    assert (then, given["make"]) == ("audit", (f"{program}:make_model",))
    if verb == "evaluate":
        ran(*shlex.split(words)[1:])
        (words,) = SAID.findall(ran("report", out).splitlines()[-1])
        ran(*shlex.split(words)[1:])
    (advice,) = re.findall(r"<code>(spikeproof audit DIR[^<]*)</code>", page)
    assert parsed(html.unescape(advice))[1]["make"] == given["make"]


@pytest.mark.parametrize("folder", ["plain", "with space", "-begins-like-an-option", "it's"])
def test_a_command_is_read_as_it_was_meant_whatever_a_folder_is_called(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path / folder)
    bench.attack(bench.model("latency"), "pgd", 0.1, 0.5)
    bench.finish()
    print_next(Path(folder), records(tmp_path / folder), ["a net.py:f"], Path("my data"))
    (words,) = SAID.findall(capsys.readouterr().out)
    verb, given = parsed(words)
    place = given["model"] if verb == "audit" else given["directory"]
    assert place.resolve() == (tmp_path / folder).resolve()
    if verb == "audit" and not given["verdicts"]:
        assert (given["make"], given["data"]) == (("a net.py:f",), Path("my data"))


@pytest.mark.parametrize("option", ["--data", "--data="])
def test_a_report_names_the_data_that_the_study_was_measured_on(program, tmp_path, monkeypatch, option):
    """The command of a study is noted with its cells, so that a report made later knows it as well."""
    data, out = tmp_path / "my data", tmp_path / "out"
    data.mkdir()
    idx(data, np.random.default_rng(0))
    program.write_text(PROGRAM.replace("64", "16"))
    study = STUDY.format(program).replace("data: digits", "data: {fashion-mnist: {hold_out: 100}}")
    (tmp_path / "study.yaml").write_text(study)
    words = ["run", str(tmp_path / "study.yaml"), "--out", str(out), "--workers", "1"]
    words += [f"--data={data}"] if option.endswith("=") else ["--data", str(data)]
    monkeypatch.setattr(sys, "argv", ["spikeproof", *words])
    for said in (ran(*words), ran("report", out)):
        (next_one,) = SAID.findall(said.splitlines()[-1])
        assert parsed(next_one)[1]["data"] == data
    ran(*shlex.split(next_one)[1:], "--rounds", "0")
    data.rename(tmp_path / "gone")
    (next_one,) = SAID.findall(ran("report", out).splitlines()[-1])
    assert parsed(next_one)[1].get("data") is None
