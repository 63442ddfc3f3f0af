"""Throughput of training and attack, and what the fast paths gain, as ratios within one run.

    python benchmarks/throughput.py [--threads N] [--batch N]

Prints hardware, versions and settings with the figures, so that a table can stand by itself.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import spikeproof as sp
from spikeproof.networks.architecture import OverTime, PooledConv2d
from spikeproof.neurons import lif_unroll, unroll

STEPS, SHAPE = 8, (1, 28, 28)


def seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median time of one call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def images(batch: int) -> torch.Tensor:
    """Half black, half grey, like Fashion-MNIST."""
    key = sp.Key.of(0)
    grey = key.fold("grey").uniform((batch, *SHAPE))
    return grey * (key.fold("black").uniform((batch, *SHAPE)) < 0.5)


def model(encoder: object, network: object) -> sp.Classifier:
    spec = sp.ModelSpec(encoder, network, sp.LIF(), sp.ATan(), sp.Count(), SHAPE, 10)
    return spec.build(sp.Key.of(0))


def training_step(classifier: sp.Classifier, x: torch.Tensor, y: torch.Tensor) -> None:
    classifier.zero_grad()
    F.cross_entropy(classifier(x, sp.Key.of(0)), y).backward()


def plain_convolution(self: PooledConv2d, x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.conv2d(x, self.weight, self.bias, padding=1), 2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--batch", type=int, default=64)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    x, y = images(chosen.batch), torch.arange(chosen.batch) % 10
    machine = platform.processor() or platform.machine()
    print(f"{machine}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"threads {chosen.threads}, batch {chosen.batch}, T {STEPS}, Fashion-MNIST size\n")
    print(f"{'':34}{'train img/s':>12}{'PGD-20 img/s':>14}{'infer img/s':>13}")
    for network in (sp.MLP((400,)), sp.ConvNet()):
        for encoder in (sp.Direct(STEPS), sp.Bernoulli(STEPS), sp.Latency(STEPS)):
            classifier = model(encoder, network)
            train = seconds(lambda c=classifier: training_step(c, x, y))
            classifier.eval()
            threat = sp.Linf(0.01)
            attack = sp.PGD(steps=20)(threat)
            pgd = seconds(lambda c=classifier, a=attack: a(c, x, y, sp.Key.of(0)), repeats=1)
            infer = seconds(lambda c=classifier: c.infer(x, sp.Key.of(0)))
            name = f"{type(network).__name__} {type(encoder).__name__}"
            rates = [chosen.batch / t for t in (train, pgd, infer)]
            print(f"{name:34}{rates[0]:12.0f}{rates[1]:14.0f}{rates[2]:13.0f}")

    print("\nWhat the fast paths gain (time of the plain way / time of ours, one training step)")
    classifier = model(sp.Latency(STEPS), sp.ConvNet())
    fast = seconds(lambda: training_step(classifier, x, y))
    slow = seconds(lambda: training_step(sp.substitute(classifier, unroll=unroll), x, y))
    print(f"  written-out LIF gradient:          {slow / fast:.2f}")
    assert all(m.unroll is lif_unroll for m in classifier.modules() if hasattr(m, "unroll"))
    ours, PooledConv2d.forward = PooledConv2d.forward, plain_convolution
    slow = seconds(lambda: training_step(classifier, x, y))
    PooledConv2d.forward = ours
    print(f"  pooling folded into convolution:   {slow / fast:.2f}")
    direct = model(sp.Direct(STEPS), sp.MLP((400,)))
    fast = seconds(lambda: training_step(direct, x, y))
    forward = OverTime.forward
    OverTime.forward = lambda self, x: forward(self, x.contiguous())
    slow = seconds(lambda: training_step(direct, x, y))
    OverTime.forward = forward
    print(f"  direct current computed once:      {slow / fast:.2f}")

    colours, y = sp.Key.of(1).uniform((64, 3, 32, 32)), torch.arange(64) % 10
    for name, neuron, steps in (("ReLU", sp.ReLU(), 1), ("LIF, T 4", sp.LIF(), 4)):
        spec = sp.ModelSpec(
            sp.Direct(steps), sp.VGG9(), neuron, sp.Triangle(), sp.MeanPotential(), (3, 32, 32), 10
        )
        deep = spec.build(sp.Key.of(0))
        slow, fast = (seconds(lambda m=m, d=deep: mixed_step(d, colours, y, m), 3) for m in (False, True))
        print(f"  mixed, VGG-9 {name + ':':22}{slow / fast:.2f}")


def mixed_step(classifier: sp.Classifier, x: torch.Tensor, y: torch.Tensor, mixed: bool) -> None:
    rule = sp.AugmentedBPTT(mixed=mixed)
    seen = rule.views(x, sp.Key.of(0))
    classifier.zero_grad()
    with rule.precision(x.device):
        logits = classifier(seen)
    F.cross_entropy(logits.float(), y).backward()


if __name__ == "__main__":
    main()
