"""The command line: what it prints, its exit status, and what it imports."""

import json
import os
import subprocess
import sys
from functools import cache

import pytest
from click.testing import CliRunner

import spikeproof
from spikeproof.catalogue.names import members
from spikeproof.command import doctor
from spikeproof.command.cli import KINDS, cli, guarded

STUDY = """\
name: tiny
data: digits
models:
  - encoder: {latency: {steps: 2}}
    network: {mlp: {hidden: [4]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
attacks: [fgsm]
epsilons: [0.1]
examples: 10
"""


def call(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refusal(*arguments):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def out(folder):
    result = call("run", folder / "study.yaml", "--out", folder / "out", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "4 cells: 4 computed, 0 kept" in result.output
    assert str(folder / "out" / "report.html") in result.output
    assert "latency" in result.output
    return folder / "out"


def test_a_second_run_says_that_it_computed_nothing(folder, out):
    result = call("run", folder / "study.yaml", "--out", out)
    assert (result.exit_code, "4 cells: 0 computed, 4 kept" in result.output) == (0, True)


def test_a_finished_study_run_again_leaves_every_file_as_it_is(folder, out):
    def state():
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.rglob("*") if path.is_file()
        }

    before = state()
    assert call("run", folder / "study.yaml", "--out", out, "--workers", 1).exit_code == 0
    assert state() == before
    (out / "table.csv").write_text("changed")
    result = call("run", folder / "study.yaml", "--out", out, "--workers", 1)
    assert "report.html" in result.output
    assert (out / "table.csv").read_text().startswith("study,")


def test_show_prints_a_table_or_one_object_per_number(out):
    assert "linf 0.1" in call("show", out).output
    rows = json.loads(call("show", out, "--json").output)
    wanted = (
        *("dataset", "network", "encoder", "decoder", "rule", "attack", "threat", "epsilon", "seed", "n"),
        *("clean_accuracy", "robust_accuracy", "ci_low", "ci_high", "model"),
    )
    assert [row["attack"] for row in rows] == ["fgsm", "worst-case"]
    assert all(set(wanted) <= set(row) for row in rows)


def test_status_counts_what_is_finished(out):
    words = " ".join(call("status", out).output.split())
    assert words == "study tiny train 1 of 1 clean 1 of 1 inspect 1 of 1 attack 1 of 1"


def test_report_is_written_anew(out):
    (out / "report.html").unlink()
    assert call("report", out).exit_code == 0
    assert (out / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_list_describes_every_member_in_one_sentence(kind):
    found = json.loads(call("list", kind, "--json").output)
    plain = call("list", kind).output.splitlines()
    assert [line.split()[0] for line in plain] == [member["name"] for member in found]
    for member in found:
        assert member["description"].endswith(".")
        assert "\n" not in member["description"]


def test_doctor_reports_versions_and_data(monkeypatch):
    monkeypatch.setattr(doctor, "examine", cache(doctor.examine))  # the files of data sets are read once
    found = json.loads(call("doctor", "--json").output)
    assert found["versions"]["spikeproof"] == spikeproof.__version__
    assert set(found["data"]) == set(members("datasets"))
    assert "fashion-mnist" in call("doctor").output


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "examples",
            "exmaples",
            "study.yaml:9: expected a key that is known here: got 'exmaples'. Did you mean",
        ),
        ("fgsm", "fgms", "study.yaml:7: expected a name of kind Recipe: got 'fgms'. Did you mean 'fgsm'?"),
        ("latency", "latncy", "study.yaml:4: "),
        ("[0.1]", "[-1]", "study.yaml:8: An epsilon is a number of at least 0: got -1"),
        ("[0.1]", "[8/0]", "study.yaml:8: An epsilon is a number of at least 0: got '8/0'"),
        ("[0.1]", "[abc]", "study.yaml:8: An epsilon is a number of at least 0: got 'abc'"),
        ("[0.1]", "[0.1", "study.yaml:9: expected one YAML document"),
        ("10", "100000", "study.yaml:9: The test part of digits has 360 images: got examples=100000"),
        ("steps: 2", "steps: 1000000000", "study.yaml:4: expected at most 1000000 time steps"),
        (
            "{mlp: {hidden: [4]}}",
            "{convnet: {channels: [1, 1, 1, 1, 1]}}",
            "study.yaml:5: ConvNet needs images that it can halve once per block",
        ),
    ],
)
def test_a_mistake_in_a_study_is_one_message_with_its_line(tmp_path, right, wrong, message):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace(right, wrong, 1))
    assert message in refusal("run", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_misspelt_names_missing_studies_and_devices_are_one_message(folder, tmp_path):
    study = folder / "study.yaml"
    (tmp_path / "file").write_text("")
    assert "Did you mean 'quickstart'" in refusal("run", "quikstart")
    assert "Did you mean 'examples'" in refusal("run", study, "exmaples=3")
    assert "written key=value" in refusal("run", study, "examples")
    assert "output directory" in refusal("run", study, "--out", tmp_path / "file" / "out")
    assert "Expected a device" in refusal("run", study, "--out", tmp_path, "--device", "abacus")
    assert "study.json" in refusal("status", tmp_path / "nowhere")
    assert "study.json" in refusal("show", tmp_path)
    assert "study.json" in refusal("report", tmp_path / "file")
    assert "encoders" in refusal("list", "encodrs")
    assert "--workers" in refusal("run", study, "--workers", "0")
    assert "No such command" in refusal("rnu")


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--threat", "[" * 5000, "--threat: a study has at most"),
        ("--threat", "2020-99-99", "expected a name of kind Threat"),
        ("--threat", "!!int 0.1", "--threat:1: expected"),
        ("--threat", '"\\UFFFFFFFF"', "--threat"),
        ("--threat", "{shifts: {name: x}}", "Leave out name and epsilon"),
        ("--epsilon", "1_000", "An epsilon is a number of at least 0"),
        ("--epsilon", "٣", "An epsilon is a number of at least 0"),
        ("--dataset", "a\0b", "no UTF-8 text without NUL"),
        ("--device", "\udcff", "no UTF-8 text without NUL"),
    ],
)
def test_text_that_is_typed_is_used_or_refused_in_a_sentence(folder, out, option, text, message):
    model = next(path for path in out.glob("cells/*") if (path / "model.json").exists())
    assert message in refusal("evaluate", model, "--suite", "quick", option, text)


