"""Sponge attacks: images within a budget that make an inference as expensive or as slow as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.analysis.activity import sounding
from spikeproof.analysis.energy import inference_cost
from spikeproof.decoders import prefixes
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Decoder, Threat, moves_events

__all__ = ["Sponge"]


@dataclass(frozen=True)
class Sponge:
    r"""Gradient ascent on what an inference costs, instead of on an error.

    .. math:: \max_{x' \in B(x)} \sum_{l,t,i} s^l_i[t] \quad\text{(spikes)}, \qquad
        \max_{x' \in B(x)} -\sum_t \big(z_{(1)}[t] - z_{(2)}[t]\big) \quad\text{(steps)}

    The first goal raises the spikes of the input and of all layers, through their surrogates; the second
    keeps the lead of the best class small at every prefix of time, so that an early exit waits. Each image
    keeps the iterate whose measured cost is largest: the energy of its operations, or its steps until the
    decision. The clean image is the first iterate, so no image becomes cheaper.

    Args:
        goal: `spikes`, or `steps` until the decision of a model with an early exit.
        steps: gradient steps, at least 1.
        size: of a step, relative to the budget, positive.

    Shapes:
        images `[B, C, H, W]` -> images within the budget

    Raises:
        InputError: an option is out of its range, the threat is one on events, or the goal is `steps` and the
            model has no early exit.

    Example:
        >>> from spikeproof import Count, Direct, LIF, ATan, Linf, MLP, ModelSpec
        >>> model = ModelSpec(Direct(4), MLP((5,)), LIF(), ATan(), Count(), (1, 2, 2), 3).build(Key.of(0))
        >>> Sponge(steps=3)(model.eval(), torch.rand(2, 1, 2, 2), Linf(0.1), Key.of(0)).shape
        torch.Size([2, 1, 2, 2])

    Source:
        Shumailov et al. 2021 (Sponge examples), section 4; on spikes of SNNs, Krithivasan et al. 2022
        (SpikeAttack).
    """

    goal: Literal["spikes", "steps"] = "spikes"
    steps: int = 20
    size: float = 0.25

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.size > 0 or self.goal not in _COST:
            raise InputError(
                f"Sponge needs at least one step of positive size, and a goal among {', '.join(_COST)}",
                f"goal={self.goal}, steps={self.steps}, size={self.size}",
                "Try the defaults.",
            )

    def check(self, threat: Threat) -> None:
        """Refuse a threat in which there is no gradient to follow."""
        if moves_events(threat):
            raise InputError(
                "Sponge changes pixels along a gradient",
                f"the threat {type(threat).__name__} on whole events",
                "Use a threat such as linf.",
            )

    def suits(self, decoder: Decoder) -> bool:
        """Whether the goal means anything with this decoder; only an early exit can be made to wait."""
        return _COST[self.goal] is not _steps or hasattr(decoder, "exits")

    def __call__(
        self,
        model: Classifier,
        images: Float[Tensor, "B C H W"],
        threat: Threat,
        key: Key,
    ) -> Float[Tensor, "B C H W"]:
        """Images within the budget that cost more.

        Args:
            model: whose inference is made expensive, in evaluation mode.
            images: in [0, 1].
            threat: the set of allowed images.
            key: decides the draws of a stochastic model, the same at every step.
        """
        self.check(threat)
        if isinstance(model, Classifier) and not self.suits(model.spec.decoder):
            raise InputError(
                f"The goal {self.goal} needs a model with an early exit",
                f"the decoder {model.spec.decoder!r}, which always takes all steps",
                "Use the goal spikes, or a decoder such as confidence-exit.",
            )
        cost, wanted = _COST[self.goal], _WANTED[self.goal]
        best, highest = images.clone(), cost(model, images, key)
        here = images
        for _ in range(self.steps):
            at = here.detach().requires_grad_()
            with torch.enable_grad():
                value = wanted(model, at, key).sum()
                (gradient,) = torch.autograd.grad(value, at, materialize_grads=True)
            step = self.size * threat.epsilon
            here = threat.project(at.detach() + step * threat.steepest(gradient), images)
            found = cost(model, here, key)
            better = found > highest
            best[better], highest[better] = here[better], found[better]
        return best


def _energy(model: Classifier, images: Tensor, key: Key) -> Tensor:
    return inference_cost(model, images, key).picojoules


def _steps(model: Classifier, images: Tensor, key: Key) -> Tensor:
    return inference_cost(model, images, key).steps


def _all_spikes(model: Classifier, images: Tensor, key: Key) -> Tensor:
    """Amplitudes of spikes of the input and of every layer, with a gradient."""
    return torch.stack([spikes.flatten(2).sum((0, 2)) for spikes in sounding(model, images, key)]).sum(0)


def _undecided(model: Classifier, images: Tensor, key: Key) -> Tensor:
    """How small the lead of the best class is, over all prefixes of time."""
    over_time = prefixes(model.spec.decoder, model.outputs(images, key))
    lead = over_time.topk(2, dim=-1).values
    return -(lead[..., 0] - lead[..., 1]).sum(0)


_COST = {"spikes": _energy, "steps": _steps}
_WANTED = {"spikes": _all_spikes, "steps": _undecided}
