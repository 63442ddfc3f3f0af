"""What threshold guarding does to potentials, spikes and robust accuracy on the digits, over its weight.

python benchmarks/threshold_guarding.py
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import spikeproof as sp
from spikeproof.defences.potentials_apart import near_threshold
from spikeproof.neurons import potentials

DATA = sp.Digits().load()
X, Y = DATA.test.images, DATA.test.labels
PLAIN = sp.BPTT(epochs=10, batch_size=64, lr=0.005)
RULES = {
    "none, as built": None,
    "`bptt`": PLAIN,
    **{
        f"weight {weight:g}, no noise": sp.ThresholdGuarding(PLAIN, weight=weight, sigma=0.0)
        for weight in (0.4, 4.0, 25.6)
    },
    "weight 25.6, noise 0.1": sp.ThresholdGuarding(PLAIN, weight=25.6),
}
SPEC = sp.ModelSpec(sp.Direct(4), sp.MLP((64,)), sp.LIF(), sp.ATan(), sp.MeanCurrent(), (1, 8, 8), 10)
SIGNS = 2.0 * (sp.Key.of(5).uniform(X.shape) < 0.5) - 1


def hidden(model: sp.Classifier, images: Tensor) -> Tensor:
    """The potentials of the hidden layer before each spike."""
    flatten_and_weigh, layer = model.network.layers[0], model.network.layers[1]
    return potentials(layer, flatten_and_weigh(model.encoder(images, None)))


def slope(loss: Tensor, model: sp.Classifier) -> float:
    """The norm of the gradient of a loss with respect to all weights."""
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return float(torch.stack([grad.square().sum() for grad in grads if grad is not None]).sum().sqrt())


def measured(rule: object, seed: int) -> list[float]:
    """The columns of one row after one training, in percent but for the third and the sixth."""
    model = SPEC.build(sp.Key.of(seed))
    if rule is not None:
        rule.train(model, DATA, sp.Key.of(seed + 1))
    model.eval()
    attacked = sp.evaluate_attack(model, sp.PGD(steps=10), sp.Linf(0.1), X, Y, key=sp.Key.of(7))
    penalty = near_threshold(hidden(model, X), 1.0, 0.5).mean()
    slopes = slope(penalty, model), slope(F.cross_entropy(model(X), Y), model)
    with torch.no_grad():
        v, noisy, hostile = (hidden(model, x) for x in (X, (X + 0.1 * SIGNS).clamp(0, 1), attacked.x_adv))
        away = (v - 1).abs()
        shares = [(away < 0.5), (away < 0.1), *((v >= 1) != (other >= 1) for other in (noisy, hostile))]
        within, close, random, pgd = (100 * float(share.float().mean()) for share in shares)
        clean = 100 * float((model(X).argmax(1) == Y).float().mean())
    weight = getattr(rule, "weight", 0.0)
    robust = 100 * float(attacked.right.float().mean())
    return [within, close, float(v.std()), random, pgd, weight * slopes[0] / slopes[1], clean, robust]


def main() -> None:
    torch.set_num_threads(1)
    for name, rule in RULES.items():
        seeds = [measured(rule, seed) for seed in range(3)]
        *means, _ = np.mean(seeds, 0)
        shown = [f"{mean:.{digits}f}" for mean, digits in zip(means, (1, 1, 2, 1, 1, 2, 1), strict=True)]
        robust = ", ".join(f"{row[-1]:.1f}" for row in seeds)
        print(f"| {' | '.join([name, *shown, robust])} |", flush=True)


if __name__ == "__main__":
    main()
