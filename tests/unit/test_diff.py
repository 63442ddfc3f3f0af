"""`spikeproof diff`: what moved, by which test, with which exit status, and what cannot be compared."""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from spikeproof.command.cli import cli
from spikeproof.command.reports import written_report
from spikeproof.experiments.read.gathered.diff_page import diff_page
from spikeproof.experiments.read.gathered.differences import How, differences, figures
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.store import as_json
from spikeproof.report.charts.drawing import Drawing
from spikeproof.statistics import mcnemar, wilson

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import EVIL, Bench, N


def made(root, accuracy, *, seeds=(0,), encoders=("direct", "latency")):
    bench = Bench(root)
    for encoder in encoders:
        for seed in seeds:
            train = bench.model(encoder, seed=seed)
            bench.attack(train, "fgsm", 0.1, accuracy[encoder] + 0.01 * seed)
    return bench.finish()


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    root = tmp_path_factory.mktemp("diff")
    before = made(root / "before", {"direct": 0.6, "latency": 0.3})
    after = made(root / "after", {"direct": 0.4, "latency": 0.3})
    return before, after


def call(*arguments):
    result = CliRunner().invoke(cli, ["diff", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def rows(first, second):
    found = differences(Path(first), Path(second))
    assert (found["only_first"], found["only_second"]) == ([], [])
    return {
        (name, row["threat"]): row
        for row in found["differences"]
        for name in ("direct", "latency")
        if name in row["label"]
    }


def test_a_study_does_not_move_from_itself(sides):
    assert call(sides[0], sides[0])[0] == 0
    assert all((row["difference"], row["p_value"]) == (0, 1) for row in rows(sides[0], sides[0]).values())


def test_one_training_on_either_side_is_compared_image_by_image(sides):
    found = rows(*sides)
    moved = {key for key, row in found.items() if row["moved"]}
    assert moved == {("direct", "linf")}
    row = found["direct", "linf"]
    assert (row["how"], row["n"], row["by_name"]) == (How.IMAGES, N, False)
    assert row["difference"] == pytest.approx(-0.2)
    before, after = ((np.arange(N) >= N - share * N).astype(float) for share in (0.6, 0.4))
    assert row["p_value"] == pytest.approx(mcnemar(after, before))
    assert row["adjusted"] == pytest.approx(min(4 * row["p_value"], 1))  # four numbers were compared


def test_the_exit_status_says_whether_anything_moved(sides):
    assert call(*sides)[0] == 1
    assert call(*reversed(sides))[0] == 1
    assert call(*sides, "--worse")[0] == 1
    assert call(*reversed(sides), "--worse")[0] == 0


def test_several_seeds_are_compared_over_trainings(tmp_path):
    before = made(tmp_path / "a", {"direct": 0.6, "latency": 0.3}, seeds=(0, 1, 2))
    after = made(tmp_path / "b", {"direct": 0.2, "latency": 0.3}, seeds=(0, 1, 2))
    found = rows(before, after)
    assert {row["how"] for row in found.values()} == {How.TRAININGS}
    assert {key for key, row in found.items() if row["moved"]} == {("direct", "linf")}


def test_of_one_training_and_several_the_intervals_are_compared(tmp_path, sides):
    several = made(tmp_path / "b", {"direct": 0.6, "latency": 0.3}, seeds=(0, 1, 2))
    assert rows(sides[0], several)["direct", "linf"]["how"] == How.INTERVALS


def csv(path, text):
    path.write_text(text)
    return path


def test_a_published_table_is_compared_by_intervals_of_newcombe(tmp_path, sides):
    table = csv(
        tmp_path / "t.csv",
        "encoder,threat,epsilon,accuracy,n,ours\ndirect,linf,0.1,40%,1000,x\nlatency,linf,0.1,0.3,1000,x\n"
        "direct,,,0.9,1000,\n",
    )
    status, output = call(sides[0], table, "--json")
    found = {(r["label"].count("direct"), r["threat"]): r for r in json.loads(output)["differences"]}
    row = found[1, "linf"]
    low, high = wilson(400, 1000)
    stored = next(r for r in records(sides[0]) if r["encoder"] == "direct" and r["attack"] == "worst-case")
    known_low, known_high = stored["ci_low"], stored["ci_high"]
    assert row["low"] == pytest.approx(-0.2 - math.hypot(0.4 - low, known_high - 0.6))
    assert row["high"] == pytest.approx(-0.2 + math.hypot(high - 0.4, 0.6 - known_low))
    deviation = math.hypot(high - 0.4, 0.6 - known_low) / stats.norm.ppf(0.975)
    assert row["p_value"] == pytest.approx(2 * stats.norm.sf(0.2 / deviation))
    assert (status, row["moved"], row["how"], row["by_name"]) == (1, True, How.INTERVALS, True)
    assert not found[0, "linf"]["moved"]
    assert json.loads(output)["only_first"] == ["latency, clean"]


def test_records_in_json_and_exported_tables_are_sides_too(tmp_path, sides):
    (tmp_path / "a.json").write_text(CliRunner().invoke(cli, ["show", str(sides[0]), "--json"]).output)
    status, output = call(tmp_path / "a.json", sides[1])
    assert (status, "  direct" in output.splitlines()[1]) == (1, True)
    CliRunner().invoke(cli, ["export", str(sides[0]), "--out", str(tmp_path), "--only", "csv"])
    assert call(tmp_path / "paper.csv", sides[0])[0] == 0


def test_seeds_of_a_table_are_pooled_with_students_t(tmp_path):
    table = csv(tmp_path / "t.csv", "encoder,seed,accuracy\na,0,0.5\na,1,0.6\na,2,0.7\n")
    (figure,) = figures(table)
    low, high = stats.t.interval(0.95, 2, 0.6, 0.1 / 3**0.5)
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.6, low, high))


