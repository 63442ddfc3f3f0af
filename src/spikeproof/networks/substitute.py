"""The same model with other parts: other gradients for equal spikes, or a timing probe before the network."""

from __future__ import annotations

import copy

from spikeproof.encoders import BackwardRule, with_backward
from spikeproof.gradients import GradientRule
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Spiking, Unroll
from spikeproof.probes import Probe, Probed
from spikeproof.surrogates import Surrogate

__all__ = ["probed", "substitute"]


def substitute(
    model: Classifier,
    *,
    spike: Surrogate | None = None,
    backward: BackwardRule | None = None,
    unroll: Unroll | None = None,
) -> Classifier:
    """The same model, sharing every tensor, with other parts that change gradients and no spike.

    The original stays unchanged. Make the twin before `torch.compile`.

    Args:
        model: the model of which a twin is made.
        spike: another surrogate for every spiking layer.
        backward: another backward rule for the encoder.
        unroll: another loop over time for every spiking layer, or a gradient rule.

    Raises:
        InputError: the backward rule does not fit the encoder, or the gradient rule does not fit the network.

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
        >>> torch.equal(model(x), substitute(model, spike=ATan(9.0))(x))
        True
    """
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


def probed(model: Classifier, probe: Probe) -> Classifier:
    """The same model, sharing every tensor, whose network receives spikes that a timing probe has changed.

    The original stays unchanged.

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
    twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    twin.encoder = Probed(twin.encoder, probe)
    return twin
