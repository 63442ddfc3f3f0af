"""Accuracy of converted networks on the digits over time steps, from one ANN for each row.

python benchmarks/conversions.py rates      # integrate-and-fire neurons
python benchmarks/conversions.py kernels    # T2FSNN
python benchmarks/conversions.py pooling    # weights converted with the gate, under pooling of each step
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

import spikeproof as sp
from spikeproof.datasets import Split, floats
from spikeproof.learning.backprop import accuracy

DATA = sp.Digits().load()
ANN = sp.BPTT(epochs=10, batch_size=32, lr=0.005)
SEEN = Split(floats(DATA.train.images[:300]), DATA.train.labels[:300], DATA.train.ids[:300])
STEPS = (8, 32, 128)
NETWORKS = {
    "mlp": sp.MLP((60,)),
    "convnet": sp.ConvNet(),
    "convnet, gated-max": sp.ConvNet(pool="gated-max"),
    "vgg9": sp.VGG9(0.125, (64,)),
    "vgg9, gated-max": sp.VGG9(0.125, (64,), pool="gated-max"),
    "resnet18": sp.ResNet18((1, 1, 1, 1), 0.125),
    "sew-resnet": sp.SEWResNet((1, 1, 1, 1), 0.125),
}
CODES = {
    "fused: direct, quantised-direct": lambda steps: sp.Fused((sp.Direct(steps), sp.QuantisedDirect(steps))),
    "fused: direct, latency": lambda steps: sp.Fused((sp.Direct(steps), sp.Latency(steps))),
    "population of direct": lambda steps: sp.Population(sp.Direct(steps), neurons=4),
    "population of bernoulli": lambda steps: sp.Population(sp.Bernoulli(steps), neurons=4),
    "population of latency": lambda steps: sp.Population(sp.Latency(steps), neurons=4),
}
PHASES = ((20, 5.0, 0), (40, 10.0, 0), (80, 20.0, 0), (80, 20.0, 40))
"""Steps of a phase, time constant of the neuron, and steps of early firing."""


def spec(network: object, encoder: object, neuron: object) -> sp.ModelSpec:
    return sp.ModelSpec(encoder, network, neuron, sp.ATan(), sp.MeanCurrent(), (1, 8, 8), 10)


def percent(model: sp.Classifier) -> str:
    share = accuracy(model, DATA.test, sp.Key.of(9), 60)
    return f"{100 * (share or 0):.1f}"


def wanted(name: str) -> bool:
    return name.startswith(sys.argv[2] if len(sys.argv) > 2 else "")


def converted(
    rule: object, described: Callable[[int], sp.ModelSpec], steps: tuple[int, ...]
) -> Iterator[object]:
    """The trained ANN, and then the spiking networks that its weights make with these numbers of steps."""
    model = described(steps[0]).build(sp.Key.of(0))
    rule.check_model(model)
    ann = rule.twin(model)
    rule.backprop.train(ann, DATA, sp.Key.of(1))
    rule.tune(ann, DATA, sp.Key.of(2))
    yield ann
    for number in steps:
        model = described(number).build(sp.Key.of(0)).eval()
        rule.convert(ann, model, SEEN, sp.Key.of(3))
        yield model


def rates() -> None:
    print(f"model | rule | ANN | {' | '.join(f'T = {steps}' for steps in STEPS)}")
    rows = [(name, name, sp.Rueckauer(ANN)) for name in NETWORKS]
    deep = (sp.DataBased(ANN), sp.SpikeNorm(ANN), sp.QCFS(ANN, bound=4.0), sp.RateNormLayer(ANN))
    rows += [(name, name, rule) for rule in deep for name in ("resnet18", "sew-resnet")]
    for name, network, rule in (row for row in rows if wanted(row[0])):
        found = converted(
            rule, lambda steps, n=network: spec(NETWORKS[n], sp.Direct(steps), sp.PrimedIF()), STEPS
        )
        print(name, type(rule).__name__, *map(percent, found), sep=" | ", flush=True)
    for name, code in CODES.items():
        if not wanted(name):
            continue
        pairs = []
        for number in STEPS:  # the mean over time of a code, which the ANN sees, may depend on their number
            described = spec(sp.ConvNet(), code(number), sp.PrimedIF())
            ann, model = converted(sp.Rueckauer(ANN), lambda _, d=described: d, (number,))
            pairs.append(f"{percent(model)} of {percent(ann)}")
        print(f"convnet; {name}", "Rueckauer", "", *pairs, sep=" | ", flush=True)


def kernels() -> None:
    print("model | steps of a phase | tau | early | ANN | T2FSNN")
    for name in filter(wanted, ("mlp", "convnet", "vgg9", "vgg9, gated-max", "resnet18")):
        for steps, tau, early in PHASES:
            if early and name == "resnet18":
                continue
            neuron = sp.ConvertedT2FSNN(steps, tau, early=early)
            described = spec(NETWORKS[name], sp.KernelCode(steps, tau=tau), neuron)
            found = converted(sp.T2FSNNConversion(ANN), lambda _, d=described: d, (steps,))
            print(name, steps, tau, early, *map(percent, found), sep=" | ", flush=True)


def pooling() -> None:
    print(f"model | {' | '.join(f'T = {steps}' for steps in STEPS)}")
    for name in ("convnet, gated-max", "vgg9, gated-max"):
        gated = NETWORKS[name]
        _, *models = converted(
            sp.Rueckauer(ANN), lambda steps, n=gated: spec(n, sp.Direct(steps), sp.PrimedIF()), STEPS
        )
        others = []
        for model in models:
            other = replace(model.spec, network=replace(gated, pool="max")).build(sp.Key.of(0)).eval()
            other.load_state_dict(model.state_dict())
            others.append(percent(other))
        print(name.replace("gated-max", "max"), *others, sep=" | ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"rates": rates, "kernels": kernels, "pooling": pooling}[sys.argv[1]]()
