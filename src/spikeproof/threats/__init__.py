"""Threats: the set of images an attacker may choose from, around each clean image, in the box [0, 1]."""

from spikeproof.threats.balls import L1, L2, Linf, parse_epsilon
from spikeproof.threats.places import L0, Region, SquarePatch
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
    "SquarePatch",
    "parse_epsilon",
]
