"""The JSON Schema of study files: it accepts what the reader accepts, and refuses what is misspelt."""

import json

import pytest
from click.testing import CliRunner

from spikeproof.catalogue.names import KINDS, PARTS, studies
from spikeproof.catalogue.options import NEEDED, options
from spikeproof.command.cli import cli
from spikeproof.experiments.study.documents import parse, read
from spikeproof.experiments.study.files.layout import BLOCK, LAYOUT
from spikeproof.experiments.study.files.schema import schema

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    made = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("name", sorted(studies()))
def test_every_built_in_study_is_valid(validator, name):
    validator.validate(read(studies()[name]).data)


BASE = "name: x\ndata: digits\nmodels: [{encoder: latency}]\nattacks: [fgsm]\nepsilons: [0.1]\n"

RIGHT = """\
seeds: 3
threat: {shifts: {measure: delay}}
attacks: {transfer-grid: {attack: fgsm}}
attacks: [{name: pgd, steps: 3}]
attacks: [{pgd: null}]
attacks: [{block: a}]
corruptions: images
corruptions: [fog, events]
epsilons: [8/255, 1e-3]
draws: auto
models: {model: {saved: {path: a}}}
models: [{block: a, rule: bptt}]
models: {encoder: {latency: {steps: 4}}, rule: [bptt, {bptt: {loss: {cross-entropy: {temperature: 2}}}}]}
include: a.yaml
blocks: {a: [1]}
normalise: {mean: [0], std: [1]}
suite: [quick, standard]
baseline: {neuron: relu}
sweep: nested
"""
WRONG = """\
nmae: x
name: 3
data: digts
models: [{encodr: latency}]
models: [{encoder: {latency: {stesp: 3}}}]
models: {encoder: latency, rule: {bptt: {loss: mse3}}}
models: {model: {saved: {pat: a}}}
attacks: [{name: pgd, stps: 3}]
attacks: [{pgd: {steps: three}}]
attacks: [{pgd: {}, fgsm: {}}]
attacks: {transfer-grid: {atack: fgsm}}
threat: {linf: {epsilon: 0.1}}
epsilons: [8%255]
seeds: [a]
sweep: nest
suite: [long]
corruptions: [image]
normalise: {mean: [0], sdt: [1]}
"""


def with_(line):
    return {**parse(BASE, "s").data, **parse(line, "s").data}


@pytest.mark.parametrize("line", RIGHT.splitlines())
def test_what_a_study_may_say_is_valid(validator, line):
    validator.validate(with_(line))


@pytest.mark.parametrize("line", WRONG.splitlines())
def test_what_no_study_may_say_is_not(validator, line):
    assert not validator.is_valid(with_(line))


def test_a_study_needs_its_data_and_a_file_that_others_include_needs_nothing(validator):
    assert not validator.is_valid({"name": "x"})
    assert validator.is_valid({"name": "x", "include": "y.yaml"})
    assert validator.is_valid({"epsilons": [0.1]})


PLACES = {
    **{BLOCK[axis].holds: axis for axis in BLOCK if axis != "model"},
    **{LAYOUT[key].holds: key for key in ("data", "attacks", "probes", "certificates", "analyses", "sample")},
}


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind in PLACES])
def test_every_member_with_all_its_options_written_out_is_valid_and_one_more_is_not(validator, kind):
    key = PLACES[KINDS[kind]]
    for name in PARTS[KINDS[kind]]:
        written = {option.name: option.default for option in options(kind, name)}
        if NEEDED in written.values():
            continue
        for right, found in ((True, written), (False, {**written, "no-such-option": 1})):
            part = {name: found}
            change = {"models": {"encoder": "latency", key: part}} if key in BLOCK else {key: part}
            assert validator.is_valid({**parse(BASE, "s").data, **change}) is right, (name, found)


def test_the_command_prints_it():
    result = CliRunner().invoke(cli, ["schema"])
    assert (result.exit_code, json.loads(result.output)) == (0, json.loads(json.dumps(schema())))
