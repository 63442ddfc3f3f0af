"""Laws of every rule that selects source models of a transfer attack; a new one adds a row to CHOICES."""

from types import SimpleNamespace

import pytest

from spikeproof.attacks.made_of.transfer import Others, Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.others import EveryOtherModel, OtherSeeds, Saved, ThoseWith
from spikeproof.neurons import LIF, ReLU
from spikeproof.specs import build, describe

# choice, whether it takes other seeds of the same model, and which neurons it takes
CHOICES = [
    (EveryOtherModel(), False, {"lif", "relu"}),
    (OtherSeeds(), True, {"lif", "relu"}),
    (ThoseWith(neuron=ReLU()), False, {"relu"}),
    (Saved(path="models/other"), None, None),
]


@pytest.mark.parametrize(("choice", "seeds", "neurons"), CHOICES, ids=lambda value: type(value).__name__)
def test_a_choice_is_rebuilt_from_its_description_alone_and_within_its_attack(choice, seeds, neurons):
    assert build(Others, describe(choice, PARTS), PARTS) == choice
    attack = Transfer(made_on=choice)
    assert build(Recipe, describe(attack, PARTS), PARTS) == attack


@pytest.mark.parametrize(("choice", "seeds", "neurons"), CHOICES[:-1], ids=lambda value: type(value).__name__)
def test_a_choice_among_models_takes_those_that_it_names(choice, seeds, neurons):
    assert choice.other_seeds is seeds
    taken = {
        name
        for name, neuron in (("lif", LIF()), ("relu", ReLU()))
        if choice.takes(SimpleNamespace(neuron=neuron))
    }
    assert taken == neurons
