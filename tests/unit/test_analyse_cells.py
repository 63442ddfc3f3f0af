"""The analysis of spikes in a study: from the study file to cells, records, tables and the second page."""

import base64
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure
from safetensors.numpy import load

from spikeproof.analysis.spike_analysis import SpikeAnalysis
from spikeproof.attacks.gradient.plain import FGSM
from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.experiments.read.results import records, spike_records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of, model_spec
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.report.page import write
from spikeproof.report.spike_page import _costs, dearest, pareto_front, spike_section
from spikeproof.threats import Linf

TEXT = """\
name: spikes
data: digits
models:
  - encoder: [{latency: {steps: 4}}, {bernoulli: {steps: 3}}]
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
  - {encoder: {direct: {steps: 1}}, neuron: relu, decoder: mean-potential, rule: {bptt: {epochs: 1}}}
attacks: [fgsm]
analyses: [{spikes: {attack: fgsm, cost: 0.5}}]
epsilons: [0.1, 0.2]
examples: 30
draws: 3
"""

ANALYSES = [SpikeAnalysis()]


def study(text=TEXT):
    return study_of(parse(text, "study.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("spikes") / "out", study()
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    assert (summary.computed, summary.failed) == (3 * 3 + 6 + 6, 0)
    return out


def test_analyses_are_read_from_a_study_file_and_change_no_other_cell():
    data = study().data.load(None)
    assert study().analyses == (SpikeAnalysis(attack=FGSM(), cost=0.5),)
    without = study(TEXT.replace("analyses: [{spikes: {attack: fgsm, cost: 0.5}}]\n", ""))
    assert [cell for cell in cells_of(study(), data) if cell.kind != "analyse"] == cells_of(without, data)


def test_every_model_and_budget_has_a_record_and_only_spiking_ones_have_layers(finished):
    found = spike_records(finished)
    assert [(row["encoder"], row["epsilon"], len(row["layers"])) for row in found] == [
        (encoder, epsilon, layers)
        for encoder, layers in (("latency", 3), ("bernoulli", 3), ("direct", 0))
        for epsilon in (0.1, 0.2)
    ]
    for row in found:
        assert all(0 <= row[name] <= 1 for name in ("clean_accuracy", "attacked_accuracy"))
        assert row["cost"]["picojoules"] > 0
        for layer in row["layers"]:
            assert layer["counts"] >= 0
            assert layer["times"] >= 0
            for fano in (layer["fano"], layer["attacked_fano"]):
                assert (fano is not None) == (row["encoder"] == "bernoulli")
            assert {*layer["bits"]} == {"counts", "first spikes", "order", "full patterns"}
            assert {w["stop"] for w in layer["windows"]} == set(
                range(1, 5 if row["encoder"] == "latency" else 4)
            )


def test_the_analysed_attack_is_the_attack_of_the_study(finished):
    """One step of a deterministic attack leaves the same images, so also the same accuracy."""
    attacked = {
        (row["encoder"], row["epsilon"]): row["robust_accuracy"]
        for row in records(finished)
        if row["attack"] == "fgsm" and not row["stochastic"]
    }
    for row in spike_records(finished):
        if (row["encoder"], row["epsilon"]) in attacked:
            assert row["attacked_accuracy"] == pytest.approx(attacked[row["encoder"], row["epsilon"]])


def test_show_page_and_table_have_the_numbers(finished):
    rows = json.loads(CliRunner().invoke(cli, ["show", str(finished), "--spikes", "--json"]).output)
    assert rows == json.loads(json.dumps(spike_records(finished)))
    shown = CliRunner().invoke(cli, ["show", str(finished), "--spikes"]).output
    assert "hidden 1" in shown
    assert "accumulates" in shown
    told = next(layer for row in rows for layer in row["layers"])
    assert f"{told['bits']['counts']:.3f} ({told['shuffled']['counts']:.3f})" in shown
    write(finished, records(finished), spikes=spike_records(finished))
    page = (finished / "report.html").read_text()
    section = page[page.index('<section id="spikes">') : page.index('<section id="examples">')]
    assert "hidden 1" in section
    assert 'href="#spikes"' in page
    lines = list(csv.DictReader((finished / "spikes.csv").read_text().splitlines()))
    assert len(lines) == sum(len(row["layers"]) for row in rows)
    assert float(lines[0]["rate"]) == pytest.approx(rows[0]["layers"][0]["rate"])
    assert float(lines[0]["cost_accumulates"]) == pytest.approx(rows[0]["cost"]["accumulates"])
    write(finished, records(finished))  # a report without analyses removes the files of an earlier one
    assert not (finished / "spikes.csv").exists()
    assert 'id="spikes"' not in (finished / "report.html").read_text()


def test_an_analysis_keeps_the_spikes_and_potentials_of_one_image(finished):
    differing = 0
    for row in spike_records(finished):
        path = Path(row["cell"]) / "traces.safetensors"
        assert path.is_file() == bool(row["layers"])  # an ANN has none
        if not row["layers"]:
            continue
        arrays = load(path.read_bytes())
        for name in ("", "attacked_"):
            assert "0.potential" not in arrays  # the input has no neurons
            for layer in (1, 2):  # threshold 1: a neuron fires exactly where its potential reaches it
                assert np.array_equal(
                    arrays[f"{layer}.{name}spikes"], arrays[f"{layer}.{name}potential"] >= 1
                )
        differing += int((arrays["1.spikes"] != arrays["1.attacked_spikes"]).sum())
    assert differing  # the images of the attack are not the clean ones


def test_the_page_embeds_the_traces(finished):
    write(finished, records(finished), spikes=spike_records(finished))
    text = (finished / "report.html").read_text()
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    for row, shown in zip(spike_records(finished), data["layers"], strict=True):
        assert len(shown["traces"]) == len(row["layers"])
        for number, traces in enumerate(shown["traces"]):
            arrays = load((Path(row["cell"]) / "traces.safetensors").read_bytes())
            bits = np.unpackbits(np.frombuffer(base64.b64decode(traces["attackedSpikes"]), np.uint8))
            stored = arrays[f"{number}.attacked_spikes"]
            assert np.array_equal(bits[: stored.size].reshape(stored.shape), stored)
            for neuron, before, after in traces["potentials"]:
                assert before == pytest.approx(arrays[f"{number}.potential"][:, neuron], abs=1e-3)
                assert after == pytest.approx(arrays[f"{number}.attacked_potential"][:, neuron], abs=1e-3)


def test_neither_the_batch_nor_a_second_call_changes_an_analysis():
    model = study().models[1]
    data = study().data.load(None)
    net = model_spec(study(), data, model).build(Key.of(0)).eval()
    x, y = Key.of(1).uniform((12, 1, 8, 8)), torch.arange(12) % 3
    moved = (x + 0.1).clamp(0, 1)
    first = SpikeAnalysis()(net, x, moved, y, Key.of(2), Linf(0.1))
    assert SpikeAnalysis()(net, x, moved, y, Key.of(2), Linf(0.1), batch_size=5) == first
    same = SpikeAnalysis()(net, x, x, y, Key.of(2), Linf(0.1))
    assert {(layer["counts"], layer["times"]) for layer in same["layers"]} == {(0.0, 0.0)}
    assert same["cost"] == same["attacked_cost"]


def test_the_irregularity_under_attack_is_that_of_the_attacked_trains():
    """With both sides exchanged each number becomes the other, and without an attack both are equal."""
    chosen = study(TEXT.replace("latency: {steps: 4}", "direct: {steps: 12}"))
    data = chosen.data.load(None)
    x, y = Key.of(1).uniform((12, 1, 8, 8)), torch.arange(12) % 3
    moved = 1 - x
    names = ("cv", "cv2", "lv", "fano")
    seen = dict.fromkeys(names, 0)
    for model in chosen.models[:2]:  # by steady currents, and by chance
        net = model_spec(chosen, data, model).build(Key.of(0)).eval()
        to, back, same = (
            SpikeAnalysis()(net, a, b, y, Key.of(2), Linf(0.1))["layers"]
            for a, b in ((x, moved), (moved, x), (x, x))
        )
        for there, here, still in zip(to, back, same, strict=True):
            for name in names:
                assert there[f"attacked_{name}"] == here[name]
                assert still[f"attacked_{name}"] == still[name]
                seen[name] += there[name] != here[name]
    assert all(seen.values())  # otherwise the numbers of either side would pass for both


def test_a_cell_from_before_the_irregularity_under_attack_is_shown_with_dashes(finished):
    old = json.loads(json.dumps(spike_records(finished)))
    for row in old:
        for layer in row["layers"]:
            for name in ("cv", "cv2", "lv", "fano"):
                del layer[f"attacked_{name}"]
    section = str(spike_section(old, records(finished)).markup)
    first = section[section.index("<td>hidden 1</td>") :].partition("</tr>")[0]
    assert first.count("\N{EN DASH}") >= 4


def test_the_energy_under_attack_is_the_largest_of_the_analyses_of_a_model_at_a_budget(finished):
    rows = spike_records(finished)
    other = json.loads(json.dumps(rows[0]))
    other["attacked_cost"]["picojoules"] *= 3
    assert dearest([*rows, other], rows[0]) == pytest.approx(3 * rows[0]["attacked_cost"]["picojoules"])
    assert dearest([*rows, other], rows[1]) == rows[1]["attacked_cost"]["picojoules"]


def test_the_picture_of_costs_leads_from_the_clean_energy_to_that_under_attack(finished):
    rows = spike_records(finished)
    drawing = _costs(rows, records(finished), ["encoder"])
    assert drawing is not None
    assert "energy under attack" in drawing.caption
    figure = Figure()
    drawing.paint(figure)
    drawn = {tuple(float(x) for x in line.get_xdata()) for line in figure.axes[0].lines}
    sides = ("cost", "attacked_cost")
    largest = [row for row in rows if f"at linf {row['epsilon']:g} against" in drawing.caption]
    wanted = {tuple(row[side]["picojoules"] / 1000 for side in sides) for row in largest}
    assert wanted == {ends for ends in drawn if len(ends) == 2}
    assert any(clean != attacked for clean, attacked in wanted)


def test_the_pareto_front_is_what_nothing_beats():
    points = [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (0.5, 0.4), (0.0, 1.0)]
    assert pareto_front(points) == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("analyses: [spike]", "Did you mean 'spikes'"),
        ("analyses: [{spikes: {cost: -1}}]", "cost of at least 0"),
        ("analyses: [{spikes: {attack: {suite: {level: quick}}}}]", "one attack on the model itself"),
        ("analyses: [{spikes: {attack: {transfer: {attack: pgd}}}}]", "one attack on the model itself"),
        ("analyses: [{spikes: {attack: sda}}]", "study.yaml:9"),
        ("analyses: [{spikes: {neurons: 0}}]", "at least one neuron"),
    ],
)
def test_analyses_that_cannot_be_made_are_refused_with_their_line(line, said):
    with pytest.raises(InputError, match=said):
        study(TEXT.replace("analyses: [{spikes: {attack: fgsm, cost: 0.5}}]", line))


def test_images_that_do_not_match_are_refused():
    net = object()
    few, more = torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    with pytest.raises(InputError, match="same images after an attack"):
        SpikeAnalysis()(net, few, more, torch.zeros(2), Key.of(0), Linf(0.1))