@pytest.mark.parametrize("place", ["a\0b", "a\udcff"])
def test_a_name_that_cannot_be_written_is_refused_before_anything_is_computed(folder, tmp_path, place):
    assert "no UTF-8 text without NUL" in refusal(
        "run", folder / "study.yaml", "--out", f"{tmp_path}/{place}"
    )
    assert "no UTF-8 text without NUL" in refusal("show", f"{tmp_path}/{place}")


def test_a_study_of_millions_of_models_is_refused_before_they_are_made(folder, tmp_path):
    widths = ", ".join(f"{{mlp: {{hidden: [{n}]}}}}" for n in range(1, 300))
    codes = ", ".join(f"{{latency: {{steps: {n}}}}}" for n in range(1, 300))
    rules = ", ".join(f"{{bptt: {{epochs: {n}}}}}" for n in range(1, 300))
    settings = [
        f"models.{axis}=[{each}]" for axis, each in (("network", widths), ("encoder", codes), ("rule", rules))
    ]
    said = refusal("run", folder / "study.yaml", *settings, "--out", tmp_path)
    assert "a study of at most 100000 cells" in said
    assert "26730899 models" in said
    assert "a study of at most 3 cells" in refusal(
        "run", folder / "study.yaml", "--limit", 3, "--out", tmp_path
    )


def test_a_package_that_does_not_import_is_one_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for name in [name for name in sys.modules if name.startswith("spikeproof.experiments.run")]:
        monkeypatch.delitem(sys.modules, name)
    said = refusal("run", folder / "study.yaml", "--out", tmp_path)
    assert "This needs pyarrow, which is not installed. Try pip install 'spikeproof[study]'." in said


def test_data_that_are_not_there_are_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKEPROOF_MIRROR_MNIST", "http://127.0.0.1:9/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    message = refusal("run", "fashion", "--data", tmp_path, "--out", tmp_path / "out", "data=mnist")
    assert "The four IDX files of mnist" in message


def test_a_failed_cell_is_exit_status_1(tmp_path, monkeypatch):
    from spikeproof.experiments.run.compute import Bench

    def broken(self, cell, tell):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Bench, "attack", broken)
    (tmp_path / "study.yaml").write_text(STUDY)
    result = call("run", tmp_path / "study.yaml", "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 1
    assert "out of luck" in result.output
    assert "1 failed" in result.output
    assert "out of luck" in call("status", tmp_path / "out").output


def test_an_interrupt_says_how_to_go_on(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        guarded(interrupted)()
    assert exit_.value.code == 130
    assert "the same command" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)], ids=str)
