"""What `spikeproof list KIND MEMBER` says of options: a meaning for each, and true defaults."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from spikeproof.catalogue.names import KINDS, PARTS
from spikeproof.catalogue.options import NEEDED, options
from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.specs import build

WITHOUT_DEFAULT = {("transfer-models", "those-with")}  # all its options may be left out, but not together
MEMBERS = [(kind, name) for kind in KINDS for name in PARTS[KINDS[kind]]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_every_member_has_a_meaning(kind):
    silent = [
        f"{name}.{option.name}"
        for name in PARTS[KINDS[kind]]
        for option in options(kind, name)
        if not option.meaning
    ]
    assert not silent


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_a_default_written_out_in_a_study_file_changes_nothing(kind, name):
    found = options(kind, name)
    member = PARTS[KINDS[kind]][name]
    assert [option.name for option in found] == [f.name for f in dataclasses.fields(member) if f.init]
    if any(option.default == NEEDED for option in found) or (kind, name) in WITHOUT_DEFAULT:
        return
    spec = json.loads(json.dumps({option.name: option.default for option in found}))
    assert build(KINDS[kind], {name: spec}, PARTS) == member()


def test_an_option_that_must_be_given_is_said_to_be_required():
    assert {o.name: o.default for o in options("transfer-models", "saved")} == {"path": NEEDED}
    assert "(required)" in CliRunner().invoke(cli, ["list", "transfer-models", "saved"]).output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("encoders", "latency"), "In a study file: {latency: {steps: 8}}"),
        (("torchattacks", "PGD"), "In a study file: {torchattacks: {attack: {PGD: {random_start: true}}}}"),
        (("decoders", "count"), "count has no options."),
        (("neurons", "lif"), "membrane time constant [s], positive."),
    ],
)
def test_list_prints_the_options_of_one_member(asked, said):
    assert said in CliRunner().invoke(cli, ["list", *asked]).output


def test_an_unknown_member_gets_a_suggestion():
    with pytest.raises(InputError, match="Did you mean 'latency'"):
        options("encoders", "latncy")
