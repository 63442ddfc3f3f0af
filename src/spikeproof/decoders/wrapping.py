"""Parts that decoders around other decoders share, and the optional properties of any decoder.

A decoder may declare more than scores: `width(classes)`, the number of output neurons that it needs;
`reads_potential`, whether it is given the potentials beside the spikes; `reads_current`, whether it is given
the current into the output layer; `activity(outputs)`, one value per class and step for losses that depend
on time steps; `exits(outputs)`, the number of steps after which it decides; `check(steps)`, which raises an
error for a number of steps that it refuses.

The weights of time steps that decoders state are those of the activity that they read: spikes, potentials, or
the current into the output layer. In a decoder of potentials, what a current is worth follows from the share
`d` of a potential that is left after a step: 1 for IF, `exp(-dt / tau)` for LIF.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.protocols import Decoder, output_width, reads_current, reads_potential

__all__ = ["Wrapping", "activity", "by_step", "dynamic_exit", "exit_steps", "inside", "prefixes"]


def activity(decoder: Decoder, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
    """The output layer's activity, one value per class and time step, from which losses are computed.

    Example:
        >>> from spikeproof.decoders.groups import Voting
        >>> from spikeproof.decoders.readouts import Count
        >>> activity(Voting(Count(), 2), torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])).tolist()
        [[[0.5, 1.0]]]
    """
    declared = getattr(decoder, "activity", None)
    seen: Tensor = outputs if declared is None else declared(outputs)
    return seen


def exit_steps(decoder: Decoder, outputs: Float[Tensor, "T B N"]) -> Int64[Tensor, "B"]:
    """Number of steps after which each decision is made; all steps if the decoder has no early exit.

    Example:
        >>> from spikeproof.decoders.readouts import Count
        >>> exit_steps(Count(), torch.zeros(6, 2, 10)).tolist()
        [6, 6]
    """
    declared = getattr(decoder, "exits", None)
    if declared is None:
        return torch.full((outputs.shape[1],), len(outputs), dtype=torch.int64, device=outputs.device)
    steps: Tensor = declared(outputs)
    return steps


def prefixes(decoder: Decoder, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
    """Logits after every step, computed from the outputs up to that step only."""
    return torch.stack([decoder(outputs[:t]) for t in range(1, len(outputs) + 1)])


def dynamic_exit(decoder: Decoder) -> bool:
    """Whether the time of the decision depends on the outputs."""
    return hasattr(decoder, "exits") and bool(getattr(decoder, "dynamic", True))


def inside(decoder: Decoder) -> Decoder:
    """The inner decoder of an early exit; any other decoder is returned as it is."""
    return getattr(decoder, "decoder", decoder) if hasattr(decoder, "exits") else decoder


def by_step(decoder: Decoder, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
    """Logits if the forward pass ended after each step; after an early exit they no longer change.

    Example:
        >>> from spikeproof.decoders.readouts import Count
        >>> by_step(Count(), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])).tolist()
        [[[1.0, 0.0]], [[1.0, 1.0]]]
    """
    logits = prefixes(inside(decoder), outputs)
    last = exit_steps(decoder, outputs) - 1
    steps = torch.arange(len(outputs), device=outputs.device)[:, None].minimum(last)
    return logits.gather(0, steps[:, :, None].expand_as(logits))


def refuse(part: object, decoder: Decoder, *, exits: bool = True, potential: bool = False) -> None:
    """Refuse decoders that cannot be the inner decoder of `part`."""
    kinds = [
        (getattr(decoder, "timed", False), "one of spike times"),
        (exits and hasattr(decoder, "exits"), "one that exits early"),
        (potential and reads_potential(decoder), "one that reads potentials beside spikes"),
    ]
    for refused, kind in kinds:
        if refused:
            raise InputError(
                f"{type(part).__name__} needs another inner decoder", f"{decoder!r}, {kind}", "Try count."
            )


@dataclass(frozen=True)
class Wrapping:
    """A decoder around an inner decoder, with the same output neurons."""

    decoder: Decoder

    @property
    def reads_spikes(self) -> bool:
        """Whether output neurons fire."""
        return self.decoder.reads_spikes

    @property
    def reads_potential(self) -> bool:
        """Whether outputs hold potentials beside spikes."""
        return reads_potential(self.decoder)

    @property
    def reads_current(self) -> bool:
        """Whether outputs are the current into the output layer."""
        return reads_current(self.decoder)

    def width(self, classes: int) -> int:
        """Number of output neurons."""
        return output_width(self.decoder, classes)

    def check(self, steps: int) -> None:
        """Refuse what does not fit an encoder with this many steps."""
        inner = getattr(self.decoder, "check", None)
        if inner is not None:
            inner(steps)

    def activity(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
        """One value per class and step."""
        return activity(self.decoder, outputs)
