"""Transfer attacks in a study: images made on one model are evaluated on another; a cell names both."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import spikeproof.experiments.run.driver as running
from spikeproof import PGD, Key, Linf, evaluate_attack, evaluate_clean, save
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.catalogue.saved import load
from spikeproof.datasets import ClassProportional, floats
from spikeproof.errors import InputError
from spikeproof.evaluation.through import made_on
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Processes, Serial, pools
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.specs import canonical

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import FORKING

TEXT = """\
name: transfers
data: digits
models:
  - encoder: [direct, {latency: {steps: 3}}]
    decoder: mean-potential
    network: {mlp: {hidden: [16]}}
    rule: {bptt: {epochs: 3, batch_size: 128, lr: 0.01}}
attacks:
  - pgd: {steps: 10, surrogate: {rectangle: {width: 1.0e-5}}}
  - transfer: {attack: {pgd: {steps: 10}}}
epsilons: [0.1]
examples: 60
"""


def study(text=TEXT):
    return study_of(parse(text, "study.yaml"))


def cells(text=TEXT):
    chosen = study(text)
    return cells_of(chosen, chosen.data.load(None))


def transfers(text=TEXT):
    """Transfer cells: (judge, made on) by the names of their codes and seeds."""
    found = cells(text)
    models = {
        cell.address: (cell.spec["model"]["encoder"]["name"], cell.spec["seed"])
        for cell in found
        if cell.kind == "train"
    }
    return [
        (models[cell.spec["train"]], models[cell.spec["source"]])
        for cell in found
        if cell.kind == "attack" and "source" in cell.spec
    ]


def run(out, text=TEXT, executor=None, work=None):
    chosen = study(text)
    bench = work or Bench(out, None, "cpu", chosen.batch_size)
    return running.run(
        chosen.name, chosen.spec(), cells(text), bench, executor or Serial(), out, running.Listener()
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("transfers") / "out"
    summary = run(out)
    assert (summary.computed, summary.failed, summary.blocked) == (10, 0, 0)
    return out


DIRECT, LATENCY = ("direct", 0), ("latency", 0)


def test_images_are_made_on_every_other_model_with_the_same_seed():
    assert transfers() == [(DIRECT, LATENCY), (LATENCY, DIRECT)]
    pairs = transfers(TEXT + "seeds: [0, 1]\n")
    assert len(pairs) == 4
    assert all(judge[0] != source[0] and judge[1] == source[1] for judge, source in pairs)


def test_a_study_chooses_what_images_are_made_on():
    by_part = TEXT.replace(
        "{pgd: {steps: 10}}}", "{pgd: {steps: 10}}, made_on: {those-with: {encoder: direct}}}"
    )
    assert transfers(by_part) == [(LATENCY, DIRECT)]
    by_seed = TEXT.replace("{pgd: {steps: 10}}}", "{pgd: {steps: 10}}, made_on: other-seeds}")
    pairs = transfers(by_seed + "seeds: [0, 1]\n")
    assert len(pairs) == 4
    assert all(judge[0] == source[0] and judge[1] != source[1] for judge, source in pairs)


def test_the_address_depends_on_the_model_that_images_are_made_on():
    """Training latency longer changes the transfer from latency, on a judge that stays the same."""
    longer = TEXT.replace("encoder: [direct, {latency: {steps: 3}}]", "encoder: direct").replace(
        "attacks:", TEXT[TEXT.index("  - encoder") : TEXT.index("attacks:")] + "attacks:"
    )
    longer = longer.replace("encoder: [direct, {latency: {steps: 3}}]", "encoder: {latency: {steps: 3}}")
    longer = longer[::-1].replace("3 :shcope", "4 :shcope", 1)[::-1]
    before, after = ({cell.address: cell.spec for cell in cells(text)} for text in (TEXT, longer))
    kept = before.keys() & after.keys()
    judge = next(
        a for a, s in before.items() if s.get("model", {}).get("encoder", {}).get("name") == "direct"
    )
    assert judge in kept
    on_judge = [
        (address, spec.get("source")) for address, spec in before.items() if spec.get("train") == judge
    ]
    assert all((address in kept) == (source is None) for address, source in on_judge)


def test_numbers_are_those_of_a_direct_call(finished):
    found = {cell.spec["train"]: cell for cell in cells() if cell.kind == "attack" and "source" in cell.spec}
    rows = [row for row in records(finished) if row["attack"].startswith("transfer")]
    assert [row["attack"] for row in rows] == ["transfer(pgd) from latency", "transfer(pgd) from direct"]
    part = ClassProportional()(study().data.load(None).test, 60)
    x, y, recipe, threat = (
        floats(part.images),
        part.labels,
        Transfer(attack=PGD(steps=10)),
        Linf(0.1),
    )
    for row in rows:
        judge = load(row["model"])
        other = load(finished / "cells" / found[judge_address(row)].spec["source"])
        clean = evaluate_clean(judge, x, y, Key.of(0).fold("evaluation"), ids=part.ids)
        key = Key.of(0).fold("attack")
        outcome = evaluate_attack(
            judge, recipe(threat), threat, x, y, clean, key, through=made_on(other, recipe)
        )
        assert row["robust_accuracy"] == outcome.metrics()["robust_accuracy"]
        assert torch.equal(load_file(f"{row['cell']}/arrays.safetensors")["x_adv"], outcome.x_adv[:4])
        with torch.no_grad():
            fools_other = other(outcome.x_adv).argmax(1) != y
        moved = outcome.moved & (outcome.queries > 0)
        assert fools_other[moved].float().mean() > 0.6  # the images were made for the other model
        assert 0 < (outcome.right[moved] == 0).float().mean() < fools_other[moved].float().mean()


def judge_address(row):
    return row["train_cell"].rpartition("/")[2]


def test_the_audit_says_where_a_stranger_does_better(finished):
    worst = {row["encoder"]: row for row in records(finished) if row["attack"] == WORST_CASE}
    for row in worst.values():
        assert row["verdict"] == "doubtful"
        assert any(
            text.startswith("transfer beats white-box: transfer(pgd) from") for text in row["warnings"]
        )


def test_a_resumed_study_computes_what_is_missing_whichever_model_it_waits_for(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(pools, "START", FORKING)
    for kind, lost in (("train", 0), ("train", 1), ("attack", 1)):
        out = tmp_path / f"{kind}{lost}"
        shutil.copytree(finished, out)
        gone = [cell for cell in cells() if cell.kind == kind][lost]
        shutil.rmtree(out / "cells" / gone.address)
        executor = Processes(1) if (kind, lost) == ("train", 1) else Serial()
        assert run(out, executor=executor).computed == 1
    assert run(out).computed == 0
    wanted = [row["robust_accuracy"] for row in records(finished)]
    assert [row["robust_accuracy"] for row in records(out)] == wanted


def test_a_transfer_waits_in_vain_for_a_model_that_cannot_be_trained(tmp_path):
    out = tmp_path / "out"
    chosen = study()
    bench = Bench(out, None, "cpu", chosen.batch_size)

    def work(cell, tell):
        if cell.kind == "train" and cell.spec["model"]["encoder"]["name"] == "latency":
            raise RuntimeError("no training today")
        return bench(cell, tell)

    summary = run(out, work=work)
    assert (summary.failed, summary.computed, summary.blocked) == (1, 4, 5)


def test_images_may_be_made_on_a_saved_model(finished, tmp_path):
    stored = next(row["model"] for row in records(finished) if row["encoder"] == "direct")
    save(load(stored), tmp_path / "friend")
    text = TEXT.replace("encoder: [direct, {latency: {steps: 3}}]", "encoder: {latency: {steps: 3}}").replace(
        "{pgd: {steps: 10}}}",
        f"{{pgd: {{steps: 10}}}}, made_on: {{saved: {{path: {tmp_path / 'friend'}}}}}}}",
    )
    out = tmp_path / "out"
    assert run(out, text).failed == 0
    (row,) = (row for row in records(out) if row["attack"].startswith("transfer"))
    same = next(
        row
        for row in records(finished)
        if row["encoder"] == "latency" and row["attack"].startswith("transfer")
    )
    assert row["robust_accuracy"] == same["robust_accuracy"]
    assert row["attack"].startswith("transfer(pgd) from friend (")
    model = load(tmp_path / "friend")
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    save(model, tmp_path / "friend")
    changed = [cell for cell in cells(text) if "source" in cell.spec]
    assert changed[0].address != row["cell"].rpartition("/")[2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("encoder: [direct, {latency: {steps: 3}}]", "encoder: direct", "needs another model of the study"),
        ("{pgd: {steps: 10}}}", "{suite: {}}}", "study.yaml:10: Images are made by one attack"),
        ("{pgd: {steps: 10}}}", "{transfer: {}}}", "Images are made on one model"),
        ("{pgd: {steps: 10}}}", "pgd, made_on: other-seeds}", "needs another model of the study"),
        ("{pgd: {steps: 10}}}", "pgd, made_on: {those-with: {}}}", "names at least one part"),
        ("transfer: {attack: {pgd: {steps: 10}}}", "worst-of: {attacks: [transfer]}", "made elsewhere"),
    ],
)
def test_impossible_attacks_are_refused_with_their_line_in_the_study(old, new, message):
    with pytest.raises(InputError, match=message):
        study(TEXT.replace(old, new))


def test_a_transfer_without_another_model_says_how_to_name_one():
    model = lambda images, key=None: images.flatten(1)  # noqa: E731
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(InputError, match="needs the model that images are made on"):
        Transfer()(Linf(0.1))(model, x, y, Key.of(0))


class Counted:
    """A bench that notes which attack, on and with which models and within which budget, it computes."""

    def __init__(self, out):
        self.bench, self.asked = Bench(out, None, "cpu", 100), []

    def __call__(self, cell, tell):
        if cell.kind == "attack":
            spec = {name: value for name, value in cell.spec.items() if name != "smaller"}
            self.asked.append(canonical(spec))
        return self.bench(cell, tell)


OVERLAPPING = TEXT.replace(
    "epsilons: [0.1]",
    """\
  - transfer: {attack: {pgd: {steps: 10}}, made_on: {those-with: {encoder: direct}}}
  - transfer: {attack: {pgd: {steps: 10}}, made_on: {those-with: {decoder: mean-potential}}}
