"""Studies, settings, models, tensors and stores of arbitrary content are read or refused with an InputError.

Seeded, so that a failure can be repeated. `SPIKEPROOF_FUZZ=100 pytest tests/laws/test_hostile_files.py` tries
a hundred times as many cases.
"""

import hashlib
import importlib.util
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import spikeproof as sp
from spikeproof.auditing.checks import MISSING_SAFEGUARDS
from spikeproof.command.cli import cli
from spikeproof.errors import InputError, SpikeproofError
from spikeproof.experiments.read.results import distance_records, probe_records, records
from spikeproof.experiments.run.driver import status
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.experiments.study.files.settings import assign
from spikeproof.plainfiles import from_json
from spikeproof.report.provenance import sources
from spikeproof.report.tables import to_csv, to_latex
from spikeproof.tensorfiles import dump
from spikeproof.tensorfiles import parse as parse_tensors
from spikeproof.threats import parse_epsilon

TIMES = int(os.environ.get("SPIKEPROOF_FUZZ", "1"))

_place = Path(__file__).parents[1] / "unit" / "stored_study.py"
_spec = importlib.util.spec_from_file_location("stored_study_of_laws", _place)
stored_study = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stored_study)

STUDY = """\
name: s
data: digits
models:
  - encoder: [latency, {direct: {steps: 4}}]
    neuron: lif
    network: {mlp: {hidden: [4]}}
    rule: {bptt: {epochs: 1}}
attacks: [fgsm, {pgd: {steps: 2}}]
certificates: [ibp]
probes: [shuffle]
epsilons: [8/255, 0.1]
examples: 5
seeds: [0, 1]
"""
SCRAPS = (
    *(
        "[" * 50,
        "{" * 50,
        "]",
        "}",
        ":",
        "- ",
        "\n",
        "\t",
        "&a ",
        "*a",
        "!!int ",
        "!!bool ",
        "!!null x",
        "!x ",
    ),
    *("---\n", "...", "? ", "|", ">", "'", '"', "%YAML 9", "\\UFFFFFFFF", '"\\uD800"', "\x00", "\x1b[2J"),
    *("1_000", "0x10", "1e999", "-1", "9" * 30, "2020-99-99", "null", "~", "true", "٣", "\u202e", "é"),
    *("models", "epsilons", "name", "suite: extreme", "steps: 1000000000", "a." * 100, "<<: *a", "=", "0"),
)
VALUES = (
    *([], {}, None, True, 0, -1, 1.5, 10**30, "", "x", "../x", "/dev/zero", "\x1b[2J", "\u202e", "\ud800"),
    *([[]], [{}], {"name": 3}, {"name": "x\ny"}, {"name": "latency"}, "9" * 500, [None], [1e308], 1e-320),
)


def mutated(text, chance):
    """Text with a few pieces cut out, doubled, exchanged or put in."""
    for _ in range(chance.randint(1, 4)):
        i, j = sorted(chance.randint(0, len(text)) for _ in range(2))
        piece = chance.choice(SCRAPS)
        text = chance.choice(
            (text[:i] + piece + text[i:], text[:i] + text[i + 1 :], text[:i] + piece + text[j:], text[:j])
        )
    return text


