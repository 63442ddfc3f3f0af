"""Tiny spiking models whose every reachable train can be asked about, and how near the standard suite comes.

`python tests/laws/exhaustive.py 40` prints the first table of docs/results/events.md. Its models are numbered
from 1000; attacks were tuned on models below that. With the path of a model of docs/results/events-flips.yaml
in place of 40, the second: budgets small enough to list every train of a trained model.
"""

from __future__ import annotations

import sys
from itertools import combinations

import torch

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.catalogue.saved import load
from spikeproof.datasets import Randman
from spikeproof.decoders import Count, FirstSpike, MeanPotential, decide
from spikeproof.encoders import Events
from spikeproof.evaluation.suites import evaluate_suite, plan
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import Flips, Shifts

T, LINES = 6, 5
DECODERS = (Count(), MeanPotential(), FirstSpike())
THREATS = (Flips(3), Shifts(2), Shifts(4, measure="delay"), Shifts(1, measure="jitter"))


def tiny(decoder, seed, binary=True):
    """A network whose untrained weights are large enough to make it fire."""
    spec = ModelSpec(Events(T, binary), MLP((12,)), LIF(), ATan(), decoder, (LINES, 1, 1), 3)
    model = spec.build(Key.of(seed)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.5)
    return model


def trains_of(threat, x):
    """Every member, listed from the definition."""
    if isinstance(threat, Flips):
        size = x.numel()
        masks = [torch.zeros(1, size)]
        for k in range(1, int(threat.epsilon) + 1):
            places = torch.tensor(list(combinations(range(size), k)))
            masks.append(torch.zeros(len(places), size).scatter_(1, places, 1.0))
        return (x.flatten() - torch.cat(masks)).abs().view(-1, *x.shape)
    steps = len(x)
    found, spent = torch.zeros(1, 0, steps), torch.zeros(1)
    for line in x.flatten(1).T:
        before = line.nonzero().flatten().tolist()
        options, costs = [], []
        for after in combinations(range(steps), len(before)):
            shift = [abs(a - b) for a, b in zip(before, after, strict=True)]
            cost = {"moved": len(set(before) - set(after)), "delay": sum(shift), "jitter": max([0, *shift])}
            costs.append(float(cost[threat.measure]))
            options.append([float(t in after) for t in range(steps)])
        cost = torch.tensor(costs)
        total = torch.maximum(spent[:, None], cost) if threat.measure == "jitter" else spent[:, None] + cost
        i, j = (total <= threat.epsilon).nonzero().T
        found, spent = torch.cat([found[i], torch.tensor(options)[j][:, None]], 1), total[i, j]
    return found.transpose(1, 2).reshape(-1, *x.shape)


@torch.no_grad()
def cases(decoder, seed, count):
    """A model, and random trains with what it answers."""
    model = tiny(decoder, seed)
    x = (Key.of(seed).fold("trains").uniform((count, T, LINES, 1, 1)) < 0.35).float()
    y = decide(model(x))
    return model, x[y >= 0], y[y >= 0]


@torch.no_grad()
def worst(model, threat, x, y):
    """The largest margin of any member, and how many members there are."""
    highest, members = [], 0
    for one, label in zip(x, y, strict=True):
        trains = trains_of(threat, one)
        highest.append(Margin()(model(trains), label.expand(len(trains))).max())
        members += len(trains)
    return torch.stack(highest), members


def reached(recipe, model, threat, x, y, key):
    """The margin of what an attack returns, and how often it asked."""
    found = recipe(threat)(model, x, y, key, through=through(model, recipe))
    assert threat.contains(found.x_adv, x).all()
    with torch.no_grad():
        return Margin()(model(found.x_adv), y), int(found.queries.sum())


def standard(model, threat, x, y, wanted, key):
    """The same for the standard suite; who has fallen, or reached the worst train, needs no more members."""
    best, asked = torch.full_like(wanted, -torch.inf), 0
    for member in plan("standard", model, threat):
        rows = (best < wanted.clamp(max=0) - 1e-5).nonzero().flatten()
        if not len(rows):
            break
        now = key.fold(member.name).take(rows)
        margin, queries = reached(member.recipe, model, threat, x[rows], y[rows], now)
        best[rows] = torch.maximum(best[rows], margin)
        asked += queries
    return best, asked


def measure(threat, seeds, count):
    """Cases, hits of the suite, cases that can fall, those that fell, hits of noise, queries, members."""
    sums = torch.zeros(7, dtype=torch.float64)
    for seed in seeds:
        model, x, y = cases(DECODERS[seed % len(DECODERS)], seed, count)
        if not len(x):
            continue
        key = Key.of(seed).fold("attack").for_rows(range(len(x)))
        wanted, members = worst(model, threat, x, y)
        best, asked = standard(model, threat, x, y, wanted, key)
        luck, _ = reached(NoiseSearch(draws=40), model, threat, x, y, key)
        enough = wanted.clamp(max=0) - 1e-5  # what has fallen need not fall further
        falls = wanted >= 0
        hits, by_luck = best >= enough, luck >= enough
        each = (torch.ones_like(falls), hits, falls, hits & falls, by_luck)
        sums += torch.tensor([*(float(one.sum()) for one in each), asked, members])
    return sums


def table(models):
    """The lines of the table, threat by threat."""
    yield "| threat | cases | worst train reached | of those that can fall, fell | noise | queries | trains |"
    yield "|---|---|---|---|---|---|---|"
    for threat in THREATS:
        seen = measure(threat, range(1000, 1000 + models), 10).tolist()
        cases_, hits, falls, fell, luck, asked, members = seen
        yield (
            f"| {getattr(threat, 'measure', 'flips')} {threat.epsilon} | {cases_:.0f} | {hits / cases_:.1%} "
            f"| {fell:.0f} of {falls:.0f} | {luck / cases_:.1%} | {asked / cases_:.0f} "
            f"| {members / cases_:.0f} |"
        )


def trained(path):
    """Accuracy over all trains of a small budget, beside what the standard suite leaves."""
    model, data = load(path).eval(), Randman(examples=200, steps=25).load()
    x, y = data.test.images[:40].float(), data.test.labels[:40]
    clean = evaluate_clean(model, x, y, Key.of(0))
    yield "| threat | trains per example | right on all of them | left by the standard suite |"
    yield "|---|---|---|---|"
    for threat in (Flips(1), Shifts(1), Shifts(2, measure="delay"), Shifts(3, measure="delay")):
        right, members = 0, 0
        for one, label in zip(x[clean.right > 0], y[clean.right > 0], strict=True):
            trains = trains_of(threat, one)
            with torch.no_grad():
                right += bool((decide(model(trains)) == label).all())
            members += len(trains)
        suite = evaluate_suite(model, "standard", threat, x, y, clean, Key.of(0))
        left = suite.attacked.metrics()["robust_accuracy"]
        name = f"{getattr(threat, 'measure', 'flips')} {threat.epsilon}"
        yield f"| {name} | {members / clean.right.sum():.0f} | {right / len(x):.1%} | {left:.1%} |"


if __name__ == "__main__":
    lines = table(int(sys.argv[1])) if sys.argv[1].isdigit() else trained(sys.argv[1])
    for line in lines:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
