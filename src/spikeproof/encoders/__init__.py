"""Codes: how an image becomes spikes over time, and which gradient the way back carries.

Every code is a frozen dataclass, called with images in [0, 1]. Codes of spike times and of levels are defined
on integer levels, such as `n = ceil(x T)`, so that a grey level on the edge of a bin always falls on the same
side. The spikes of a deterministic code have no useful derivative: the true one is zero almost everywhere.
What is used instead is a part, `backward`, that an attack may exchange without changing a single spike.
"""

from __future__ import annotations

from spikeproof.encoders.codes import (
    BackwardRule,
    LevelCode,
    SpikeCode,
    SpikeGated,
    StraightThrough,
    TimeShift,
)
from spikeproof.encoders.combined import Reversed, with_backward
from spikeproof.encoders.currents import Direct, QuantisedDirect
from spikeproof.encoders.rates import Bernoulli
from spikeproof.encoders.signals import Events
from spikeproof.encoders.times import EarlyBurst, LateBurst, Latency

__all__ = [
    "BackwardRule",
    "Bernoulli",
    "Direct",
    "EarlyBurst",
    "Events",
    "LateBurst",
    "Latency",
    "LevelCode",
    "QuantisedDirect",
    "Reversed",
    "SpikeCode",
    "SpikeGated",
    "StraightThrough",
    "TimeShift",
    "with_backward",
]
