"""The same model with other parts: other gradients for equal spikes, or a timing probe before the network."""

from __future__ import annotations

import copy
from typing import Protocol, overload, runtime_checkable

from spikeproof.encoders import BackwardRule, with_backward
from spikeproof.errors import InputError
from spikeproof.gradients import Admitting, GradientRule
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Spiking, Unroll
from spikeproof.probes import Probe, Probed
from spikeproof.protocols import Decoder, Encoder, Model
from spikeproof.surrogates import Surrogate

__all__ = ["Substitutable", "probed", "substitute"]


@runtime_checkable
class Substitutable(Model, Admitting, Protocol):
    """A model with neurons of another framework, which makes its own twins."""

    @property
    def encoder(self) -> Encoder:
        """What turns images into the network's input."""

    @property
    def decoder(self) -> Decoder:
        """What reads the network's outputs."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def spiking(self) -> bool:
        """Whether the surrogates of all its neurons can be exchanged."""

    @property
    def counts(self) -> bool:
        """Whether logits are sums of spikes, on whose plateaus more has to be tried."""

    def substituted(
        self, surrogate: Surrogate | None, backward: BackwardRule | None, rule: GradientRule | None
    ) -> Substitutable:
        """The same network with other gradients and the same answers."""


@overload
def substitute(
    model: Classifier,
    *,
    surrogate: Surrogate | None = None,
    backward: BackwardRule | None = None,
    unroll: Unroll | None = None,
    spike: Surrogate | None = None,
) -> Classifier: ...


@overload
def substitute(
    model: Substitutable,
    *,
    surrogate: Surrogate | None = None,
    backward: BackwardRule | None = None,
    unroll: Unroll | None = None,
    spike: Surrogate | None = None,
) -> Substitutable: ...


@overload
def substitute(
    model: Model,
    *,
    surrogate: Surrogate | None = None,
    backward: BackwardRule | None = None,
    unroll: Unroll | None = None,
    spike: Surrogate | None = None,
) -> Classifier | Substitutable: ...


def substitute(
    model: Model,
    *,
    surrogate: Surrogate | None = None,
    backward: BackwardRule | None = None,
    unroll: Unroll | None = None,
    spike: Surrogate | None = None,
) -> Classifier | Substitutable:
    """The same model, sharing every tensor, with other parts that change gradients and no spike.

    The original stays unchanged. Make the twin before `torch.compile`.

    Args:
        model: the model of which a twin is made: one of ours, or one that `wrap` made of another framework's.
        surrogate: another surrogate for every spiking layer.
        backward: another backward rule for the encoder.
        unroll: another loop over time for every spiking layer, or a gradient rule.
        spike: the same as `surrogate`, by the name that our layers have for it.

    Raises:
        InputError: the backward rule does not fit the encoder, the gradient rule does not fit the network, or
            the model is a callable whose neurons are not known.

    Example:
        >>> import torch
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.keys import Key
        >>> from spikeproof.networks import MLP, ModelSpec
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> spec = ModelSpec(Direct(4), MLP((8,)), LIF(), ATan(2.0), Count(), (1, 8, 8), 10)
        >>> model = spec.build(Key.of(0)); x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(model(x), substitute(model, surrogate=ATan(9.0))(x))
        True
    """
    spike = surrogate if spike is None else spike
    if not isinstance(model, Classifier):
        return _foreign(model, spike, backward, unroll)
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    twin.lineage = model.lineage
    if backward is not None:
        twin.encoder = with_backward(twin.encoder, backward)
    for layer in twin.modules():
        if isinstance(layer, Spiking):
            if isinstance(unroll, GradientRule):
                unroll.check(layer.neuron)
            layer.spike = layer.spike if spike is None else spike
            layer.unroll = layer.unroll if unroll is None else unroll
    if isinstance(unroll, GradientRule):
        unroll.install(twin.network)
    return twin


def _foreign(
    model: object, surrogate: Surrogate | None, backward: BackwardRule | None, unroll: Unroll | None
) -> Substitutable:
    if not isinstance(model, Substitutable):
        raise InputError(
            "Other gradients need a model of spikeproof, or a network that spikeproof.wrap has looked into",
            type(model).__name__,
            "Wrap the network, or use attacks without a surrogate.",
        )
    if unroll is not None and not isinstance(unroll, GradientRule):
        raise InputError(
            "Neurons of another framework keep their own loop over time", repr(unroll), "Leave out unroll."
        )
    return model.substituted(surrogate, backward, unroll)


def probed(model: Classifier, probe: Probe) -> Classifier:
    """The same model, sharing every tensor, whose network receives spikes that a timing probe has changed.

    The original stays unchanged.

    Raises:
        InputError: the model is no `Classifier`, whose encoder and network can be told apart.

    Example:
        >>> import torch
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Latency
        >>> from spikeproof.keys import Key
        >>> from spikeproof.networks import MLP, ModelSpec
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.probes import Reversal
        >>> from spikeproof.surrogates import ATan
        >>> model = ModelSpec(Latency(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(probed(model, Reversal()).encoder(x), Latency(4)(x).flip(0))
        True
    """
    if not isinstance(model, Classifier):
        raise InputError(
            "A model of spikeproof",
            type(model).__name__,
            "Wrap the network with convert=True, or leave out probes.",
        )
    twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    twin.encoder = Probed(twin.encoder, probe)
    return twin
