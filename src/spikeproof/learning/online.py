"""Forward propagation through time: several optimiser steps per sequence, with truncated gradients.

The layers of this package start every call at rest. To continue in the middle of a sequence, the training
uses a twin of the model whose layers keep their state, without its gradient, from one part of the sequence to
the next. The twin shares all tensors, is used in training only, and starts every batch at rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.datasets import Dataset
from spikeproof.decoders import activity
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, Course
from spikeproof.learning.rule import Defence
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import (
    IntegrateAndFire,
    Integrator,
    Neuron,
    SomeState,
    Spiking,
    State,
    Synapse,
    Unroll,
)
from spikeproof.surrogates import Surrogate

__all__ = ["FPTT", "OnlineCourse"]


@dataclass(frozen=True)
class FPTT(BPTT):
    r"""Forward propagation through time: one optimiser step after every part of the sequence.

    The T time steps are split into `parts`. After part `i = 1..parts`, the gradients of

    .. math:: \frac{i}{parts}\,L(o[1..t_i], y) + (\rho - 1)\langle w, \lambda\rangle
              + \frac{\alpha}{2}\,\|w - \bar w\|^2

    are computed back to the start of that part only, the optimiser takes one step, and

    .. math:: \lambda \leftarrow \lambda - \alpha\,(w - \bar w), \qquad
              \bar w \leftarrow (1-\beta)\,\bar w + \beta\,w - \frac{\beta}{\alpha}\,\lambda

    so that the weights stay near their running mean, which compensates for the truncated gradients. The loss
    is computed after every part, from the decoder's logits for the outputs up to there. Only one part at a
    time is held in memory. With one part and `alpha=0` the learning rule equals `BPTT`, to the bit.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss, computed after every part.
        parts: number of parts of the sequence, from 1 to the number of steps of the encoder.
        alpha: strength of the pull to the running mean, at least 0; 0 for none.
        beta: rate of the running mean, in (0, 1].
        rho: share of the multiplier `lambda` that is left out, in [0, 1].

    Raises:
        InputError: a setting is out of range, the encoder has fewer steps than there are parts, or the neuron
            is not of the integrate-and-fire kind.

    Example:
        >>> FPTT(epochs=2, parts=3).alpha
        0.1

    Source:
        Kag & Saligrama 2021, algorithm 1; Yin, Corradi & Bohte 2023 for spiking networks, whose published
        code weights the parts by i/parts.
    """

    parts: int = 2
    alpha: float = 0.1
    beta: float = 0.5
    rho: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, valid, bound in (
            ("parts", self.parts >= 1, "at least 1"),
            ("alpha", 0 <= self.alpha < math.inf, "at least 0"),
            ("beta", 0 < self.beta <= 1, "in (0, 1]"),
            ("rho", 0 <= self.rho <= 1, "in [0, 1]"),
        ):
            if not valid:
                raise InputError(
                    f"FPTT needs {name} to be {bound}", f"{name}={getattr(self, name)}", "Try the default."
                )

    def admit(self, defence: Defence) -> None:
        if defence.adds_loss:
            raise InputError(
                f"{type(defence).__name__} needs the gradient of whole sequences",
                "FPTT, which takes a step after every part",
                "Use bptt.",
            )

    def check(self, neuron: Neuron) -> None:
        if not isinstance(neuron, IntegrateAndFire):
            raise InputError(
                "FPTT continues in the middle of a sequence, which needs integrate-and-fire neurons",
                repr(neuron),
                "Use the neuron lif or if, or the learning rule bptt.",
            )

    def lengths(self, steps: int) -> Sequence[int]:
        if steps < self.parts:
            raise InputError(
                f"FPTT needs a time step for each of its {self.parts} parts",
                f"{steps} step(s)",
                f"Set parts to at most {steps}.",
            )
        return list(accumulate(map(len, torch.arange(steps).tensor_split(self.parts))))

    def twin(self, model: Classifier) -> Classifier:
        self.check(model.spec.neuron)
        twin = substitute(model)
        _remember(twin.network)
        return twin

    def _course(self, model: Classifier, data: Dataset, key: Key, defences: Sequence[Defence]) -> Course:
        return OnlineCourse(self, model, data, key, defences)


class OnlineCourse(Course):
    """A training with an optimiser step after every part of every sequence."""

    def __init__(
        self, rule: FPTT, model: Classifier, data: Dataset, key: Key, defences: Sequence[Defence] = ()
    ) -> None:
        super().__init__(rule, model, data, key, defences)
        self.online = rule
        self.memories = list(_memories(self.twin.network))

    def learn(self, x: Float[Tensor, "B C H W"], y: Int64[Tensor, "B"], key: Key) -> Float[Tensor, ""]:
        for memory in self.memories:
            memory.last = None
        parts = self.online.parts
        seen: list[Tensor] = []
        total = torch.zeros((), device=self.device)
        for i, part in enumerate(self.encoded(x, key), 1):
            with self.rule.precision(self.device):
                outputs = self.twin.respond(part)
            so_far = torch.cat([*seen, outputs.float()])
            decoder = self.model.spec.decoder
            weight = self.weight(i / parts)
            loss = self.rule.loss(activity(decoder, so_far), decoder(so_far), y).mean() * weight
            total = total + loss.detach()
            self.step(loss)
            seen.append(outputs.detach().float())
        return total

    def encoded(self, x: Float[Tensor, "B C H W"], key: Key) -> Iterator[Float[Tensor, "S B ..."]]:
        """The encoded parts of the sequence, each asked for after the step on the part before it."""
        yield from torch.tensor_split(self.model.encode(x, key), self.online.parts)

    def weight(self, seen: float) -> float:
        """The weight of the loss after a part, for the share of the sequence that was seen by then."""
        return seen

    def step(self, loss: Float[Tensor, ""]) -> None:
        """Take one optimiser step on the loss and the pull to the mean, and then update the mean."""
        rule, state = self.online, self.state.optimiser.state
        if not rule.alpha:
            self.descend(loss)
            return
        pull = torch.zeros((), device=self.device)
        for p in self.parameters:
            if "mean" in state[p]:
                mean, multiplier = state[p]["mean"], state[p]["multiplier"]
                pull = pull + (rule.rho - 1) * (p * multiplier).sum()
                pull = pull + rule.alpha / 2 * (p - mean).square().sum()
        means = [state[p].get("mean", p.detach().clone()) for p in self.parameters]
        self.descend(loss + pull)
        with torch.no_grad():
            for p, mean in zip(self.parameters, means, strict=True):
                multiplier = state[p].get("multiplier", torch.zeros_like(p)) - rule.alpha * (p - mean)
                state[p]["multiplier"] = multiplier
                state[p]["mean"] = (
                    (1 - rule.beta) * mean + rule.beta * p - (rule.beta / rule.alpha) * multiplier
                )


class _Continued:
    """A loop over time that continues from the state in which it ended."""

    def __init__(self, unroll: Unroll) -> None:
        self.unroll = unroll
        self.last: SomeState = None

    def __call__(
        self, current: Tensor, state: State, neuron: Neuron, spike: Surrogate
    ) -> tuple[Tensor, State]:
        start = state if self.last is None else _continued(self.last, state)
        spikes, end = self.unroll(current, start, neuron, spike)
        self.last = end
        return spikes, end


def _continued(last: SomeState, rest: SomeState) -> SomeState:
    """The last state without its gradient, with the current values of learned tensors."""
    if isinstance(rest, Tensor):
        return rest if rest.requires_grad else last.detach()
    parts = map(_continued, last, rest)
    return type(rest)(*parts)


class _Filter(nn.Module):
    """A linear filter (a synapse or an integrating output layer) that continues from its last value."""

    def __init__(self, layer: Synapse | Integrator) -> None:
        super().__init__()
        self.layer = layer
        self.last: Tensor | None = None

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        start = torch.zeros_like(x[0]) if self.last is None else self.last
        out: Tensor = self.layer(torch.cat([start[None], x]))[1:]
        jump = 1.0
        if isinstance(self.layer, Synapse):
            jump = 1 - math.exp(-self.layer.psp.dt / self.layer.psp.tau)
        self.last = out[-1].detach() / jump  # the single input that leads to this value
        return out


def _remember(network: nn.Module) -> None:
    for name, layer in list(network.named_children()):
        if isinstance(layer, Spiking):
            layer.unroll = _Continued(layer.unroll)
        elif isinstance(layer, (Synapse, Integrator)):
            setattr(network, name, _Filter(layer))
        else:
            _remember(layer)


def _memories(network: nn.Module) -> Iterator[_Continued | _Filter]:
    for layer in network.modules():
        if isinstance(layer, _Filter):
            yield layer
        elif isinstance(layer, Spiking) and isinstance(layer.unroll, _Continued):
            yield layer.unroll
