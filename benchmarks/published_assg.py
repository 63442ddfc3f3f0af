"""ASSG with SA-PGD, written anew from its paper (arXiv 2512.22522), as an opponent of our own suites.

It shares no gradient rule, step or schedule with the package, so that a mistake there is not repeated here:
the loop over time asks the neuron step after step, and the statistics of each layer, time step, neuron and
image are kept from one iteration of the attack to the next.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from spikeproof.networks.classifier import Classifier
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import Neuron, SomeState, Spiking
from spikeproof.surrogates import Surrogate

__all__ = ["assg_sa_pgd"]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x, alpha = ctx.saved_tensors
        return grad * (alpha / 2) / (1 + (math.pi / 2 * alpha * x) ** 2), None


class _AdaptiveSharpness(Surrogate):
    """The spike function of one layer during one run: an arctangent for each potential."""

    def __init__(self, strength: float, memory: float = 0.9, relax: float = 1.5) -> None:
        self.area, self.memory, self.relax = 2 * math.tan(math.pi * strength) / math.pi, memory, relax
        self.statistics: dict[int, tuple[Tensor, Tensor]] = {}
        self.time = 0

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            size = x.abs()
            mean, deviation = self.statistics.get(self.time, (torch.ones_like(x), torch.zeros_like(x)))
            mean = self.memory * mean + (1 - self.memory) * size
            deviation = self.memory * deviation + (1 - self.memory) * (size - mean).abs()
            self.statistics[self.time] = mean, deviation
            alpha = self.area / (mean + self.relax * deviation + 1e-4)
        self.time += 1
        return _Step.apply(x, alpha)


def _step_after_step(
    current: Tensor, state: SomeState, neuron: Neuron, spike: Surrogate
) -> tuple[Tensor, SomeState]:
    spikes = []
    for i in current:
        z, state = neuron.step(i, state, spike)
        spikes.append(z)
    return torch.stack(spikes), state


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def assg_sa_pgd(
    model: Classifier, x: Tensor, y: Tensor, epsilon: float, strength: float, steps: int = 100
) -> Tensor:
    """The last image on the way that is misclassified, or the last one where none is.

    Args:
        model: one that does not draw; in evaluation mode, with layers of spiking neurons.
        x: images `[B, C, H, W]` in [0, 1].
        y: labels `[B]`.
        epsilon: budget under linf.
        strength: half of the area `A` of the surrogate; the authors search from 0.35 to 0.49.
        steps: iterations.
    """
    twin = substitute(model, unroll=_step_after_step)
    sharpness = []
    for layer in twin.modules():
        if isinstance(layer, Spiking):
            layer.spike = _AdaptiveSharpness(strength)
            sharpness.append(layer.spike)
    noise = 2 * torch.rand_like(x) - 1
    x_adv = (x + epsilon * noise / noise.abs().max()).clamp(0, 1)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    size, gap = epsilon, max(int(0.22 * steps), 1)
    checkpoint, found = gap, x_adv.clone()
    for step in range(steps):
        for each in sharpness:
            each.time = 0
        x_adv.requires_grad_()
        logits = twin(x_adv)
        (grad,) = torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), x_adv)
        with torch.no_grad():
            wrong = logits.argmax(1) != y
            found[wrong] = x_adv[wrong].detach()
            unit = _per_image(grad.abs().flatten(1).mean(1).clamp(min=1e-20), grad)
            square = _per_image(grad.square().flatten(1).mean(1).clamp(min=1e-38), grad)
            first = 0.5 * first + grad / unit
            second = 0.8 * second + grad.square() / square
            moved = x_adv + (size * first / (second.sqrt() + 1e-12)).clamp(-size, size)
            x_adv = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
        if step + 1 == checkpoint:
            size, gap = size / 2, max(gap - int(0.03 * steps), int(0.06 * steps), 1)
            checkpoint += gap
    with torch.no_grad():
        wrong = model(x_adv).argmax(1) != y
        never = model(found).argmax(1) == y
    return torch.where(_per_image(wrong | never, x), x_adv, found)
