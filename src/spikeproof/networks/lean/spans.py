"""Networks in spans of time steps: the same spikes in memory that hardly grows with the number of steps.

A span begins with the state that the span before it has left. Only these states are kept for the backward
pass, which repeats the forward pass of one span after the other. What still grows with the number of steps is
the encoded input, its gradient and the activity of the output layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spikeproof.compiled import (
    Backward,
    Loops,
    chosen_backward,
    chosen_loops,
    fixed_weights,
    using_backward,
    using_loops,
    weights_are_fixed,
)
from spikeproof.errors import InputError
from spikeproof.networks.architecture import OverTime, SpikingNetwork
from spikeproof.networks.deep import Residual
from spikeproof.networks.pooling import GatedMaxPool
from spikeproof.neurons import Integrator, Spiking, Synapse, integrated, lif_unroll, psp_filter, unroll

__all__ = ["in_spans", "why_not_in_spans"]

Left = Any
"""What a layer leaves to the next span; None before the first one."""

Tally = list[Tensor] | None
"""Where spikes per step and example of every spiking layer go, `[T, B]`; None where they are not counted."""


def _layers(network: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    assert isinstance(network, SpikingNetwork)
    states = [None] * len(network.layers) if left is None else left
    after = []
    for layer, state in zip(network.layers, states, strict=True):
        x, state = RESUMED[type(layer)](layer, x, state, tally)
        after.append(state)
    return x, after


def _residual(block: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    assert isinstance(block, Residual)
    states = (None, None) if left is None else left
    branch, first = _layers(block, x, states[0], tally)
    shortcut, second = _layers(block.shortcut, x, states[1], tally)
    return block.joined(branch, shortcut), (first, second)


def _alone(layer: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    out: Tensor = layer(x)
    return out, None


def _spiking(layer: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    assert isinstance(layer, Spiking)
    spikes, state = layer.resumed(x, left)
    if tally is not None and layer.neuron.spiking:
        tally.append((spikes != 0).flatten(2).sum(2))
    return spikes, state


def _integrator(layer: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    assert isinstance(layer, Integrator)
    return layer.resumed(x, left)


def _synapse(layer: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    assert isinstance(layer, Synapse)
    traces = psp_filter(x, layer.psp, left)
    return traces, traces[-1]


def _pool(layer: nn.Module, x: Tensor, left: Left, tally: Tally) -> tuple[Tensor, Left]:
    assert isinstance(layer, GatedMaxPool)
    return layer.resumed(x, left)


RESUMED: dict[type[nn.Module], Callable[[nn.Module, Tensor, Left, Tally], tuple[Tensor, Left]]] = {
    SpikingNetwork: _layers,
    Residual: _residual,
    OverTime: _alone,
    Spiking: _spiking,
    Integrator: _integrator,
    Synapse: _synapse,
    GatedMaxPool: _pool,
}
"""How a layer goes on from the state that it has left."""


def why_not_in_spans(network: nn.Module) -> str:
    """What keeps a network from being computed in spans of time; empty if nothing does.

    Example:
        >>> from spikeproof.neurons import FS, LIF
        >>> why_not_in_spans(SpikingNetwork([Spiking(LIF())])), why_not_in_spans(Spiking(FS(steps=4)))
        ('', 'layers of FS wait for all of their input')
    """
    if type(network) not in RESUMED:
        return f"{type(network).__name__} has no state that can be handed on"
    if isinstance(network, Spiking) and network.neuron.looks_ahead:
        return f"layers of {type(network.neuron).__name__} wait for all of their input"
    if isinstance(network, Spiking) and network.unroll not in (lif_unroll, unroll):
        return "a gradient rule sees all time steps at once"
    if isinstance(network, Integrator) and not integrated(network.neuron):
        return f"potentials of {type(network.neuron).__name__} need all of their input"
    inside = list(network.layers) if isinstance(network, SpikingNetwork) else []
    inside += [network.shortcut] if isinstance(network, Residual) else []
    return next(filter(None, map(why_not_in_spans, inside)), "")


def _as_chosen() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a span and of its repetition, which takes the loops and backward passes of the span.

    The repetition runs where the backward pass runs: after the block of code that has chosen them, or in a
    thread of the accelerator, which knows no choice.
    """
    return nullcontext(), _choosing(chosen_loops(), chosen_backward(), weights_are_fixed())


@contextmanager
def _choosing(loops: Loops, backward: Backward, fixed: bool) -> Iterator[None]:
    with using_loops(loops), using_backward(backward), fixed_weights(fixed):
        yield


def in_spans(
    network: SpikingNetwork, encoded: Float[Tensor, "T B *F"], span: int, tally: Tally = None
) -> Float[Tensor, "T B *G"]:
    """The outputs of a network, computed for a few time steps at a time.

    Spikes are the same to the bit. Gradients are, too, except that sums over time, which a constant input and
    weights have, are added up in another order.

    Args:
        network: layers over time.
        encoded: its input.
        span: time steps of a span, at least 1.
        tally: as for a call of the network; it takes part in no backward pass.

    Raises:
        InputError: a layer needs all time steps at once.

    Example:
        >>> from spikeproof.neurons import IF
        >>> network, current = SpikingNetwork([Spiking(IF())]), torch.full((5, 1, 1), 0.6)
        >>> in_spans(network, current, 2).flatten().tolist()
        [0.0, 1.0, 0.0, 1.0, 1.0]
    """
    if reason := why_not_in_spans(network):
        raise InputError(
            "Spans of time steps need layers that go on from a state", reason, "Leave out spans."
        )
    constant = len(encoded) > 1 and encoded.stride(0) == 0
    base = encoded[0] if constant else encoded
    outputs, left = [], None
    counts = list[list[Tensor]]()
    for start in range(0, len(encoded), span):
        steps = min(span, len(encoded) - start)
        part = base.expand(steps, *base.shape) if constant else base[start : start + steps]
        if torch.is_grad_enabled() and tally is None:
            out, left = checkpoint(
                *(_layers, network, part, left, None),
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=_as_chosen,
            )
        else:
            counts.append([])
            out, left = _layers(network, part, left, counts[-1])
        outputs.append(out)
    if tally is not None:
        tally += map(torch.cat, zip(*counts, strict=True))
    return torch.cat(outputs)