def test_help_needs_nothing_heavy(command):
    program = (
        "import sys; from spikeproof.command.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: print([m for m in ('torch', 'numpy', 'pydantic', 'rich', 'yaml') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: ")
    assert done.stdout.endswith("[]\n")


def test_a_closed_pipe_is_no_traceback(out):
    command = f"{sys.executable} -m spikeproof show {out} --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ})
    assert done.stderr == ""


def timeless(row):
    """A number without the seconds that its attacks took."""
    return {**row, "members": [{k: v for k, v in m.items() if k != "seconds"} for m in row["members"]]}


def test_a_saved_model_is_evaluated_and_audited_by_the_command_line(out):
    trained = next(p for p in (out / "cells").iterdir() if (p / "model.json").exists())
    asked = (trained, "--suite", "quick", "--epsilon", "0.05", "--epsilon", "8/255", "--examples", "60")
    shown = call("evaluate", *asked)
    assert shown.exit_code == 0, shown.output
    assert "linf 8/255, suite quick, 60 images" in shown.output
    assert "an upper bound" in shown.output
    rows = json.loads(call("evaluate", *asked, "--json").output)
    assert [round(row["epsilon"], 3) for row in rows] == [0.031, 0.05]
    for row in rows:
        assert row["certified"] <= row["robust_accuracy"] <= row["clean_accuracy"]
        assert row["verdict"] in ("supported", "preliminary", "doubtful", "withheld")
        assert (row["verdict"] in ("supported", "preliminary")) <= (not row["reasons"])
        assert row["members"][-1]["gradient_free"]
    found = json.loads(call("audit", *asked, "--rounds", 1, "--json").output)
    for each, row in zip(found, rows, strict=True):
        assert timeless(each["before"]) == timeless(row)
        assert not each["tried"] or row["verdict"] != "withheld"
        assert each["after"]["n"] == 60 or each["tried"][0]["because"] == "too few examples"
    shown = call("audit", *asked, "--rounds", 1).output
    assert shown.count("changed: ") == sum(bool(each["tried"]) for each in found)


def test_the_verdicts_of_a_study_are_printed_with_reasons_and_nothing_is_computed(out):
    before = sorted(path.name for path in (out / "cells").iterdir())
    shown = call("audit", out, "--verdicts")
    assert shown.exit_code == 0
    assert "doubtful" in shown.output  # ten images, one attack of one step
    assert "too few examples" in shown.output
    assert json.loads(call("audit", out, "--verdicts", "--json").output)[0]["verdict"] == "doubtful"
    assert sorted(path.name for path in (out / "cells").iterdir()) == before
    assert not (out / "repairs.json").exists()


def test_options_that_an_audit_would_ignore_are_refused(out):
    trained = next(p for p in (out / "cells").iterdir() if (p / "model.json").exists())
    assert "--epsilon" in refusal("audit", out, "--epsilon", "0.1")
    assert "--suite" in refusal("audit", out, "--suite", "quick", "--verdicts")
    assert "--verdicts" in refusal("audit", trained, "--verdicts")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--suite", "fast"), "Choose one of 'extreme', 'quick', 'standard'"),
        (("--epsilon", "1/0"), "An epsilon is a number"),
        (("--threat", "l7"), "Choose one of"),
        (("--dataset", "digit"), "digits"),
        (("--examples", "100000"), "At most 360 examples"),
        (("--threat", "square-patch", "--epsilon", "1.5"), "whole number of pixels"),
        (("--threat", "{region: {norm: l3}}"), "Correct this value"),
    ],
)
def test_evaluate_refuses_bad_options_with_a_message_and_status_2(out, options, text):
    trained = next(p for p in (out / "cells").iterdir() if (p / "model.json").exists())
    shown = call("evaluate", trained, *options)
    assert shown.exit_code == 2
    assert text in shown.output
    assert "Traceback" not in shown.output


def test_a_threat_is_called_what_it_was_called(out):
    trained = next(p for p in (out / "cells").iterdir() if (p / "model.json").exists())
    budget = ("--threat", "square-patch", "--epsilon", "2", "--suite", "quick", "--examples", "12")
    assert "\nsquare-patch 2, suite quick, 12 images" in call("evaluate", trained, *budget).output
    found = json.loads(call("evaluate", trained, *budget, "--json").output)
    assert '"threat": "square-patch"' in json.dumps(found)


def test_a_model_that_tells_no_data_set_asks_for_one(out, tmp_path):
    trained = next(p for p in (out / "cells").iterdir() if (p / "model.json").exists())
    for name in ("model.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    assert "--dataset" in refusal("evaluate", tmp_path)
    assert "directory of a study" in refusal("evaluate", out)