def places(data, path=()):
    """The paths of all values in plain data."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def exchanged(data, chance):
    """Plain data with one value exchanged or taken out."""
    data = json.loads(json.dumps(data))
    path = chance.choice(list(places(data)))
    value = chance.choice(VALUES)
    if not path:
        return value
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if chance.random() < 0.25:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


def tried(call):
    """The message with which a call refuses its argument, or None where it accepts it."""
    try:
        call()
    except SpikeproofError as error:
        return str(error)
    return None


def test_a_study_file_is_used_or_refused_with_its_place():
    chance, refused = random.Random(1), 0
    for _ in range(400 * TIMES):
        text = mutated(STUDY, chance)
        said = tried(lambda text=text: study_of(parse(text, "s.yaml"), 500))
        refused += said is not None
        assert said is None or "s.yaml" in said, (text, said)
    assert refused > 100


def test_a_mutated_setting_is_used_or_refused():
    chance = random.Random(2)
    settings = (
        "examples=7",
        "models.0.rule.epochs=2",
        "epsilons=[0.1]",
        "models.encoder.steps=3",
        "attacks=[]",
    )
    for _ in range(600 * TIMES):
        document, setting = parse(STUDY, "s.yaml"), mutated(chance.choice(settings), chance)
        tried(lambda document=document, setting=setting: assign(document, setting))


def test_an_epsilon_is_a_plain_number_or_refused():
    chance = random.Random(3)
    for _ in range(2000 * TIMES):
        text = mutated(chance.choice(("8/255", "0.03", "1e-3")), chance)
        if tried(lambda text=text: parse_epsilon(text)) is None:
            assert set(text) <= set("0123456789.+-eE/ "), text


def test_a_description_of_a_model_is_built_or_refused_with_its_file(tmp_path):
    chance = random.Random(4)
    spec = sp.ModelSpec(sp.Latency(4), sp.MLP((6,)), sp.LIF(), sp.ATan(), sp.Count(), (1, 4, 4), 3)
    sp.save(spec.build(sp.Key.of(0)).eval(), tmp_path)
    path = tmp_path / "model.json"
    text = path.read_text()
    for i in range(200 * TIMES):
        changed = mutated(text, chance) if i % 3 == 0 else json.dumps(exchanged(json.loads(text), chance))
        path.write_text(changed, "utf-8", errors="surrogatepass")
        said = tried(lambda: sp.load(tmp_path))
        assert said is None or "model.json" in said or "weights.safetensors" in said, (changed, said)


def test_mutated_tensor_files_are_read_or_refused():
    chance, content = random.Random(5), dump({"w": torch.ones(2, 3), "b": torch.zeros(4)}, {"epoch": 1})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for i in range(2000 * TIMES):
        if i % 2:
            made = bytearray(content)
            for _ in range(chance.randint(1, 3)):
                made[chance.randrange(len(made))] = chance.randrange(256)
            made = bytes(made[: chance.randint(0, len(made))]) if chance.random() < 0.3 else bytes(made)
        else:
            text = json.dumps(exchanged(header, chance)).encode()
            made = len(text).to_bytes(8, "little") + text + content[8 + length :]
        said = tried(lambda made=made: parse_tensors(made, "w.safetensors"))
        assert said is None or "w.safetensors" in said


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity"])
def test_numbers_that_are_not_finite_are_refused_however_they_are_written(number):
    with pytest.raises(InputError, match="expected JSON"):
        from_json(f'{{"threat": [{number}]}}'.encode(), "study.json")


def test_null_metadata_are_read_as_missing():
    text = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": None})
    content = len(text).to_bytes(8, "little") + text.encode() + b"\0\0\0\0"
    said = tried(lambda: parse_tensors(content, "w.safetensors"))
    assert said is None or "w.safetensors" in said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of two models with every kind of cell that a study of images has."""
    bench = stored_study.Bench(tmp_path_factory.mktemp("whole"))
    for code in ("latency", "direct"):
        train = bench.model(code)
        for epsilon in (0.1, 0.2) if code == "latency" else (0.1,):
            bench.attack(train, "fgsm", epsilon, 0.5 - epsilon, arrays=stored_study.arrays())
            bench.certify(train, "ibp", epsilon, proved=stored_study.np.zeros(stored_study.N))
    bench.finish()
    note = {**bench.plan[-2], "because": "loss still rising", "round": 1}
    note = {**note, "address": "added", "spec": {**note["spec"], "examples": 5}}
    (bench.root / "repairs.json").write_text(json.dumps({"repairs": [note]}))
    return bench.root


def sign(cell):
    """Rewrite the manifest of a cell, so that its checksums fit the changed files."""
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in cell.iterdir()
        if path.name != "MANIFEST.json"
    }
    (cell / "MANIFEST.json").write_text(json.dumps(digests))


READINGS = (status, records, probe_records, distance_records, sources)