def test_a_number_that_is_withheld_on_one_side_has_moved(tmp_path, sides):
    table = "encoder,threat,epsilon,accuracy,verdict\ndirect,linf,0.1,,withheld\nlatency,linf,0.1,0.3,\n"
    found = differences(sides[0], csv(tmp_path / "t.csv", table))
    first = next(row for row in found["differences"] if "direct" in row["label"])
    assert (first["moved"], first["how"], first["second"]) == (True, How.VERDICT, None)


def test_the_page_is_whole_and_hostile_names_stay_text(tmp_path):
    evil = made(tmp_path / "a", {EVIL: 0.5}, encoders=(EVIL,))
    other = made(tmp_path / "b", {EVIL: 0.1}, encoders=(EVIL,))
    status, output = call(evil, other, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert status == 1
    assert "page.html" in output
    assert page == diff_page(differences(evil, other))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<tr") == page.count("</tr>") == 3
    assert page.count('class="moved"') == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "a,b\n1,2\n", "t.csv:1: expected a column with accuracies"),
        ("t.csv", "encoder,accuracy\nx,1.5\n", "t.csv:2: expected a share between 0 and 1"),
        ("t.csv", "encoder,accuracy\nx,nan\n", "expected a share between 0 and 1"),
        ("t.csv", "encoder,accuracy\nx,\n", "t.csv:2: expected an accuracy: got none"),
        ("t.csv", "encoder,accuracy,n\nx,0.5,many\n", "a number of images under 'n'"),
        ("t.csv", "encoder,accuracy,low,high\nx,0.5,0.6,0.7\n", "an accuracy within its interval"),
        ("t.csv", "encoder,epsilon,accuracy\nx,much,0.5\n", "t.csv:2: An epsilon is a number"),
        ("t.csv", 'encoder,accuracy\n"x,0.5\n', "expected a table in CSV"),
        ("t.csv", "encoder,accuracy\nnobody,0.5\n", "share at least one number"),
        ("t.csv", "", "expected a column with accuracies"),
        ("t.json", "{", "expected JSON"),
        ("t.json", "3", "expected a list of records"),
        ("t.json", "[3]", "expected a list of records"),
        ("t.json", "[]", "share at least one number"),
        ("t.txt", "x", "Expected the output directory of a study"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_and_status_2(tmp_path, sides, name, text, message):
    (tmp_path / name).write_text(text)
    status, output = call(sides[0], tmp_path / name)
    assert (status, message in " ".join(output.split())) == (2, True), output


def test_a_table_that_is_no_text_or_a_device_is_refused(tmp_path, sides):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in call(sides[0], tmp_path / "t.csv")[1]
    (tmp_path / "d.csv").symlink_to("/dev/zero")
    assert "a regular file" in call(sides[0], tmp_path / "d.csv")[1]


def test_json_of_both_is_plain(sides):
    status, output = call(*sides, "--json")
    assert (status, json.loads(output)) == (1, json.loads(as_json(differences(*sides))))


def test_seeds_that_happen_to_agree_do_not_make_a_number_exact(tmp_path):
    place = made(
        tmp_path / "a", {"direct": 0.6, "latency": 0.3}, seeds=(0, 1)
    )  # all clean accuracies are 0.9
    table = csv(tmp_path / "t.csv", "encoder,accuracy\ndirect,0.91\n")
    (row,) = differences(place, table)["differences"]
    assert row["low"] < 0 < row["high"]
    assert not row["moved"]


def test_a_line_that_fits_two_models_is_compared_with_neither(tmp_path, sides):
    table = csv(tmp_path / "t.csv", "network,threat,epsilon,accuracy\nmlp,linf,0.1,0.1\n")
    status, output = call(sides[0], table)
    assert (status, "share at least one number" in " ".join(output.split())) == (2, True)


def test_models_of_equal_names_and_other_options_are_marked_as_matched_by_name(tmp_path, sides):
    other = made(tmp_path / "b", {"direct": 0.6, "latency": 0.3})
    plan = (other / "study.json").read_text().replace('"steps": 4', '"steps": 5')
    (other / "study.json").write_text(plan)
    for path in other.glob("cells/*train*/cell.json"):
        path.write_text(path.read_text().replace('"steps": 4', '"steps": 5'))
        manifest = path.with_name("MANIFEST.json")
        digests = json.loads(manifest.read_text()) | {
            "cell.json": hashlib.sha256(path.read_bytes()).hexdigest()
        }
        manifest.write_bytes(as_json(digests))
    found = rows(sides[0], other)
    assert {row["by_name"] for row in found.values()} == {True}
    assert not any(row["moved"] for row in found.values())


@pytest.fixture(scope="module")
def reports(sides):
    """The reports of both sides, without the figures for papers, which take long."""
    blank = {"svg": b'<svg viewBox="0 0 1 1"></svg>', "pdf": b"%PDF"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "files", lambda drawing: blank)
        return [written_report(side) for side in sides]


def test_reports_are_sides_too(sides, reports):
    status, output = call(*reports, "--json")
    found = json.loads(output)["differences"]
    assert status == 1
    stored = {(r["encoder"], r["attack"]): r for r in records(sides[0])}
    for row in found:
        encoder = "direct" if "direct" in row["label"] else "latency"
        record = stored[encoder, "worst-case"]
        clean = row["threat"] == "none"
        assert row["first"] == pytest.approx(
            record["clean_accuracy" if clean else "robust_accuracy"], abs=1e-5
        )
        assert row["how"] == How.INTERVALS
    assert {row["threat"] for row in found} == {"none", "linf"}
    assert call(reports[0], sides[0])[0] == 0


START = '<script type="application/json" id="data">'
DATA = {
    "axes": ["encoder"],
    "budgets": [["linf", 0.1, "0.1"]],
    "worst": "worst-case",
    "withheld": "withheld",
    "models": [{"axes": ["direct"], "clean": 0.9, "low": 0.8, "high": 1.0}],
    "rows": {
        **{name: [0] for name in ("model", "budget", "attack")},
        "verdict": [1],
        **{name: [0.5] for name in ("accuracy", "low", "high")},
    },
    "texts": ["worst-case", "supported"],
}


def changed(path, value):
    """The data of a report with one value replaced."""
    data = json.loads(json.dumps(DATA))
    inside = data
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    return data


def test_the_data_of_a_page_by_hand_are_read(tmp_path):
    (tmp_path / "a.html").write_text(f"<p>{START}{json.dumps(DATA)}</script>")
    clean, worst = figures(tmp_path / "a.html")
    assert (clean.value, clean.threat, clean.names) == (0.9, "none", {"encoder": "direct"})
    assert (worst.value, worst.low, worst.epsilon, worst.verdict) == (0.5, 0.5, 0.1, "supported")
    for data in (changed(["rows", "accuracy"], [None]), changed(["texts", 1], "withheld")):
        (tmp_path / "a.html").write_text(f"{START}{json.dumps(data)}</script>")
        assert (figures(tmp_path / "a.html")[1].value, figures(tmp_path / "a.html")[1].verdict) == (
            None,
            "withheld",
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a report of spikeproof with its data: got another page"),
        ("<html>no data", "got another page"),
        (START + json.dumps(DATA), "got a page that is cut off"),
        (f"{START}{json.dumps(DATA)[:-20]}</script>", "expected JSON"),
        (f"{START}[]</script>", "input should be a valid dictionary"),
        (f"{START}{'[' * 5000}</script>", "brackets"),
        *(
            (f"{START}{json.dumps(changed(path, value))}</script>", message)
            for path, value, message in [
                (["rows", "model"], [1], "names none of them"),
                (["rows", "model"], [-1], "greater than or equal to 0"),
                (["rows", "attack"], [7], "names none of them"),
                (["rows", "low"], [], "names none of them"),
                (["rows", "accuracy"], [1.5], "less than or equal to 1"),
                (["rows", "accuracy"], ["0.5"], "valid number"),
                (["models", 0, "axes"], [], "names none of them"),
                (["texts"], {"0": "x"}, "valid list"),
                (["budgets"], [["linf", -1, ""]], "greater than or equal to 0"),
            ]
        ),
    ],
)
def test_a_page_that_is_no_report_is_one_sentence(tmp_path, sides, text, message):
    (tmp_path / "r.html").write_text(text)
    status, output = call(sides[0], tmp_path / "r.html")
    assert (status, message in " ".join(output.split())) == (2, True), output
    assert "Traceback" not in output
