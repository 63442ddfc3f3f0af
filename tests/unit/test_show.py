"""`spikeproof show` prints every table that is asked for, as text and as JSON."""

import itertools
import json
import math
import shutil

import pytest
from click.testing import CliRunner

import spikeproof.experiments.run.driver as running
from spikeproof.command import reports
from spikeproof.command.cli import cli
from spikeproof.command.reports import print_report
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.report import page, tables
from spikeproof.report.charts.drawing import Drawing

STUDY = """\
name: shown
data: digits
models:
  - encoder: [{direct: {steps: 2}}, {latency: {steps: 3}}]
    network: {mlp: {hidden: [8]}}
    decoder: mean-potential
    rule: {bptt: {epochs: 2, lr: 0.02}}
attacks: [fgsm]
probes: [reversal]
distances: [deepfool]
epsilons: [0.02, 0.1]
sweep: nested
examples: 25
seeds: [0, 1]
"""
BARE = "".join(
    line
    for line in STUDY.splitlines(keepends=True)
    if not line.startswith(("probes", "distances", "attacks", "epsilons", "sweep", "seeds"))
)
HEADINGS = {
    "seeds": "Means over seeds",
    "probes": "when a timing probe changes the spike",
    "distances": "Median distance of the nearest adversarial image",
    "comparisons": "linf 0.1, by encoder:",
}


def finished(place, text):
    chosen = study_of(parse(text, "study.yaml"))
    cells = cells_of(chosen, chosen.data.load(None))
    bench = Bench(place, None, "cpu", chosen.batch_size)
    running.run(chosen.name, chosen.spec(), cells, bench, Serial(), place, running.Listener())
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("shown"), STUDY)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("bare"), BARE)


def show(place, *names, json=False):
    flags = [*(f"--{name}" for name in names), *(["--json"] if json else [])]
    found = CliRunner().invoke(cli, ["show", str(place), *flags])
    assert found.exit_code == 0, found.output
    return found.output


SOME = [names for size in range(1, 5) for names in itertools.combinations(HEADINGS, size)]


@pytest.mark.parametrize("names", SOME, ids="+".join)
def test_each_table_that_is_asked_for_is_shown_and_no_other(place, names):
    shown = show(place, *names)
    assert {name for name, words in HEADINGS.items() if words in shown} == {*names}
    assert "Accuracy in % on 25 images" not in shown  # the headline numbers
    places = [shown.index(HEADINGS[name]) for name in HEADINGS if name in names]
    assert places == sorted(places)
    assert show(place, *reversed(names)) == shown


@pytest.mark.parametrize("names", SOME, ids="+".join)
def test_as_json_several_tables_are_one_object_of_the_lists_of_each(place, names):
    found = json.loads(show(place, *names, json=True))
    alone = {name: json.loads(show(place, name, json=True)) for name in names}
    assert all(isinstance(rows, list) and rows for rows in alone.values())
    assert found == (alone if len(names) > 1 else alone[names[0]])


def test_nothing_asked_for_shows_the_headline_numbers_and_what_goes_with_them(place):
    shown = show(place)
    assert {name for name, words in HEADINGS.items() if words in shown} == {"seeds", "probes", "distances"}
    assert "Accuracy in % on 25 images" in shown
    assert shown.count("Nested: each budget began") == 1
    assert json.loads(show(place, json=True)) == json.loads(json.dumps(records(place)))


def test_a_table_without_a_line_says_so_only_where_it_was_asked_for(bare):
    shown = show(bare, *HEADINGS)
    for words in ("several seeds", "No probe", "No distance", "No two models"):
        assert words in shown
        assert words not in show(bare)
    assert json.loads(show(bare, *HEADINGS, json=True)) == {name: [] for name in HEADINGS}


def test_means_over_seeds_say_on_how_many_images_and_which_of_them_are_nested(place):
    found, shown = json.loads(show(place, "seeds", json=True)), show(place, "seeds")
    worst = [row for row in records(place) if row["attack"] == WORST_CASE]
    assert len(found) == 4
    for each in found:
        alike = [r for r in worst if (r["encoder"], r["epsilon"]) == (each["encoder"], each["epsilon"])]
        assert (each["n"], each["n_most"], each["seeds"]) == (25, 25, len(alike))
        assert each["nested"] == any(row["nested"] for row in alike) == (each["epsilon"] == 0.1)
        assert each["robust_mean"] == pytest.approx(sum(row["robust_accuracy"] for row in alike) / 2)
    head, *lines = shown.splitlines()[2:5]
    assert head.split()[:4] == ["encoder", "seeds", "n", "clean"]
    assert [line.split()[:3] for line in lines] == [["direct", "2", "25"], ["latency", "2", "25"]]
    assert all(line.endswith(" nested") and line.count("nested") == 1 for line in lines)
    assert "Nested: each budget began" in shown
    assert "A question mark: doubtful" in shown
    text = page.write(place, records(place)).read_text("utf-8")
    means = text[text.index('aria-label="Means over seeds"') :]
    assert means[: means.index("</table>")].count(">nested</a>") == 2
    assert '<td class="n">25</td>' in means[: means.index("</table>")]


def test_seeds_without_attacks_have_clean_means_and_of_unequal_counts_both_ends_are_said(tmp_path):
    (one, two) = json.loads(show(finished(tmp_path, BARE + "seeds: [0, 1]\n"), "seeds", json=True))
    assert [each["encoder"] for each in (one, two)] == ["direct", "latency"]
    assert (one["threat"], one["robust_mean"], one["n"]) == ("none", None, 25)
    assert 0 < one["clean_mean"] <= 1
    rows = records(tmp_path)
    rows[0]["n"] = 40
    (row, _) = tables.seeds(rows)
    assert (row.n, math.isclose(row.clean[0], one["clean_mean"])) == ("25 to 40", True)
    assert [(each["n"], each["n_most"]) for each in tables.seeds_json(rows)] == [(25, 40), (25, 25)]


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures without content, which are drawn in no time."""
    blank = {"svg": b'<svg viewBox="0 0 1 1"></svg>', "pdf": b"%PDF"}
    monkeypatch.setattr(Drawing, "files", lambda drawing: blank)


@pytest.mark.usefixtures("quick_figures")
def test_an_unchanged_study_is_printed_from_its_report_and_nothing_is_drawn_again(
    place, tmp_path, capsys, monkeypatch
):
    here = shutil.copytree(place, tmp_path / "here")
    print_report(here)
    first = capsys.readouterr().out
    drawn = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}

    def unexpected(*arguments):
        raise AssertionError("a cell was read or a figure drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(reports, "_read", unexpected)
        patch.setattr(reports, "_written", unexpected)
        print_report(here, anew=False)
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()} == drawn


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize("change", ["cell", "kept"])
def test_a_changed_study_or_report_is_read_from_its_cells(place, tmp_path, capsys, change):
    here = shutil.copytree(place, tmp_path / "here")
    print_report(here)
    first = capsys.readouterr().out
    if change == "kept":  # numbers that somebody wrote into the report are not printed
        path = here / "figures" / "numbers.json"
        path.write_text(path.read_text().replace('"robust_accuracy": 0', '"robust_accuracy": 1'))
        print_report(here, anew=False)
        assert capsys.readouterr().out == first
    else:
        cells = [json.loads(path.read_bytes()) for path in here.glob("cells/*/cell.json")]
        gone = next(cell["address"] for cell in cells if cell["kind"] == "attack")
        shutil.rmtree(here / "cells" / gone)
        print_report(here, anew=False)
        assert capsys.readouterr().out != first
