"""Threats: the set of images or of spike trains that an attacker may choose from, around each clean one."""

from spikeproof.threats.balls import L1, L2, Linf, parse_epsilon
from spikeproof.threats.regions import L0, Region, SquarePatch, boxed
from spikeproof.threats.shifts import Shifts
from spikeproof.threats.spikes import Additions, Flips, Removals

__all__ = [
    "L0",
    "L1",
    "L2",
    "Additions",
    "Flips",
    "Linf",
    "Region",
    "Removals",
    "Shifts",
    "SquarePatch",
    "boxed",
    "parse_epsilon",
]
