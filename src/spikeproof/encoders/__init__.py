"""Codes: how an image becomes spikes over time, and which gradient the way back carries.

Every code is a frozen dataclass, called with images in [0, 1]. Codes of spike times and of levels are defined
on integer levels, such as `n = ceil(x T)`, so that a grey level on the edge of a bin always falls on the same
side. The spikes of a deterministic code have no useful derivative: the true one is zero almost everywhere.
What is used instead is a part, `backward`, that an attack may exchange without changing a single spike.
"""

from __future__ import annotations

from spikeproof.encoders.amplitudes import Burst, FewSpikes, Phase
from spikeproof.encoders.codes import (
    BackwardRule,
    LevelCode,
    SpikeCode,
    SpikeGated,
    StraightThrough,
    TimeShift,
)
from spikeproof.encoders.composed import Fused, Population, Reversed, with_backward
from spikeproof.encoders.currents import Direct, LowPass, QuantisedDirect
from spikeproof.encoders.rate_codes import Bernoulli, ThetaPhase
from spikeproof.encoders.signals import Delta, Events, LevelCrossing
from spikeproof.encoders.single_spikes import KernelTimes, SpikeTimes, WholeSpikeTimes
from spikeproof.encoders.times import EarlyBurst, LateBurst, Latency, LogLatency, RankOrder, RelativeLatency

__all__ = [
    "BackwardRule",
    "Bernoulli",
    "Burst",
    "Delta",
    "Direct",
    "EarlyBurst",
    "Events",
    "FewSpikes",
    "Fused",
    "KernelTimes",
    "LateBurst",
    "Latency",
    "LevelCode",
    "LevelCrossing",
    "LogLatency",
    "LowPass",
    "Phase",
    "Population",
    "QuantisedDirect",
    "RankOrder",
    "RelativeLatency",
    "Reversed",
    "SpikeCode",
    "SpikeGated",
    "SpikeTimes",
    "StraightThrough",
    "ThetaPhase",
    "TimeShift",
    "WholeSpikeTimes",
    "with_backward",
]
