import pytest

from spikeproof.errors import InputError
from spikeproof.experiments.study.documents import parse, read
from spikeproof.experiments.study.files.settings import assign


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['true']", r"s\.yaml:1: .*the tag tag:yaml\.org,2002:python"),
        ("a: 1\nb: !!binary aGk=", r"s\.yaml:2: .*as binary"),
        ("a: 1\na: 2", r"s\.yaml:2: a key stands once: got 'a' a second time"),
        ("a: 1\n? [1, 2]\n: 3", r"s\.yaml:2: a key is a word"),
        ("a: 1\n~: 2", r"s\.yaml:2: a key is a word"),
        ("a: [1, 2", r"s\.yaml:1: expected one YAML document"),
        ("a: 1\n---\nb: 2", r"s\.yaml:2: expected one YAML document"),
        ("a: *nothing", r"s\.yaml:1: .*nothing"),
        ("a:\n\t- 1", r"s\.yaml:2: "),
        ("a: \0", r"s\.yaml: expected YAML text"),
        ("a: 1e999", r"s\.yaml:1: .*a finite number"),
        ("a: !!int 0x1F", r"s\.yaml:1: .*as int"),
        ("&a [*a]", r"s\.yaml:1: a study has at most"),
        ("[" * 3000, r"s\.yaml: a study has at most"),
        ("[" * 30 + "]" * 30, r"s\.yaml:1: a study has at most"),
    ],
)
def test_yaml_tags_unreadable_numbers_and_oversized_lists_are_refused_with_their_line(text, message):
    with pytest.raises(InputError, match=message):
        parse(text, "s.yaml")


def test_an_alias_bomb_is_refused_before_it_grows():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(InputError, match="at most"):
        parse("\n".join(lines), "s.yaml")


def test_an_alias_stands_for_what_it_names():
    assert parse("a: &x {b: 1}\nc: *x", "s.yaml").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_numbers_and_words_are_those_of_yaml_1_2():
    text = "[1, -2, 0.5, .5, 1e-3, 8/255, yes, no, true, null, ~, 1:30, 2020-01-01, 0x10, 1_000]"
    expected = [1, -2, 0.5, 0.5, 0.001, "8/255", "yes", "no", True, None, None]
    assert parse(text, "s.yaml").data == [*expected, "1:30", "2020-01-01", "0x10", "1_000"]


def test_every_value_knows_its_line():
    document = parse("a:\n  - b: 1\n    c:\n      - 2\n", "s.yaml")
    assert document.where(("a", 0, "c", 0)) == "s.yaml:4"
    assert document.where(("a", 0, "c", 7, "beyond")) == "s.yaml:4"
    assert document.where(("elsewhere",)) == "s.yaml:1"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"# " + b"x" * 300_000, "256 KiB"), (None, "which is none")],
)
def test_a_file_that_is_no_text_of_reasonable_size_is_refused(tmp_path, content, message):
    path = tmp_path / "s.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


STUDY = """\
name: s
examples: 5
models:
  - encoder: latency
    rule: [bptt, {bptt: {lr: 0.1}}]
  - encoder: {latency: {steps: 4}}
attacks: [fgsm, {name: pgd, steps: 10}]
"""


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("examples=7", ("examples",), 7),
        ("examples=all", ("examples",), "all"),
        ("epsilons=[8/255, 1e-3]", ("epsilons",), ["8/255", 0.001]),
        ("models.0.rule.0.epochs=2", ("models", 0, "rule", 0), {"bptt": {"epochs": 2}}),
        ("models.rule.epochs=2", ("models", 0, "rule", 1), {"bptt": {"lr": 0.1, "epochs": 2}}),
        ("models.0.encoder.steps=3", ("models", 0, "encoder"), {"latency": {"steps": 3}}),
        ("models.1.encoder.steps=3", ("models", 1, "encoder"), {"latency": {"steps": 3}}),
        ("models.1.encoder.latency.steps=3", ("models", 1, "encoder"), {"latency": {"steps": 3}}),
        ("models.1.decoder=count", ("models", 1), {"encoder": {"latency": {"steps": 4}}, "decoder": "count"}),
        ("attacks.1.steps=3", ("attacks", 1), {"name": "pgd", "steps": 3}),
        ("attacks=[]", ("attacks",), []),
    ],
)
def test_a_setting_changes_the_value_it_names(setting, path, value):
    document = parse(STUDY, "s.yaml")
    assign(document, setting)
    data = document.data
    for name in path:
        data = data[name]
    assert data == value


def test_a_complaint_about_a_setting_names_the_setting():
    document = parse(STUDY, "s.yaml")
    assign(document, "models.0.rule.0.epohcs=2")
    assert document.where(("models", 0, "rule", 0, "bptt", "epohcs")) == "setting 'models.0.rule.0.epohcs=2'"
    assert document.where(("models", 0, "rule", 1)) == "s.yaml:5"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("examples", "written key=value"),
        ("=3", "written key=value"),
        ("models..rule=3", "written key=value"),
        ("models.7.encoder=latency", "a number below 2"),
        ("examples.deep=3", "the path of a value"),
        ("examples=[", "setting 'examples=\\['"),
        ("examples=!!python/name:os.system x", "without a tag"),
    ],
)
def test_a_setting_without_a_valid_path_or_value_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        assign(parse(STUDY, "s.yaml"), setting)
