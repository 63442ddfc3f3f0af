"""The same weights in our layers and in each framework: logits, robust accuracy, seconds.

    python benchmarks/foreign.py --examples 100 --epsilon 0.1

For each row a network of ours is trained on the digits; its weights are put into layers of the framework, and
that network is wrapped. Whatever differs is then the framework's: the equation of the neuron, the order of
rounding, the time of a call. A table in Markdown. The frameworks have to be installed (CONTRIBUTING).
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeproof.datasets import ClassProportional, Digits
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Direct
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.interop.frameworks.in_snntorch import ByAmount
from spikeproof.interop.frameworks.wrap import wrap
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import IF, LIF, IntegrateAndFire
from spikeproof.neurons.parts.resets import BySubtraction, ToZero
from spikeproof.protocols import Decoder, Model
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf, parse_epsilon

T = 6
HALF = -1.0 / math.log(0.5)
"""Time constant, in steps, of a potential that halves with every step."""


class Row(NamedTuple):
    """One network in two frameworks."""

    title: str
    neuron: IntegrateAndFire
    network: MLP | ConvNet
    decoder: Decoder
    theirs: Callable[[list[nn.Module]], nn.Module]  # layers without memory, in order, to a network of theirs
    readout: str


def framework(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a framework says of PyTorch at its import
        return importlib.import_module(name)


def spikingjelly(layers: list[nn.Module], kind: str, mode: str, **options: Any) -> nn.Module:
    neurons = framework("spikingjelly.activation_based.neuron")
    layer = framework("spikingjelly.activation_based.layer")
    functional = framework("spikingjelly.activation_based.functional")
    surrogate = framework("spikingjelly.activation_based.surrogate").ATan(2.0)
    parts: list[nn.Module] = []
    for each in layers:
        block = list(each) if isinstance(each, nn.Sequential) else [each]
        single = nn.Sequential(*block)
        parts += [layer.SeqToANNContainer(single) if mode == "m" else single]
        parts += [getattr(neurons, kind)(surrogate_function=surrogate, **options)]
    net = nn.Sequential(*parts)
    functional.set_step_mode(net, mode)
    return net


def snntorch(layers: list[nn.Module], **options: Any) -> nn.Module:
    snn, surrogate = framework("snntorch"), framework("snntorch.surrogate")
    spike = {"spike_grad": surrogate.atan(2.0), "init_hidden": True}
    return nn.Sequential(*(part for each in layers for part in (each, snn.Leaky(**spike, **options))))


def norse(layers: list[nn.Module]) -> nn.Module:
    """Integrate-and-fire cells; Norse's leaky neurons filter their current as well."""
    torchy = framework("norse.torch")
    return torchy.SequentialState(*(part for each in layers for part in (each, torchy.IAFCell())))


def sinabs(layers: list[nn.Module]) -> nn.Module:
    layers_of, activation = framework("sinabs.layers"), framework("sinabs.activation")
    options = {
        "num_timesteps": T,
        "spike_fn": activation.SingleSpike,
        "surrogate_grad_fn": lambda v, threshold: ATan(2.0).derivative(v - threshold),
    }
    return nn.Sequential(*(part for each in layers for part in (each, layers_of.IAFSqueeze(**options))))


ROWS = [
    Row(
        "SpikingJelly, IFNode, step mode m",
        IF(reset=BySubtraction()),
        ConvNet((8, 16)),
        MeanPotential(),
        lambda layers: spikingjelly(layers, "IFNode", "m", v_reset=None),
        "mean",
    ),
    Row(
        "SpikingJelly, LIFNode(tau=2, decay_input=False), step mode s",
        LIF(reset=ToZero(), tau=HALF, dt=1.0),
        MLP((64,)),
        MeanPotential(),
        lambda layers: spikingjelly(layers, "LIFNode", "s", v_reset=0.0, tau=2.0, decay_input=False),
        "mean",
    ),
    Row(
        "snnTorch, Leaky(0.5, reset zero), hidden",
        LIF(reset=ToZero(), tau=HALF, dt=1.0, detach_reset=True),
        MLP((64,)),
        Count(),
        lambda layers: snntorch(layers, beta=0.5, reset_mechanism="zero"),
        "sum",
    ),
    Row(
        "snnTorch, Leaky(0.5, reset subtract), hidden",
        LIF(reset=ByAmount(2.0), tau=HALF, dt=1.0, detach_reset=True),
        MLP((64,)),
        Count(),
        lambda layers: snntorch(layers, beta=0.5),
        "sum",
    ),
    Row("Norse, IAFCell", IF(reset=ToZero()), MLP((64,)), Count(), norse, "sum"),
    Row("sinabs, IAFSqueeze(SingleSpike)", IF(reset=BySubtraction()), MLP((64,)), Count(), sinabs, "sum"),
]


def trained(row: Row, epochs: int) -> Classifier:
    """A network of ours whose output neurons fire."""
    spec = ModelSpec(Direct(T), row.network, row.neuron, ATan(2.0), Count(), (1, 8, 8), 10)
    model = spec.build(Key.of(0))
    BPTT(epochs=epochs, lr=5e-3).train(model, Digits().load(), Key.of(0))
    again = ModelSpec(spec.encoder, spec.network, spec.neuron, spec.surrogate, row.decoder, (1, 8, 8), 10)
    return Classifier(again, model.network).eval()


def measured(model: Model, x: Tensor, y: Tensor, threat: Linf, suite: str) -> tuple[float, float]:
    """Robust accuracy, and seconds."""
    began = time.perf_counter()
    clean = evaluate_clean(model, x, y, Key.of(0))
    found = evaluate_suite(model, suite, threat, x, y, clean, Key.of(0))
    return 100 * found.accuracy, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--epsilon", default="0.1")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--only", type=int, help="the place of one row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threat = Linf(parse_epsilon(options.epsilon))
    test = ClassProportional()(Digits().load().test, options.examples)
    x, y = test.images, test.labels
    heads = (
        "network",
        "clean",
        "logits",
        "robust, ours",
        "robust, theirs",
        "seconds, ours",
        "seconds, theirs",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for row in ROWS if options.only is None else [ROWS[options.only]]:
        ours = trained(row, options.epochs)
        weights = [layer for layer in ours.network.layers if isinstance(layer, nn.Sequential)]
        plain = [nn.Sequential(*layer).eval() for layer in weights]
        theirs = wrap(row.theirs(plain).eval(), x, steps=T, readout=row.readout)
        with torch.no_grad():
            a, b = ours(x, Key.of(0)), theirs(x, Key.of(0))
        differ = int((a != b).any(1).sum())
        logits = (
            "equal to the bit"
            if not differ
            else f"{differ} of {len(x)} differ, by {float((a - b).abs().max()):.2g}"
        )
        clean = 100 * float((a.argmax(1) == y).float().mean())
        (mine, quick), (other, slow) = (
            measured(each, x, y, threat, options.suite) for each in (ours, theirs)
        )
        cells = (
            row.title,
            f"{clean:.0f}",
            logits,
            f"{mine:.1f}",
            f"{other:.1f}",
            f"{quick:.1f}",
            f"{slow:.1f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