epsilons: [0.05, 0.1]""",
)


@pytest.mark.parametrize("sweep", ["afresh", "nested"])
def test_transfers_that_name_the_same_model_compute_an_attack_once(tmp_path, sweep):
    """Three ways to name the models that images are made on: two of them name both, one names one."""
    text, work = OVERLAPPING + f"sweep: {sweep}\n", Counted(tmp_path)
    assert run(tmp_path, text, work=work).failed == 0
    # within two budgets, both models are attacked by PGD and by images made on the other
    assert len(work.asked) == len({*work.asked}) == 2 * 2 * 2
    rows = [(row["train_cell"], row["attack"], row["epsilon"]) for row in records(tmp_path)]
    assert len(rows) == len({*rows})
    by_address = {cell.address: cell.spec for cell in cells(text) if cell.kind == "attack"}
    for spec in by_address.values():
        if sweep == "nested" and spec["epsilon"] == 0.1:
            before = by_address[spec["smaller"]]
            assert (before["epsilon"], before.get("source")) == (0.05, spec.get("source"))
        else:
            assert spec.get("smaller") is None


def test_transfers_count_as_many_cells_as_there_are_pairs_of_models():
    """Twenty models have 380 transfers, so a limit of 300 refuses what one cell per model would allow."""
    encoders = ", ".join(f"{{latency: {{steps: {t}}}}}" for t in range(2, 21))
    many = TEXT.replace("{latency: {steps: 3}}", encoders)
    assert len(study_of(parse(many, "study.yaml"), 400).models) == 20
    with pytest.raises(InputError, match="at most 300 cells: got 380 cells of transfers between 20 models"):
        study_of(parse(many, "study.yaml"), 300)
