"""Learning rules that are backpropagation through time with another gradient rule for the same spikes.

Apart from the backward pass of the spiking layers, everything is as in `BPTT`: the loop, the optimiser, the
schedule, and checkpoints. The gradient is taken through a twin that shares all tensors; the trained model
itself does not contain the gradient rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from spikeproof.errors import InputError
from spikeproof.gradients import ANTLR, TSSL, GradientRule, SurrogateGradient
from spikeproof.gradients.event_driven import EventDriven
from spikeproof.learning.backprop import BPTT
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import Neuron

__all__ = ["ANTLRBP", "STBP", "TSSLBP", "EventDrivenBP", "ThroughRule"]


@dataclass(frozen=True)
class ThroughRule(BPTT):
    """Backpropagation through time with a gradient rule of one kind."""

    follows: ClassVar[type[GradientRule]] = GradientRule
    gradient: GradientRule = SurrogateGradient()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gradient, self.follows):
            raise InputError(
                f"{type(self).__name__} needs a gradient rule of the kind {self.follows.__name__}",
                repr(self.gradient),
                "Leave out gradient, or choose the learning rule of that name.",
            )

    def check(self, neuron: Neuron) -> None:
        self.gradient.check(neuron)

    def twin(self, model: Classifier) -> Classifier:
        self.check(model.spec.neuron)
        return substitute(model, unroll=self.gradient)


@dataclass(frozen=True)
class STBP(ThroughRule):
    r"""Spatio-temporal backpropagation: a rectangular surrogate gradient, with the reset differentiated too.

    .. math:: \frac{\partial L}{\partial v[t]} = \frac{\partial L}{\partial s[t]}\,g(v[t]-\theta)
              + \frac{\partial L}{\partial v[t+1]}\,\frac{\partial v[t+1]}{\partial v[t]}, \quad
              g(x) = \tfrac{1}{w}\,1[|x| < \tfrac{w}{2}]

    With `loss: {count-mse: {desired: T, undesired: 0}}` it minimises the paper's squared error of rates. The
    paper's neurons are reset to zero; here the neuron of the model decides.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss.
        gradient: the gradient rule: the surrogate, and whether the gradient stops at the reset.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> STBP().gradient
        SurrogateGradient(surrogate=Rectangle(width=1.0), detach_reset=False)

    Source:
        Wu et al. 2018, section 2; optimiser and schedule as in `BPTT`.
    """

    follows: ClassVar[type[GradientRule]] = SurrogateGradient


@dataclass(frozen=True)
class TSSLBP(ThroughRule):
    r"""Temporal spike sequence learning via backpropagation (TSSL-BP), for neurons with a synapse.

    .. math:: \frac{\partial L}{\partial v[t]} \approx -\frac{1}{\dot v[t]}\,\frac{\partial L}{\partial t}
              \text{ at spikes of active neurons}, \quad
              \frac{\partial L}{\partial s[t]}\,\sigma'(v[t]-\theta) \text{ elsewhere}

    The full recursion is documented with the gradient rule `tssl`. The published neurons are reset to zero,
    `lif: {reset: to-zero, synapse: {}}`, and fire above their threshold; here the neuron of the model decides
    how it is reset, and all neurons fire at or above their threshold.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss.
        gradient: the gradient rule, with its constants.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> TSSLBP(epochs=2).gradient
        TSSL(surrogate=Sigmoid(alpha=5.0), steepest=8.0, farthest=1.6)

    Source:
        Zhang & Li 2020; optimiser and schedule as in `BPTT`.
    """

    follows: ClassVar[type[GradientRule]] = TSSL
    gradient: GradientRule = TSSL()

    def check(self, neuron: Neuron) -> None:
        super().check(neuron)
        _needs_synapse(self, neuron)


@dataclass(frozen=True)
class ANTLRBP(ThroughRule):
    r"""Activation- and timing-based learning (ANTLR), or either part of it, for neurons with a synapse.

    .. math:: \frac{\partial L}{\partial v[t]} =
              \alpha\,\sigma'(v[t]-\theta)\,\frac{\partial L}{\partial s[t]}
              - \beta\,\frac{s[t]}{\dot v[t]}\,\frac{\partial L}{\partial T}[t] + \dots

    The full recursion is documented with the gradient rule `antlr`.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss.
        gradient: the gradient rule, with the weights of its parts.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> ANTLRBP(gradient=ANTLR(activation=0.0)).gradient.timing
        1.0

    Source:
        Kim, Kim & Kim 2020; optimiser and schedule as in `BPTT`.
    """

    follows: ClassVar[type[GradientRule]] = ANTLR
    gradient: GradientRule = ANTLR()

    def check(self, neuron: Neuron) -> None:
        super().check(neuron)
        _needs_synapse(self, neuron)


@dataclass(frozen=True)
class EventDrivenBP(ThroughRule):
    r"""Event-driven backpropagation from spike to spike, for layered networks of renewal neurons.

    .. math:: \frac{\partial L}{\partial I[t-k]} =
              -\frac{\epsilon[k]}{\dot v[t]}\,\frac{\partial L}{\partial t}
              \text{ for the inputs since the spike before}

    Its two derivatives, by weights and by inputs, are documented with the gradient rule `event-driven`.

    Neurons that never fire learn nothing, so the weights must be large enough for all neurons to fire
    occasionally. Batch normalisation is refused, because the gradient rule passes through every connection
    twice, once for weights and once for inputs.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss.
        gradient: the gradient rule, with its constants.

    Raises:
        InputError: a setting is out of range, or the network has batch normalisation or branches.

    Example:
        >>> EventDrivenBP().gradient
        EventDriven(tau_grad=0.0025, steepest=4.0)

    Source:
        Zhu et al. 2022; optimiser and schedule as in `BPTT`.
    """

    follows: ClassVar[type[GradientRule]] = EventDriven
    gradient: GradientRule = EventDriven()

    def twin(self, model: Classifier) -> Classifier:
        if any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
            raise InputError(
                "EventDrivenBP needs a network without batch normalisation",
                repr(model.spec.network),
                "Use {convnet: {batch_norm: false}} or mlp.",
            )
        return super().twin(model)


def _needs_synapse(rule: object, neuron: Neuron) -> None:
    if neuron.synapse is None:
        raise InputError(
            f"{type(rule).__name__} differentiates spike times, which needs a neuron with a synapse",
            f"{neuron!r}, without a synapse",
            "Give the neuron one: {lif: {synapse: {tau: 0.003}}}.",
        )
