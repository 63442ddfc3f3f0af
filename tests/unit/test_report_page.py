import base64
import hashlib
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from spikeproof.experiments.read.results import records
from spikeproof.plainfiles import bytes_of
from spikeproof.report import page
from spikeproof.report.charts.drawing import inline
from spikeproof.report.charts.exhibits import exhibits
from spikeproof.report.charts.figures import drawings

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import EVIL, Bench, T, arrays


def build(directory):
    """Two codes with two decoders and a ReLU network, under a gradient attack and one without gradients."""
    bench = Bench(directory)
    for encoder, decoder, neuron in (
        ("latency", "count", "lif"),
        ("latency", "first-spike", "lif"),
        ("direct", "count", "lif"),
        ("direct", "mean-potential", "relu"),
    ):
        train = bench.model(encoder, decoder, neuron)
        kept = arrays(spiking=encoder == "latency")
        for epsilon, accuracy in ((0.05, 0.55), (0.1, 0.35), (0.3, 0.15)):
            bench.attack(train, "pgd", epsilon, accuracy, arrays=kept, mean_distance=epsilon / 2)
            bench.attack(train, "square", epsilon, accuracy + 0.1, gradient_free=True, arrays=kept)
    return bench.finish()


@pytest.fixture
def study(tmp_path, brief_pdfs):
    return build(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The directory of a study with its report, not to be changed."""
    directory = build(tmp_path_factory.mktemp("study"))
    written(directory)
    return directory


def written(directory):
    path = page.write(directory, records(directory))
    assert path == directory / "report.html"
    return path.read_text()


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_the_report_page_loads_nothing_and_links_to_no_other_host(reported):
    text = (reported / "report.html").read_text()
    assert 'id="timing"' not in text  # a study without probes does not speak of them
    assert "@import" not in text
    policies = []
    for tag, attributes in Elements(text).tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        if attributes.get("http-equiv") == "Content-Security-Policy":
            policies.append(attributes["content"])
        for name in ("href", "xlink:href"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/", "data:application/", "data:text/csv"))
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; script-src 'sha256-")


def scripts(text):
    """The attributes and the content of each script of a page."""
    return re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)


def test_only_the_scripts_of_the_package_may_run(reported):
    text = (reported / "report.html").read_text()
    package = files("spikeproof.report") / "assets"
    (kind, _), *code = scripts(text)
    assert 'type="application/json"' in kind
    assert [content for _, content in code] == [
        (package / name).read_text("utf-8") for name in ("plot.min.js", "explorer.js")
    ]
    policy = text[: text.index("<title>")]
    for _, content in code:
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy


def test_the_embedded_data_are_the_records(reported):
    data = json.loads(scripts((reported / "report.html").read_text())[0][1])
    found, rows = records(reported), data["rows"]
    assert len(rows["model"]) == len(found) == 4 * 3 * 3
    places = {}
    for i, model in enumerate(rows["model"]):
        places[model, data["budgets"][rows["budget"][i]][1], data["texts"][rows["attack"][i]]] = i
    models = list(dict.fromkeys(record["model"] for record in found))
    for record in found:
        i = places[models.index(record["model"]), record["epsilon"], record["attack"]]
        assert rows["accuracy"][i] == pytest.approx(record["robust_accuracy"], abs=1e-5)
        assert (rows["low"][i], rows["n"][i]) == (pytest.approx(record["ci_low"], abs=1e-5), record["n"])
        assert rows["cell"][i] == Path(record["cell"]).name


def test_confusions_count_every_image_once_and_examples_are_the_stored_ones(reported):
    data = json.loads(scripts((reported / "report.html").read_text())[0][1])
    assert len(data["confusions"]) == 4 * 3
    for clean, attacked in data["confusions"].values():
        for triples in (clean, attacked):  # the store answers class + 1 to each of its 200 images
            assert triples == [[label, (label + 1) % 10, 20] for label in range(10)]
    (cell, example), *_ = data["examples"].items()
    kept = load(bytes_of(reported / "cells" / cell / "arrays.safetensors"))
    place = kept["example"].tolist().index(example["example"])
    levels = np.frombuffer(base64.b64decode(example["attacked"]), np.uint8).reshape(example["shape"])
    assert np.abs(levels / 255 - kept["x_adv"][place]).max() <= 0.5 / 255 + 1e-6
    bits = np.unpackbits(np.frombuffer(base64.b64decode(example["attackedSpikes"]), np.uint8))
    assert np.array_equal(bits[: kept["spikes"][place].size], kept["spikes_adv"][place].reshape(-1))


@pytest.mark.usefixtures("brief_pdfs")
def test_a_withheld_number_is_not_in_the_page(tmp_path):
    bench = Bench(tmp_path)
    train = bench.model("latency")
    bench.attack(train, "pgd", 0.1, 0.615, budget_violations=3)
    text = written(bench.finish())
    rows = json.loads(scripts(text)[0][1])["rows"]
    for column in ("accuracy", "low", "high"):
        assert rows[column] == [None, None]  # the worst case and its attack
    assert "61.5" not in text[: text.index('id="attacks"')]


@pytest.mark.usefixtures("brief_pdfs")
def test_events_are_pictured_by_their_sum_over_time(tmp_path):
    bench = Bench(tmp_path)
    events = (np.random.default_rng(0).random((4, T, 2, 5, 5)) < 0.3).astype(np.uint8)
    moved = np.roll(events, 1, axis=1)
    kept = {"x": events, "x_adv": moved, "spikes": events, "spikes_adv": moved, "example": np.arange(4)}
    bench.attack(
        bench.model("events"),
        "pgd",
        0.1,
        0.5,
        arrays=save({k: np.ascontiguousarray(v) for k, v in kept.items()}),
    )
    found = page._portable(records(bench.finish())[0], tmp_path)
    exhibit = exhibits([found], tmp_path)["events"]
    assert np.array_equal(exhibit.image, exhibit.attacked)  # time moved, counts did not
    assert np.allclose(exhibit.image * events[exhibit.example].sum(0).max(), events[exhibit.example].sum(0))
    path = page.write(tmp_path, [found])
    assert "test image" in path.read_text()


def test_every_link_leads_somewhere(reported):
    tags = Elements((reported / "report.html").read_text()).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a[name] for _, a in tags for name in ("href", "xlink:href") if name in a]
    assert {target[1:] for target in targets if target.startswith("#") and target[1] != "?"} <= set(ids)
    assert all(target.startswith(("#", "data:")) for target in targets)  # the page may be mailed alone


def test_every_number_of_every_record_is_in_the_page(reported):
    text = (reported / "report.html").read_text()
    body = text[text.index('<section id="attacks">') :]
    rows = re.findall(r"<tr>(.*?)</tr>", body[: body.index("</table>")], flags=re.DOTALL)[1:]
    found = records(reported)
    assert len(rows) == len(found) == 4 * 3 * 3
    for row, record in zip(rows, found, strict=True):
        assert record["attack"] in row
        assert f">{record['epsilon']:.4g}<" in row
        for share in ("clean_accuracy", "robust_accuracy", "robust_all_draws", "adversarial_tie_share"):
            assert f"{100 * record[share]:.1f}" in row
        assert f"[{100 * record['ci_low']:.1f}, {100 * record['ci_high']:.1f}]" in row
        assert record["cell"].rpartition("/")[2] in row


def test_the_headline_table_has_one_row_per_model_with_the_worst_case_of_each_epsilon(reported):
    text = (reported / "report.html").read_text()
    results = text[text.index('id="results"') : text.index('id="trust"')]
    rows = re.findall(r"<tr>(.*?)</tr>", results, flags=re.DOTALL)[1:]
    assert len(rows) == 4
    for row in rows:
        assert re.findall(r"<b>([\d.]+)</b>", row) == ["90.0", "55.0", "35.0", "15.0"]
        assert "77.7" in row
        assert ">6.2<" in row
        assert ">3.1<" in row


def test_the_page_says_where_its_numbers_come_from_without_the_place_of_the_directory(reported):
    text = (reported / "report.html").read_text()
    assert str(reported) not in text
    assert str(reported) not in (reported / "table.csv").read_text()
    for record in records(reported):
        address = record["train_cell"].rpartition("/")[2]
        assert f"spikeproof.load(&#34;cells/{address}&#34;)" in text or f'load("cells/{address}")' in text
    assert "4,321 parameters" in text
    assert "87.6 %" in text
    assert "9.9" in text
    assert "1.2 s" in text


def test_figures_exist_as_svg_and_pdf_and_are_well_formed(reported):
    stems = {path.stem for path in (reported / "figures").glob("*.*g")}
    assert stems == {
        "curves",
        "attacks-mlp",
        "heatmap-mlp",
        "broke-linf",
        "example-latency",
        "example-direct",
    }
    for stem in stems:
        ET.fromstring((reported / "figures" / f"{stem}.svg").read_bytes())
        assert (reported / "figures" / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
    assert {p.name for p in reported.iterdir()} >= {"report.html", "table.csv", "table.tex"}


def test_writing_twice_gives_the_same_bytes(reported, tmp_path):
    def contents(directory):
        made = [directory / "report.html", directory / "table.csv", directory / "table.tex"]
        return {path.name: path.read_bytes() for path in (*made, *(directory / "figures").iterdir())}

    again = shutil.copytree(reported, tmp_path / "again")
    written(again)
    assert len(contents(again)) > 3
    assert contents(again) == contents(reported)


@pytest.mark.usefixtures("brief_pdfs")
def test_a_warning_is_visible_with_its_model_and_what_it_means(tmp_path):
    bench = Bench(tmp_path)
    train = bench.model("latency")
    bench.attack(train, "pgd", 0.1, 0.5)
    bench.attack(train, "square", 0.1, 0.3, gradient_free=True)
    bench.attack(train, "pgd", 0.2, 0.8, budget_violations=3)
    bench.attack(train, "pgd", 1.0, 0.4)
    text = written(bench.finish())
    box = text[text.index('id="warnings"') : text.index('id="results"')]
    assert "gradient-free beats gradient (1)" in box
    assert "square 30.0 % is below pgd 50.0 %" in box
    assert "accuracy rises with epsilon" in box
    assert "latency" in box
    assert "masked" in box
    assert "unbounded attack fails (1)" in box
    assert "pgd may choose any image, and the accuracy is still 40.0 %" in box
    assert "budget or box violated (1)" in box
    assert "1.5 % of the examples" in box
    results = text[text.index('id="results"') : text.index('id="reading"')]
    assert 'href="#warnings"' in results
    assert results.count(">withheld</a>") == 1  # the budget of 0.2
    assert results.count(">?</a>") == 2
    assert "1 withheld" in text[text.index('id="trust"') :]


def test_a_page_without_anything_suspicious_has_no_warning_box(reported):
    text = (reported / "report.html").read_text()
    assert 'id="warnings"' not in text
    assert 'id="failures"' not in text


def test_what_failed_what_is_damaged_and_what_is_missing_is_visible(study):
    plan = json.loads((study / "study.json").read_bytes())
    bench = Bench(study)
    bench.plan = plan["plan"]
    bench.fail("ValueError: no luck with " + EVIL)
    bench.plan.append({"kind": "clean", "address": "never", "spec": {}})
    probe = {"train": plan["cells"][0], "probe": {"name": "shuffle " + EVIL}}
    bench.plan.append({"kind": "probe", "address": "nor-this", "spec": probe})
    bench.finish()
    (study / "cells" / plan["cells"][-1] / "metrics.json").write_text("{}")
    text = written(study)
    box = text[text.index('id="failures"') : text.index('id="results"')]
    assert "Failed (1)" in box
    assert "no luck" in box
    assert "Traceback" in box
    assert "Damaged (1)" in box
    assert plan["cells"][-1] in box
    assert str(study) not in box
    assert "2 of" in box
    assert "<li>clean (never)</li>" in box
    assert "(nor-this)</li>" in box
    head = text[text.index('id="incomplete"') : text.index('id="ranking"')]
    assert "2 cells not computed yet (clean, probe · shuffle" in head
    assert "<script>" not in head
    assert "cells of the study" in box
    assert "<script>" not in box


@pytest.mark.usefixtures("brief_pdfs")
def test_hostile_names_are_text_everywhere(tmp_path):
    bench = Bench(tmp_path)
    train = bench.model(EVIL, decoder=r"$\frac{", seed=1)
    for epsilon in (0.1, 0.2):
        bench.attack(train, "</style>" + EVIL, epsilon, 0.25, arrays=arrays())
    bench.attack(bench.model("latency"), EVIL, 0.1, 0.25)
    directory = bench.finish("</title>" + EVIL)
    text = written(directory)
    assert [tag for tag, _ in Elements(text).tags].count("script") == len(scripts(text)) == 3
    assert "&lt;script&gt;" in text
    assert text.count("</script>") == 3
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert outside.count("</style>") == outside.count("</title>") == 1
    assert json.loads(scripts(text)[0][1])["study"] == "</title>" + EVIL
    for path in (directory / "figures").glob("*.svg"):
        assert not [each for each in ET.fromstring(path.read_bytes()).iter() if each.tag.endswith("script")]


@pytest.mark.usefixtures("brief_pdfs")
def test_a_page_too_large_becomes_a_smaller_one_that_says_what_it_lacks(reported, tmp_path, monkeypatch):
    whole = (reported / "report.html").stat().st_size
    monkeypatch.setattr(page, "LARGEST", whole * 3 // 4)
    text = written(shutil.copytree(reported, tmp_path / "copy"))
    assert len(text.encode()) < whole * 3 // 4
    data = json.loads(scripts(text)[0][1])
    assert not data["curves"]
    assert "left out to keep this page small" in text


@pytest.mark.usefixtures("brief_pdfs")
def test_the_report_of_a_study_without_finished_cells_says_that_no_number_is_finished(tmp_path):
    bench = Bench(tmp_path)
    bench.plan.append({"kind": "clean", "address": "never", "spec": {}})
    text = written(bench.finish())
    assert "No number of this study is finished yet" in text
    assert "nothing to draw" in text
    assert "1 of 1 cell of the study" in text


@pytest.mark.usefixtures("brief_pdfs")
def test_a_study_without_attacks_says_nothing_about_robustness(tmp_path):
    bench = Bench(tmp_path)
    bench.model("latency")
    text = written(bench.finish())
    assert "says nothing about robustness" in text
    assert "90.0" in text
    assert "No attacked image is stored for: latency" in text


@pytest.mark.usefixtures("brief_pdfs")
def test_one_epsilon_numbers_that_are_missing_and_attacks_under_way_are_no_problem(tmp_path):
    bench = Bench(tmp_path)
    train = bench.model("latency")
    bench.attack(train, "pgd", 0.1, 0.5, zero_gradient_share=float("nan"), arrays=b"no arrays at all")
    bench.plan.append(
        {
            **bench.plan[-1],
            "address": "unfinished",
            "spec": {**bench.plan[-1]["spec"], "attack": {"name": "square"}},
        }
    )
    found = records(bench.finish())
    found[0].update(spikes_per_inference=None, ci_low=None, clean_accuracy=float("nan"))
    text = page.write(tmp_path, found).read_text()
    assert "without square</a>" in text
    assert "No attacked image is stored for: latency" in text


def test_an_exhibit_prefers_a_successful_gradient_attack_at_a_middle_epsilon(study):
    found = exhibits(records(study), study)
    assert list(found) == ["latency", "direct"]
    for exhibit in found.values():
        assert (exhibit.record["attack"], exhibit.record["epsilon"]) == ("pgd", 0.1)
        assert exhibit.succeeded
        assert exhibit.example == 0
        assert exhibit.before == 1
    assert found["latency"].spiking
    assert not found["direct"].spiking


@pytest.mark.usefixtures("brief_pdfs")
@pytest.mark.parametrize(("shape", "steps"), [((3, 5, 5), 1), ((2, 4, 3), 8), ((1, 28, 28), 10)])
def test_images_of_any_number_of_channels_and_steps_are_drawn(tmp_path, shape, steps):
    bench = Bench(tmp_path)
    bench.attack(bench.model("latency"), "pgd", 0.1, 0.5, arrays=arrays(shape=shape, steps=steps))
    assert "The attack succeeded" in written(bench.finish())


@pytest.mark.usefixtures("brief_pdfs")
def test_several_seeds_share_a_curve_and_say_so(tmp_path):
    bench = Bench(tmp_path)
    for seed in (0, 1):
        bench.attack(bench.model("latency", seed=seed), "pgd", 0.1, 0.25 * (seed + 1))
    curves = drawings(records(bench.finish()))[0]
    assert "mean over 2 seeds" in curves.caption
    assert curves.files()["svg"].count(b">latency</text>") == 1


def test_two_figures_in_one_page_share_no_id(study):
    first = drawings(records(study))[0].files()["svg"]
    ids = [set(re.findall(r' id="([^"]*)"', inline(first, name))) for name in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"(?:#)([\w.-]+)(?=[)\"])", inline(first, "a"))) - {""} <= ids[0] | hex_colours(
        first
    )


def hex_colours(svg):
    return set(re.findall(r"#([0-9a-f]{6})", svg.decode()))
