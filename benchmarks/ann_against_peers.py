"""Our attacks beside those of Torchattacks and Foolbox on one trained ANN, claim by claim.

    python benchmarks/ann_against_peers.py [--examples 360]

Prints how far trajectories are apart (largest difference of a value over all steps and examples), median
distances of nearest images, and accuracies left at an equal budget.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import nn

from spikeproof import (
    APGD,
    APGDDLR,
    L2,
    MLP,
    ATan,
    CarliniWagner,
    DeepFool,
    Digits,
    Direct,
    Key,
    Linf,
    MeanPotential,
    ModelSpec,
    ReLU,
    SquareSearch,
    evaluate_attack,
    evaluate_clean,
)
from spikeproof.attacks.parts.schedules import Oscillation
from spikeproof.attacks.parts.steps import HeavyBall, Momentum
from spikeproof.attacks.search import GradientAttack
from spikeproof.evaluation.distances import evaluate_distances
from spikeproof.interop.members import TORCHATTACKS
from spikeproof.interop.peers import Torchattacks
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import DLR, LogitCrossEntropy
from spikeproof.statistics import median

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both warn on import, about themselves
    import foolbox
    import torchattacks

KEY, EPSILON = Key.of(0), 0.1


class Recorder(nn.Module):
    """A model that notes what it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.asked: list[torch.Tensor] = []
        self.model = model
        self.eval()

    def forward(self, images: torch.Tensor, key: Key | None = None) -> torch.Tensor:
        self.asked.append(images.detach().clone())
        return self.model(images, key)


class TheirStart(Linf):
    """The start that Torchattacks' APGD draws from the global generator."""

    def start(self, x: torch.Tensor, key: Key) -> torch.Tensor:
        torch.manual_seed(0)
        noise = 2 * torch.rand(x.shape) - 1
        return (x + self.epsilon * noise / noise.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)


def apart(theirs: list[torch.Tensor], ours: list[torch.Tensor]) -> torch.Tensor:
    """The largest difference of a value over all steps, per example; ours asks once more in the end."""
    pairs = zip(theirs, ours[: len(theirs)], strict=True)
    return torch.stack([(p - q).abs().flatten(1).amax(1) for p, q in pairs]).amax(0)


def trajectories(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    print("trajectories: largest difference over all steps and examples")
    plain = {"random_start": False, "stop_when_fooled": False}
    pairs = (
        ("PGD, 40 steps", torchattacks.PGD, {"random_start": False}, {}),
        ("MIM, 40 steps", torchattacks.MIFGSM, {}, {"rule": Momentum()}),
    )
    for name, peer, theirs, ours in pairs:
        a, b = Recorder(model), Recorder(model)
        end = peer(a, eps=EPSILON, alpha=0.01, steps=40, **theirs)(x, y)
        GradientAttack(Linf(EPSILON), 40, 0.01, **plain, **ours)(b, x, y, KEY)
        print(f"  {name:22} {apart([*a.asked, end], b.asked).max():.1e}")
    for name, objective in (("ce", LogitCrossEntropy()), ("dlr", DLR())):
        a, b = Recorder(model), Recorder(model)
        torch.manual_seed(0)
        torchattacks.APGD(a, eps=EPSILON, steps=50, loss=name).attack_single_run(x, y)
        attack = GradientAttack(
            TheirStart(EPSILON), 50, 2 * EPSILON, objective=objective, stop_when_fooled=False,
            step=HeavyBall(), schedule=Oscillation(),
        )  # fmt: skip
        losses = attack(b, x, y, KEY).losses
        far = apart(a.asked, b.asked)
        rise = (losses[1] > losses[0]) == (losses[1] > 0)
        tie = (losses[1:] == losses.cummax(0).values[:-1]).any(0)
        alike = rise & ~tie
        print(
            f"  APGD-{name}, 50 steps       {far[alike].max():.1e} on {int(alike.sum())} examples without a "
            f"tie and with one first rise; {int((far > 1e-5).sum())} of all {len(x)} differ"
        )


def distances(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    print("median distances (found on)")
    clean = evaluate_clean(model, x, y, KEY)
    there = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    cases = (
        ("DeepFool L2", DeepFool(), L2(1.0), foolbox.attacks.L2DeepFoolAttack()),
        ("DeepFool Linf", DeepFool(), Linf(1.0), foolbox.attacks.LinfDeepFoolAttack()),
        ("C&W L2", CarliniWagner(), L2(1.0), foolbox.attacks.L2CarliniWagnerAttack(steps=1000)),
    )
    for name, recipe, norm, peer in cases:
        found = evaluate_distances(model, recipe, norm, x, y, clean, KEY).metrics()
        images = peer(there, x, y, epsilons=None)[1]
        far = norm.distance(images, x)
        fooled = model(images).argmax(1) != y
        theirs = median(torch.where(fooled, far, torch.inf).tolist())[0]
        print(
            f"  {name:15} ours {found['median_distance']:.4f} ({found['found']:.1%})  Foolbox {theirs:.4f} "
            f"({float(fooled.float().mean()):.1%})  ratio {found['median_distance'] / theirs:.3f}"
        )


def accuracies(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    print(f"accuracy left at linf {EPSILON}, equal budget")
    clean, threat = evaluate_clean(model, x, y, KEY), Linf(EPSILON)
    pairs = (
        ("APGD-CE, 50 steps", APGD(steps=50), TORCHATTACKS["APGD"](steps=50), 5),
        ("APGD-DLR, 50 steps", APGDDLR(steps=50), TORCHATTACKS["APGD"](steps=50, loss="dlr"), 5),
        ("Square, 1000 queries", SquareSearch(queries=1000), TORCHATTACKS["Square"](n_queries=1000), 1),
    )
    for name, ours, theirs, seeds in pairs:
        left, queries = [], []
        for recipe in (ours, Torchattacks(attack=theirs)):
            found = [
                evaluate_attack(model, recipe(threat), threat, x, y, clean, Key.of(seed)).metrics()
                for seed in range(seeds)
            ]
            left.append(sum(m["robust_accuracy"] for m in found) / seeds)
            queries.append(sum(m["forward_queries"] for m in found) / seeds / len(x))
        print(
            f"  {name:21} ours {left[0]:.1%}  Torchattacks {left[1]:.1%}  forward passes per image "
            f"{queries[0]:.0f} and {queries[1]:.0f}  (mean of {seeds} seeds)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=360)
    examples = parser.parse_args().examples
    data = Digits().load()
    spec = ModelSpec(Direct(1), MLP((100,)), ReLU(), ATan(), MeanPotential(), (1, 8, 8), 10)
    model = spec.build(KEY)
    BPTT(epochs=20, lr=0.01).train(model, data, KEY)
    model.eval()
    x, y = data.test.images[:examples], data.test.labels[:examples]
    right = model(x).argmax(1) == y
    print(f"MLP of 100 ReLU on digits, {float(right.float().mean()):.1%} right of {len(x)}")
    trajectories(model, x[right], y[right])
    distances(model, x[right], y[right])
    accuracies(model, x, y)


if __name__ == "__main__":
    main()
