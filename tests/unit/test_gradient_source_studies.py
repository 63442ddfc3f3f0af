"""Attacks of a study use every gradient source, and a source that does not fit a model is refused early."""

from dataclasses import replace

import pytest

import spikeproof.experiments.run.driver as running
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.made_of.composite import Chosen
from spikeproof.datasets.parts import rows_of
from spikeproof.errors import InputError
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.threats import Flips, Linf

SOURCES = """\
name: sources
data: digits
models:
  - encoder: {latency: {steps: 4}}
    network: {mlp: {hidden: [16]}}
    rule: {bptt: {epochs: 4, lr: 0.02}}
attacks:
  - pgd: {steps: 3}
  - through: {gradient: {assg: {strength: 0.35}}, attack: {pgd: {steps: 3}}}
  - rate-twin: {attack: {pgd: {steps: 3}}}
  - spsa: {steps: 2, samples: 3}
  - width-sweep: {attack: {pgd: {steps: 3}}, surrogates: [{triangle: {width: 0.5}}, {triangle: {width: 2}}]}
  - worst-of: {attacks: [{pgd: {steps: 3}}, {through: {gradient: pdsg, attack: {pgd: {steps: 3}}}}]}
epsilons: [0.15]
examples: 40
"""


def study(text):
    return study_of(parse(text, "study.yaml"))


def test_a_study_attacks_through_every_source(tmp_path):
    chosen = study(SOURCES)
    bench = Bench(tmp_path, None, "cpu", chosen.batch_size)
    cells = cells_of(chosen, chosen.data.load(None))
    running.run(chosen.name, chosen.spec(), cells, bench, Serial(), tmp_path, running.Listener())
    rows = {row["attack"]: row for row in records(tmp_path) if row.get("attack") and row["epsilon"]}
    found = {name: row["robust_accuracy"] for name, row in rows.items()}
    own = next(value for name, value in found.items() if name.startswith("pgd"))
    worst = next(value for name, value in found.items() if name.startswith("worst-of"))
    assert worst <= own + 1e-9
    assert len({name.split(" ")[0].split("(")[0] for name in found}) >= 6
    assert all(row["budget_violations"] == 0 for row in rows.values() if "budget_violations" in row)


@pytest.mark.parametrize("network", ["lsnn: {}", "gru: {}"])
def test_models_without_a_rate_twin_are_refused_or_left_out_before_training(network):
    text = SOURCES.replace("mlp: {hidden: [16]}", network)
    with pytest.raises(InputError):
        study(text)


def test_an_ann_is_its_own_rate_twin():
    text = SOURCES.replace(
        "{latency: {steps: 4}}", "{direct: {steps: 1}}\n    neuron: relu\n    decoder: mean-potential"
    )
    lines = [line for line in text.splitlines() if "through" not in line]
    chosen = study("\n".join(lines))
    attacks = [
        c.spec["attack"]["name"] for c in cells_of(chosen, chosen.data.load(None)) if "attack" in c.spec
    ]
    assert "rate-twin" not in attacks
    assert "pgd" in attacks


def test_a_suite_does_not_stand_inside_a_worst_case():
    with pytest.raises(InputError, match="suite"):
        study(SOURCES.replace("{attacks: [{pgd: {steps: 3}}", "{attacks: [suite, {pgd: {steps: 3}}"))


TWO = SOURCES.replace(
    "  - encoder: {latency: {steps: 4}}\n",
    "  - encoder: {latency: {steps: 4}}\n    neuron: [lif, renewal]\n",
)
EVENTS = "  - through: {gradient: event-driven, attack: {pgd: {steps: 3}}}\nepsilons"


def test_a_source_is_left_out_where_it_is_not_defined_but_not_everywhere():
    chosen = study(TWO.replace("epsilons", EVENTS))
    cells = [c for c in cells_of(chosen, chosen.data.load(None)) if c.kind == "attack"]
    assert sum(c.spec["attack"].get("gradient", {}).get("name") == "event-driven" for c in cells) == 1
    assert sum(c.spec["attack"]["name"] == "spsa" for c in cells) == 2
    with pytest.raises(InputError, match=r"study\.yaml:1.*renewal"):
        study(SOURCES.replace("epsilons", EVENTS))
    with pytest.raises(InputError, match=r"study\.yaml:1.*renewal"):
        study(SOURCES.replace("gradient: pdsg", "gradient: event-driven"))


CHOICES = """\
name: choices
data: digits
models:
  - encoder: {latency: {steps: 4}}
    network: {mlp: {hidden: [16]}}
    rule: {bptt: {epochs: 2, lr: 0.02}}
attacks:
  - worst-of:
      attacks:
        - assembled: {steps: 2, oracle: {finite-differences: {radius: 0.1}}, start: clean}
        - chosen:
            images: 12
            attacks:
              - through: {gradient: {assg: {strength: 0.2}}, attack: {sa-pgd: {steps: 3}}}
              - through: {gradient: {assg: {strength: 0.45}}, attack: {sa-pgd: {steps: 3}}}
  - assembled:
      steps: 3
      step: {momentum: {decay: 0.9, step: adam}}
      schedule: cosine
      start: best
      restarts: 2
      oracle: {expectation: {draws: 2}}
      targets: {every-other: {most: 2}}
      objective: margin
epsilons: [0.15]
examples: 20
"""


def test_a_strength_is_chosen_on_validation_images_and_any_parts_make_an_attack(tmp_path):
    plan = study(CHOICES)
    data = plan.data.load(None)
    bench, cells = Bench(tmp_path, None, "cpu", plan.batch_size), cells_of(plan, data)
    running.run(plan.name, plan.spec(), cells, bench, Serial(), tmp_path, running.Listener())
    worst, parts = (cell for cell in cells if cell.kind == "attack")
    metrics = Store(tmp_path).read(worst.address).metrics
    (choice,) = metrics["choices"]
    assert choice["chosen"]["gradient"]["strength"] in (0.2, 0.45)
    assert len(choice["validation_accuracy"]) == 2
    right = [12 * accuracy for accuracy in choice["validation_accuracy"]]
    assert right == pytest.approx([round(count) for count in right], abs=1e-5)
    assert "choices" not in Store(tmp_path).read(parts.address).metrics
    assert Store(tmp_path).read(parts.address).metrics["budget_violations"] == 0


@pytest.mark.parametrize("held", [0, 11])
def test_a_study_whose_data_hold_out_too_few_to_choose_by_is_refused(held):
    """The only images available are those on which the results are reported."""
    plan = study(CHOICES)
    data = plan.data.load(None)
    few = replace(data, validation=rows_of(data.validation, slice(0, held)))
    with pytest.raises(InputError, match=f"on 12 images of the validation part.*digits with {held}"):
        cells_of(plan, few)
    assert cells_of(plan, replace(data, validation=rows_of(data.validation, slice(0, 12)))) == cells_of(
        plan, data
    )


def test_a_choice_is_not_run_without_validation_images():
    recipe = Chosen(attacks=(PGD(steps=1),))
    with pytest.raises(InputError, match="settled"):
        recipe(Linf(0.1))(None, None, None, None)
    with pytest.raises(InputError, match="at least one"):
        Chosen(attacks=())
    with pytest.raises(InputError, match="spike-search"):
        Chosen(attacks=(PGD(), PGD()))(Flips(3))
