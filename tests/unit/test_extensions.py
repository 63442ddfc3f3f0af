"""Members that another package adds by its entry points: listed, studied and reported; faults are named."""

import json
import sys

import pytest
from click.testing import CliRunner

from spikeproof.catalogue.names import PARTS, broken, members
from spikeproof.command.cli import cli
from spikeproof.datasets import DatasetSpec
from spikeproof.errors import InputError
from spikeproof.protocols import Encoder
from spikeproof.specs import build, describe

ACME = '''
"""A small package of somebody else."""

from dataclasses import dataclass

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.datasets import Digits
from spikeproof.encoders import Latency
from spikeproof.neurons import LIF


@dataclass(frozen=True)
class LateBloom(Latency):
    """Latency coding of somebody else."""


@dataclass(frozen=True, kw_only=True)
class FewSteps(PGD):
    """Projected gradient descent of somebody else."""

    steps: int = 3


@dataclass(frozen=True)
class Copied(Digits):
    """Digits of somebody else."""


@dataclass(frozen=True)
class Leak(LIF):
    """A neuron of somebody else."""


class Mutable(Latency):
    pass


def __getattr__(name):
    if name == "Exit":
        raise SystemExit(3)
    raise AttributeError(name)


NOTHING = 3
'''
GROUPS = {
    "encoders": "acme-bloom = acme_members:LateBloom",
    "attacks": "acme-pgd = acme_members:FewSteps",
    "datasets": "acme-digits = acme_members:Copied",
    "neurons": "acme-leak = acme_members:Leak",
}
STUDY = """\
name: of-others
data: acme-digits
models:
  - encoder: {acme-bloom: {steps: 2}}
    neuron: acme-leak
    network: {mlp: {hidden: [4]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
attacks: [acme-pgd]
epsilons: [0.1]
examples: 10
"""


def install(folder, groups, module=ACME, name="acme_members"):
    """A package as pip leaves it: the module, and the directory that declares its entry points."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    lines = (f"[spikeproof.{group}]\n{entries}\n" for group, entries in groups.items())
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the path of imports; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = {*sys.modules}
    yield folder
    for name in {*sys.modules} - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_members_of_others_are_listed_with_their_sentences(packages):
    install(packages, GROUPS)
    result = CliRunner().invoke(cli, ["list", "encoders", "--json"])
    assert {"name": "acme-bloom", "description": "Latency coding of somebody else."} in json.loads(
        result.stdout
    )
    assert result.stderr == ""
    assert members("datasets")["acme-digits"] == "Digits of somebody else."
    shown = CliRunner().invoke(cli, ["list", "encoders", "acme-bloom"])
    assert "steps: a whole number" in shown.output


def test_nothing_of_others_is_imported_before_it_is_asked_for(packages):
    install(packages, GROUPS)
    assert build(Encoder, "latency", PARTS) == build(Encoder, "latency", PARTS)
    assert describe(build(Encoder, "latency", PARTS), PARTS)["name"] == "latency"
    assert "acme-bloom" not in [*PARTS[Encoder]]
    assert "acme_members" not in sys.modules
    part = build(Encoder, {"acme-bloom": {"steps": 3}}, PARTS)
    assert "acme_members" in sys.modules
    assert describe(part, PARTS)["name"] == "acme-bloom"
    assert build(Encoder, describe(part, PARTS), PARTS) == part


def test_members_of_others_run_in_a_study_and_stand_in_its_report(packages, tmp_path):
    install(packages, GROUPS)
    (tmp_path / "study.yaml").write_text(STUDY)
    out = tmp_path / "out"
    arguments = ["run", str(tmp_path / "study.yaml"), "--out", str(out), "--workers", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    record, *_ = json.loads(CliRunner().invoke(cli, ["show", str(out), "--json"]).output)
    assert (record["encoder"], record["neuron"], record["dataset"]) == (
        "acme-bloom",
        "acme-leak",
        "acme-digits",
    )
    noted = [json.loads(path.read_text()) for path in out.rglob("provenance.json")]
    assert all(each["packages"] == {"acme_members": "1.5"} for each in noted)
    page = (out / "report.html").read_text()
    assert "acme-bloom" in page
    assert "acme-pgd" in page


def test_what_is_broken_is_named_in_a_sentence_and_the_rest_works(packages):
    install(
        packages,
        {
            "encoders": "\n".join(
                [
                    "acme-bloom = acme_members:LateBloom",
                    "latency = acme_members:LateBloom",
                    "gone = acme_members:Gone",
                    "missing = no_such_package:Thing",
                    "number = acme_members:NOTHING",
                    "digits = acme_members:Copied",
                    "exits = acme_members:Exit",
                ]
            )
        },
    )
    assert "acme-bloom" in members("encoders")
    found = broken("encoders")
    assert len(found) == 6
    for sentence, words in zip(
        sorted(found),
        (
            "digits = acme_members:Copied of acme_members is left out: Copied, which lacks",
            "exits = acme_members:Exit of acme_members is left out: an error on importing it (SystemExit, 3)",
            "gone = acme_members:Gone of acme_members is left out: an error on importing it (AttributeError",
            "latency = acme_members:LateBloom of acme_members is left out: spikeproof has a member of this",
            "missing = no_such_package:Thing of acme_members is left out: an error on importing it (Module",
            "number = acme_members:NOTHING of acme_members is left out: int 3, which is no dataclass",
        ),
        strict=True,
    ):
        assert words in sentence
    assert PARTS[Encoder]["latency"].__module__.startswith("spikeproof.")
    with pytest.raises(InputError, match=r"gone = acme_members:Gone of acme_members"):
        build(Encoder, "gone", PARTS)
    result = CliRunner().invoke(cli, ["list", "encoders"])
    assert result.exit_code == 0
    assert result.stderr.count("is left out") == 6


def test_a_name_that_two_packages_use_is_nobodys(packages):
    install(packages, {"datasets": "twice = acme_members:Copied"})
    install(packages, {"datasets": "twice = other_members:Copied"}, name="other_members")
    (sentence,) = broken("datasets")
    assert "acme_members" in sentence
    assert "other_members" in sentence
    assert "twice" not in members("datasets")
    with pytest.raises(InputError, match="which have one name"):
        build(DatasetSpec, "twice", PARTS)
