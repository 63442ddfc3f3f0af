"""Settings of the command line on what a study file leaves out: an option of the default is changed."""

import pytest
import yaml

from spikeproof.catalogue.names import KINDS, PARTS
from spikeproof.catalogue.options import NEEDED, options
from spikeproof.errors import InputError
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.layout import BLOCK, LAYOUT
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.experiments.study.files.settings import assign
from spikeproof.specs import build

BARE = "{name: bare, data: digits, models: {encoder: latency}, attacks: pgd, epsilons: 0.1}"


def changed(*settings, text=BARE):
    document = parse(text, "s.yaml")
    for setting in settings:
        assign(document, setting)
    return document.data


CASES = [
    ("models.0.rule.epochs=2", ("models", "rule"), {"bptt": {"epochs": 2}}),
    ("models.rule.epochs=2", ("models", "rule"), {"bptt": {"epochs": 2}}),
    ("models.rule.bptt.epochs=2", ("models", "rule"), {"bptt": {"epochs": 2}}),
    ("models.0.rule.0.epochs=2", ("models", "rule"), {"bptt": {"epochs": 2}}),
    ("models.0.encoder.0.steps=3", ("models", "encoder"), {"latency": {"steps": 3}}),
    ("models.0.neuron.tau=0.01", ("models", "neuron"), {"lif": {"tau": 0.01}}),
    ("models.neuron.reset=to-zero", ("models", "neuron"), {"lif": {"reset": "to-zero"}}),
    (
        "models.rule.loss.temperature=2",
        ("models", "rule"),
        {"bptt": {"loss": {"cross-entropy": {"temperature": 2}}}},
    ),
    ("models.network.hidden.0=5", ("models", "network"), {"mlp": {"hidden": [5]}}),
    ("models.surrogate.alpha=1", ("models", "surrogate"), {"arctangent": {"alpha": 1}}),
    ("attacks.steps=7", ("attacks",), {"pgd": {"steps": 7}}),
    ("attacks.0.steps=7", ("attacks",), {"pgd": {"steps": 7}}),
    ("attacks.pgd.steps=7", ("attacks",), {"pgd": {"steps": 7}}),
    ("data.subset=40", ("data",), {"digits": {"subset": 40}}),
    ("threat.0.measure=1", ("threat",), [{"linf": {"measure": 1}}]),
    ("sample.seed=4", ("sample",), {"class-proportional": {"seed": 4}}),
    ("seeds.0=3", ("seeds",), [3]),
    ("severities.4=4", ("severities",), [1, 2, 3, 4, 4]),
    ("epsilons.0=0.2", ("epsilons",), 0.2),
]


@pytest.mark.parametrize(("setting", "path", "value"), CASES, ids=[case[0] for case in CASES])
def test_an_option_of_what_the_file_leaves_out_can_be_set(setting, path, value):
    data = changed(setting)
    for name in path:
        data = data[name]
    assert data == value


PLACES = {  # kind -> where a study names such a part, as a path of a setting and as one of a document
    **{BLOCK[axis].holds: (f"models.0.{axis}", ("models", axis)) for axis in BLOCK if axis != "model"},
    **{LAYOUT[key].holds: (f"{key}.0", (key,)) for key in ("probes", "certificates", "analyses", "attacks")},
    LAYOUT["data"].holds: ("data", ("data",)),
    LAYOUT["sample"].holds: ("sample", ("sample",)),
}
NAMES = {kind: name for name, kind in KINDS.items()}


def cases():
    for kind, (setting, path) in PLACES.items():
        for name in PARTS[kind]:
            found = options(NAMES[kind], name)
            if not any(option.default is NEEDED for option in found):
                yield from ((kind, name, setting, path, option) for option in found)


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: NAMES[kind])
def test_setting_an_option_of_a_bare_member_to_its_default_makes_the_same_part(kind):
    tried = 0
    for _, name, setting, path, option in (case for case in cases() if case[0] == kind):
        text = yaml.safe_dump(option.default, default_flow_style=True, width=10_000).removesuffix("...\n")
        written = {"models": {"encoder": "latency"}, "name": "x"}
        holder = written["models"] if path[0] == "models" else written
        holder[path[-1]] = name
        data = changed(f"{setting}.{option.name}={text.strip()}", text=yaml.safe_dump(written))
        for step in path:
            data = data[step]
        assert data == {name: {option.name: option.default}}
        assert build(kind, data, PARTS) == build(kind, name, PARTS)
        tried += 1
    assert tried


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attacks.surrogate.alpha=1", "the name of a part, as there is none by default: got 'alpha'"),
        ("models.1.rule.epochs=2", "a number below 1: got '1'"),
        ("models.0.rule.1.epochs=2", "a number below 1: got '1'"),
        ("distances.0.steps=2", "a number below 0"),
        ("distances.steps=2", "a list with elements: got an empty one"),
        ("examples.deep=3", "the path of a value"),
        ("normalise.mean.0.x=1", "the path of a value"),
    ],
)
def test_a_path_to_what_is_not_there_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        changed(setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "models.0.rule.epohcs=2",
            "setting 'models.0.rule.epohcs=2': 'bptt' has no such option",
        ),
        ("models.0.rule.loss.cross-entropie=2", "'cross-entropy' has no such option: got 'cross-entropie'"),
        ("attacks.fgsm.steps=2", "'pgd' has no such option: got 'fgsm'"),
    ],
)
def test_a_misspelt_option_of_a_default_is_refused_with_the_setting(setting, message):
    document = parse(BARE, "s.yaml")
    assign(document, setting)
    with pytest.raises(InputError, match=message):
        study_of(document)


def test_a_setting_that_no_index_limits_leaves_given_models_as_they_are():
    text = "{models: [{encoder: latency}, {model: {saved: {path: p}}}]}"
    data = changed("models.rule.epochs=2", "models.model.saved.path=q", text=text)
    assert data["models"][0]["rule"] == {"bptt": {"epochs": 2}}
    assert data["models"][1] == {"model": {"saved": {"path": "q"}}}


def test_elements_of_one_name_are_changed_together_and_the_others_stay():
    data = changed(
        "attacks.pgd.steps=3", text="attacks: [pgd, fgsm, {pgd: {steps: 9, restarts: 2}}, {name: pgd}]"
    )
    assert data["attacks"] == [
        {"pgd": {"steps": 3}},
        "fgsm",
        {"pgd": {"steps": 3, "restarts": 2}},
        {"name": "pgd", "steps": 3},
    ]
