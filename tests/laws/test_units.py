"""Potentials have no unit of their own: a network in another unit spikes and is attacked alike.

Weights, thresholds and everything else that has the unit of a potential are multiplied by a power of two,
which rounds nothing. Logits then stay as they were to the bit, and so does the direction of the gradient on
the image, so no attack can tell the two networks apart.
"""

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import spikeproof as sp
from spikeproof.neurons import Neuron

sys.path.insert(0, str(Path(__file__).parent))
from completeness import check, of_kind
from test_spiketimes import SPECS

STEPS = 5
SPIKING = [
    *(sp.IF(), sp.IF(reset=sp.ToZero()), sp.PrimedIF(), sp.LIF(), sp.LIF(reset=sp.ToZero()), sp.PLIF()),
    *(sp.LIF(synapse=sp.PSP()), sp.ALIF(), sp.ALIF(learn=True), sp.AHP(), sp.CuBaLIF(), sp.SRM(), sp.SNU()),
    *(
        sp.FS(steps=STEPS),
        sp.FS(steps=STEPS, learn=True),
        sp.DLIF(steps=STEPS),
        sp.EvolutionaryLeak(steps=STEPS),
    ),
    *(sp.Renewal(threshold=0.25), sp.Recurrent(sp.LIF()), sp.Plastic(sp.IF())),
    *(sp.Mixture(sp.ALIF(), sp.LIF(threshold=0.5), share=0.4), sp.ConvertedT2FSNN(STEPS, 2.0)),
]
"""Neurons in a perceptron of two layers."""
TIMED = [spec for spec in SPECS if spec.neuron.threshold]
"""Networks of spike times."""
WITHOUT = dict.fromkeys(("relu", "softplus"), "has no threshold, so its answers are as large as its weights")
OF_POTENTIAL = ("threshold", "scale", "beta", "strength")
"""Settings of neurons that have the unit of a potential; what a layer learns starts at them."""


def in_unit(neuron, unit):
    """The same neuron, with potentials measured in another unit."""
    changed = {}
    for field in fields(neuron):
        value = getattr(neuron, field.name)
        if isinstance(value, Neuron):
            changed[field.name] = in_unit(value, unit)
        elif field.name in OF_POTENTIAL:
            changed[field.name] = value * unit
    return replace(neuron, **changed)


def perceptron(neuron):
    return sp.ModelSpec(sp.Direct(STEPS), sp.MLP((60,)), neuron, sp.ATan(), sp.Count(), (1, 4, 4), 3)


def attacked(spec, unit):
    """Logits of a network in a unit, and the direction in which an attack moves its images."""
    x, y = sp.Key.of(3).uniform((5, 1, 4, 4)), torch.arange(5) % 3
    model = replace(spec, neuron=in_unit(spec.neuron, unit)).build(sp.Key.of(0)).eval()
    weighted = isinstance(spec.neuron, sp.FS)  # spikes and answers have the unit too
    with torch.no_grad():
        for name, value in model.named_parameters():
            owner, _, kind = name.rpartition(".")
            linear = isinstance(model.get_submodule(owner), torch.nn.Linear)
            if linear:
                value.mul_(6)  # so that neurons fire
            later = weighted and linear and kind == "weight" and value.shape[0] == spec.classes
            if (linear or spec in TIMED or kind == "recurrent") and not later:
                value.mul_(unit)
    leaf = x.clone().requires_grad_()
    logits = model(leaf) / (unit if weighted else 1)
    (grad,) = torch.autograd.grad(sp.Margin()(logits, y).sum(), leaf)
    return logits.detach(), sp.L2(1.0).steepest(grad)


@pytest.mark.parametrize("unit", [2.0**5, 2.0**-7])
@pytest.mark.parametrize("spec", [*map(perceptron, SPIKING), *TIMED], ids=lambda spec: repr(spec.neuron))
def test_a_network_in_another_unit_is_attacked_alike(spec, unit):
    (logits, one), (same, other) = attacked(spec, 1.0), attacked(spec, unit)
    assert logits.any()
    assert one.any()
    assert torch.equal(logits, same)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_every_neuron_is_under_the_law():
    check("neurons", of_kind("Neuron"), [*SPIKING, *(spec.neuron for spec in TIMED)], WITHOUT)