def test_a_store_from_elsewhere_is_read_or_refused(whole, tmp_path):
    chance = random.Random(6)
    documents = [*whole.glob("*.json"), *whole.glob("cells/*/*.json")]
    changed = tmp_path / "changed"
    shutil.copytree(whole, changed)
    for i in range(60 * TIMES):
        document = chance.choice(documents)
        there = changed / document.relative_to(whole)
        data = json.loads(document.read_bytes())
        text = "[" * 9999 if i % 20 == 0 else json.dumps(exchanged(data, chance))
        there.write_text(text)
        if there.parent.parent.name == "cells" and there.name != "MANIFEST.json":
            sign(there.parent)
        for read in {records, chance.choice(READINGS)}:
            tried(lambda read=read: read(changed))
        there.write_bytes(document.read_bytes())
        if (document.parent / "MANIFEST.json").exists():
            (there.parent / "MANIFEST.json").write_bytes((document.parent / "MANIFEST.json").read_bytes())


@pytest.mark.parametrize("name", ["study.json", "repairs.json", "MANIFEST.json", "examples.parquet"])
@pytest.mark.parametrize("kind", ["device", "pipe", "directory"])
def test_what_is_no_regular_file_is_never_waited_for(whole, tmp_path, name, kind):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    path = next(root.rglob(name))
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    said = [tried(lambda read=read: read(root)) for read in READINGS]
    if path.parent == root:
        assert all(name in words for words in said[:4]), said
    else:
        assert any(name in words for words in status(root).damaged)


def test_a_later_format_is_named_and_not_read_as_todays(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    cell = next(path for path in root.glob("cells/*") if "clean" in path.name)
    record = json.loads((cell / "cell.json").read_bytes())
    (cell / "cell.json").write_text(json.dumps({**record, "format": 2}))
    sign(cell)
    with pytest.raises(
        InputError, match=r"cell\.json: this version of spikeproof reads format 1: got format 2"
    ):
        records(root)
    plan = json.loads((root / "study.json").read_bytes())
    (root / "study.json").write_text(json.dumps({"format": 2, "something": "else"}))
    with pytest.raises(InputError, match="reads format 1: got format 2"):
        status(root)
    (root / "study.json").write_text(json.dumps({**plan, "format": 1}))
    with pytest.raises(InputError, match="got format 2"):
        status(root)


def test_no_character_that_steers_a_terminal_leaves_a_store(whole, tmp_path):
    root, evil = tmp_path / "store", "a\x1b[31m\u202eb"
    shutil.copytree(whole, root)
    for path in [*root.glob("cells/*/*.json"), root / "study.json"]:
        text = path.read_text().replace('"latency"', json.dumps(evil)).replace('"fgsm"', json.dumps(evil))
        path.write_text(text)
        if path.parent.parent.name == "cells":
            sign(path.parent)
    for command in ("show", "status"):
        shown = CliRunner().invoke(cli, [command, str(root)])
        assert shown.exit_code == 0, shown.output
        assert "\x1b" not in shown.output
        assert "\u202e" not in shown.output
    rows = records(root)
    for text in (to_csv(rows), to_latex(rows)):
        assert "x1b" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("kind", ["inspect", "certify"])
@pytest.mark.parametrize("harm", ["deleted", "damaged", "swapped"])
def test_evidence_that_is_lost_never_improves_a_verdict(whole, tmp_path, kind, harm):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    (root / "repairs.json").unlink()
    before = [row for row in records(root) if row["attack"] == "worst-case"]
    cells = sorted(path for path in root.glob("cells/*") if kind in path.name)
    if harm == "deleted":
        shutil.rmtree(cells[0])
    elif harm == "damaged":
        (cells[0] / "metrics.json").write_text("{}{")
    else:
        other = json.loads((cells[-1] / "cell.json").read_bytes())
        (cells[0] / "cell.json").write_text(json.dumps({**other, "address": cells[0].name}))
        sign(cells[0])
    after = [row for row in records(root) if row["attack"] == "worst-case"]
    order = ["withheld", "doubtful", "preliminary", "supported"]
    assert len(after) == len(before)
    reason = MISSING_SAFEGUARDS.name
    marked = [row for row in after if any(text.startswith(reason) for text in row["warnings"])]
    assert len(marked) == (2 if kind == "inspect" else 1)
    for old, new in zip(before, after, strict=True):
        assert new["robust_accuracy"] == old["robust_accuracy"]
        assert order.index(new["verdict"]) <= order.index(old["verdict"])
    assert {row["verdict"] for row in marked} == {"withheld"}
