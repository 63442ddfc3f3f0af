"""Figures stay legible however many models there are, draw no withheld number, and leave no stale file."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from spikeproof.experiments.read.results import records
from spikeproof.report import page
from spikeproof.report.charts.drawing import legend, wrapped
from spikeproof.report.charts.figures import MANY, MOST_PANELS, drawings

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench, record


def texts(drawing):
    return re.findall(r"<text [^>]*>([^<]*)</text>", drawing.files()["svg"].decode())


def grid(codes, decoders, **changes):
    """A worst case and two attacks for every code and decoder."""
    return [
        record(
            model=f"{code}/{decoder}", encoder=code, decoder=decoder, attack=attack,
            robust_accuracy=0.9 / (2 + i), **changes,
        )
        for i, code in enumerate(codes)
        for decoder in decoders
        for attack in ("pgd", "square", "worst-case")
    ]  # fmt: skip


def named(found, name):
    return next(drawing for drawing in found if drawing.name == name)


def test_with_many_codes_the_decoders_become_the_lines():
    codes, decoders = [f"code {i}" for i in range(17)], ["count", "first-spike", "early"]
    found = drawings(grid(codes, decoders))
    curves = texts(named(found, "curves"))
    assert all(curves.count(code) == 1 for code in codes)  # titles
    assert all(curves.count(decoder) == 1 for decoder in decoders)  # the legend
    attacks = texts(named(found, "attacks-mlp"))
    assert sum(code in attacks for code in codes) == MANY
    assert {code for code in codes if code in attacks} == set(codes[:MANY])  # the most robust
    assert attacks.count("others") == 1


def test_many_codes_with_many_decoders_are_the_most_robust_in_colour_and_say_what_is_missing():
    codes, decoders = [f"code {i}" for i in range(12)], [f"decoder {i}" for i in range(MOST_PANELS + 2)]
    curves = named(drawings(grid(codes, decoders)), "curves")
    assert "others" in texts(curves)
    few = named(drawings(grid(codes[:2], decoders)), "curves")
    assert "2 more panels do not fit" in few.caption


def test_options_tell_codes_apart_and_each_is_named_once():
    found = drawings(grid(["latency(steps=6)", "latency(steps=8)"], ["count"], accuracy_by_step=[0.5, 0.9]))
    assert {drawing.name for drawing in found} == {"curves", "attacks-mlp", "heatmap-mlp", "exits"}
    for drawing in found:
        seen = texts(drawing)
        assert seen.count("latency(steps=6)") == seen.count("latency(steps=8)") == 1, drawing.name


def test_very_long_names_leave_room_for_the_axes():
    long = (
        "bptt(epochs=5, loss=deep-supervision(decoder=count, weights=0-0-0-0-0-1), lr=0.002, batch_size=64)"
    )
    rows = grid(["latency"], ["count"]) + [
        {**row, "rule": f"{long}{i}", "model": str(i)}
        for i in range(6)
        for row in grid(["latency"], ["count"])
    ]
    for drawing in drawings(rows):  # a warning that axes collapse would be an error here
        assert max(map(len, texts(drawing))) < 70


@pytest.mark.parametrize("names", [1, 4, 18, 40])
def test_a_long_legend_takes_no_room_from_the_panel(names):
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    ax = figure.subplots()
    for i in range(names):
        ax.plot([0, 1], [0, i], label=f"a model of a long name, which needs most of a row, {i}")
    legend(figure, [ax])
    figure.draw_without_rendering()
    assert ax.get_position().height * figure.get_figheight() > 2.5


def test_few_codes_under_many_rules_have_a_panel_per_rule_with_the_attacks_as_lines():
    rows = [
        {**row, "rule": f"rule {i}", "model": str(i)}
        for i in range(7)
        for row in grid(["latency"], ["count"])
    ]
    seen = texts(named(drawings(rows), "attacks-mlp"))
    assert seen.count("pgd") == seen.count("square") == 1
    assert [f"rule {i} · latency" in seen for i in range(7)] == [True] * 7


def test_withheld_numbers_are_drawn_nowhere_and_doubtful_ones_are_marked():
    rows = [
        record(model="a", encoder="a", robust_accuracy=0.437, verdict="withheld"),
        record(model="b", encoder="b", robust_accuracy=0.316, verdict="doubtful"),
        record(model="c", encoder="c", robust_accuracy=0.215, verdict="supported"),
    ]
    found = drawings(rows)
    seen = texts(named(found, "heatmap-mlp"))
    assert {"withheld", "31.6?", "21.5"} <= set(seen)
    assert not [text for text in seen if "43.7" in text]
    assert "withheld are not drawn" in named(found, "curves").caption
    alone = named(drawings(rows[:1]), "curves")
    assert "withheld" in texts(alone)


def test_an_attack_that_applies_to_no_model_of_a_row_has_no_panel_there():
    rows = grid(["latency"], ["count", "early"])
    rows = [row for row in rows if (row["decoder"], row["attack"]) != ("count", "square")]
    seen = texts(named(drawings(rows), "attacks-mlp"))
    assert seen.count("square") == 1
    assert "not finished" not in seen


@given(st.text("abc ,(·-)+", max_size=90), st.integers(8, 40), st.integers(1, 4))
def test_wrapped_labels_fit_and_lose_nothing_but_spaces_unless_they_say_so(text, width, lines):
    rows = wrapped(text, width, lines).split("\n")
    assert len(rows) <= lines
    assert max(map(len, rows)) <= width
    whole = "".join(rows).replace(" ", "")
    if "…" in whole:
        assert text.replace(" ", "").startswith(whole[: whole.index("…")])
    else:
        assert whole == text.replace(" ", "")


@pytest.fixture
def shrinking(tmp_path):
    bench = Bench(tmp_path)
    for code in ("latency", "direct"):
        bench.attack(bench.model(code, network=f"net-{code}"), "pgd", 0.1, 0.5)
    page.write(tmp_path, records(bench.finish()))
    return tmp_path


def test_figures_that_a_smaller_study_lacks_are_deleted_and_nothing_else(shrinking):
    figures = shrinking / "figures"
    assert (figures / "heatmap-net-latency.svg").exists()
    mine = figures / "heatmap-mine.svg"
    mine.write_text("not of a report")
    (figures / "heatmap-net-direct.pdf").write_text("improved by hand")
    kept = [row for row in records(shrinking) if row["encoder"] == "latency"]
    page.write(shrinking, kept)
    left = {path.name for path in figures.iterdir()}
    assert "heatmap-net-direct.svg" not in left
    assert {"heatmap-mine.svg", "heatmap-net-direct.pdf", "heatmap-net-latency.svg", "curves.svg"} <= left


@pytest.mark.parametrize("note", ["{", "[]", '{"../study.json": "0"}', '{"figures/../study.json": 1}'])
def test_a_hostile_note_of_what_was_written_deletes_nothing(shrinking, note):
    (shrinking / "figures" / "written.json").write_text(note)
    before = {path.name for path in shrinking.rglob("*")}
    page.write(shrinking, records(shrinking))
    assert {path.name for path in shrinking.rglob("*")} == before
