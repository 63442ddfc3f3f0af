"""Study files made of others: what they mean, where their lines are, and what is refused."""

import pytest

from spikeproof.catalogue.names import KINDS, PARTS, studies
from spikeproof.catalogue.options import options
from spikeproof.errors import InputError
from spikeproof.experiments.study.documents import MAX_PARTS, parse, read
from spikeproof.experiments.study.files.composition import BLOCKS, INCLUDE, USE, composed
from spikeproof.experiments.study.files.layout import LAYOUT
from spikeproof.experiments.study.files.reader import load

COMMON = """\
name: common
data: digits
attacks: [fgsm]
epsilons: [0.1]
blocks:
  small:
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 2}}
  strong: [{pgd: {steps: 5}}, square]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "common.yaml").write_text(COMMON)
    return tmp_path


def made(folder, text, name="study.yaml"):
    (folder / name).write_text(text)
    return composed(read(folder / name), folder)


def test_keys_of_included_files_lie_beneath_those_of_the_file_and_the_name_is_its_own(folder):
    data = made(folder, "include: parts/common.yaml\nname: mine\nepsilons: [0.2]").data
    assert data == {"data": "digits", "attacks": ["fgsm"], "epsilons": [0.2], "name": "mine"}


def test_of_several_files_the_last_wins_and_paths_begin_in_the_file_that_names_them(folder):
    (folder / "parts" / "more.yaml").write_text("include: common.yaml\nepsilons: [0.3]\nexamples: 5")
    data = made(folder, "include: [parts/common.yaml, parts/more.yaml]\nname: mine").data
    assert (data["epsilons"], data["examples"], data["data"]) == ([0.3], 5, "digits")


def test_blocks_stand_where_they_are_used_and_keys_beside_use_win(folder):
    text = """\
include: parts/common.yaml
blocks: {tiny: {block: small, rule: bptt}}
name: mine
models:
  - {block: tiny, encoder: latency}
  - {block: [small], encoder: direct, network: {block: net}}
  - {block: [small, deep], encoder: direct}
attacks: [noise, {block: strong}, fgsm]
"""
    data = made(folder, text.replace("tiny: {", "net: convnet, deep: {network: vgg-9}, tiny: {")).data
    small = {"network": {"mlp": {"hidden": [8]}}, "rule": {"bptt": {"epochs": 2}}}
    assert data["models"] == [
        {**small, "rule": "bptt", "encoder": "latency"},
        {**small, "encoder": "direct", "network": "convnet"},
        {**small, "network": "vgg-9", "encoder": "direct"},
    ]
    assert data["attacks"] == ["noise", {"pgd": {"steps": 5}}, "square", "fgsm"]


def test_every_value_knows_the_file_and_the_line_that_it_was_written_in(folder):
    text = "include: parts/common.yaml\nname: mine\nmodels:\n  - {block: small, encoder: latency}\n"
    document = made(folder, text + "attacks:\n  - noise\n  - block: strong\n  - fgsm")
    assert document.where(("data",)) == "common.yaml:2"
    assert document.where(("models", 0, "network", "mlp")) == "common.yaml:7"
    assert document.where(("models", 0, "encoder")) == "study.yaml:4"
    assert [document.where(("attacks", i)) for i in range(4)] == [
        *("study.yaml:6", "common.yaml:9", "common.yaml:9", "study.yaml:8")
    ]


def test_a_study_may_include_a_built_in_one_and_settings_reach_what_was_included(folder):
    (folder / "study.yaml").write_text("include: quickstart\nname: mine\nexamples: 7")
    built_in, mine = load("quickstart"), load(str(folder / "study.yaml"), ["models.rule.epochs=1"])
    assert (mine.name, mine.examples, mine.attacks) == ("mine", 7, built_in.attacks)
    assert {model.rule.epochs for model in mine.models} == {1}


def test_settings_reach_blocks_before_they_are_used(folder):
    (folder / "s.yaml").write_text(
        "include: parts/common.yaml\nname: s\nmodels: {block: small, encoder: direct}"
    )
    study = load(str(folder / "s.yaml"), ["blocks.small.rule.bptt.epochs=3"])
    assert study.models[0].rule.epochs == 3


def test_a_document_without_them_is_left_alone(folder):
    document = parse("name: x\ndata: digits", "s.yaml")
    assert composed(document, folder) is document


CIRCLE = "study.yaml:1: expected files that do not include themselves: got 'study.yaml -> study.yaml'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: other.yaml", "study.yaml:1: expected a study file, or .*: got 'other.yaml'"),
        ("include: quickstrat", "Did you mean 'quickstart'"),
        ("include: [1]", "study.yaml:1: expected the name of a study file: got 1"),
        ("include: {a: b}", "expected the name of a study file"),
        ("include: study.yaml", CIRCLE),
        ("include: parts/bad.yaml", "study.yaml:1: include 'parts/bad.yaml': bad.yaml:1: .*the tag"),
        ("include: parts/list.yaml", "a study file with keys and values"),
        ("include: parts", "a study file, or the name"),
        ("blocks: [1]", "study.yaml:1: expected names, each with a block: got "),
        ("a: 1\nmodels: {block: small}", "study.yaml:2: expected the name of a block: got 'small'"),
        ("blocks: {small: 1}\nmodels: {block: smal}", "Did you mean 'small'"),
        ("blocks: {a: {block: b}, b: [{block: a}]}\nmodels: {block: a}", "themselves: got 'a -> b -> a'"),
        ("blocks: {a: [1]}\nmodels: {block: a, encoder: direct}", "a block of keys beside other keys"),
        ("models: {block: {a: 1}}", "expected the name of a block"),
    ],
)
def test_what_cannot_be_composed_is_refused_with_file_and_line(folder, text, message):
    (folder / "parts" / "bad.yaml").write_text("a: !!python/object/apply:os.system ['true']")
    (folder / "parts" / "list.yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match=message):
        made(folder, text)


def test_files_in_a_longer_circle_are_refused(folder):
    (folder / "a.yaml").write_text("include: b.yaml")
    (folder / "b.yaml").write_text("include: a.yaml")
    with pytest.raises(InputError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        made(folder, "include: a.yaml")


def test_blocks_of_blocks_cannot_grow_without_bound(folder):
    blocks = "\n".join(f"  b{i}: [{', '.join(['{block: b' + str(i - 1) + '}'] * 10)}]" for i in range(1, 12))
    with pytest.raises(InputError, match=f"at most {MAX_PARTS} parts"):
        made(folder, f"blocks:\n  b0: [1]\n{blocks}\nmodels: {{block: b11}}")


def test_files_that_include_many_others_are_refused(folder):
    for i in range(1, 8):
        (folder / f"f{i}.yaml").write_text(f"include: [{', '.join([f'f{i - 1}.yaml'] * 10)}]")
    (folder / "f0.yaml").write_text("a: 1")
    with pytest.raises(InputError, match="at most 100 files"):
        made(folder, "include: f7.yaml")


def test_no_key_and_no_option_is_called_like_the_words_of_composition():
    assert not {INCLUDE, BLOCKS, USE} & {*LAYOUT}
    for kind, table in KINDS.items():
        for name in PARTS[table]:
            assert USE not in {name, *(option.name for option in options(kind, name))}
    assert not {INCLUDE, BLOCKS, USE} & {*studies()}
