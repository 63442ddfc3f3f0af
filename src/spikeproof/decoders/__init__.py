"""Decoders: how the output layer's activity over time becomes a decision, and when.

A decoder gives one score per class. `decide` turns scores into a class and never invents one: a tie for the
best score, all classes silent included, and scores that are not finite are no decision, reported as -1.
"""

from spikeproof.decoders.exits import ConfidenceExit, FirstSpikeExit, FixedExit, MarginExit
from spikeproof.decoders.groups import MembraneTies, Stacked, Voting
from spikeproof.decoders.readouts import UNDECIDED, Count, Earliest, FirstSpike, MeanPotential, decide, silent
from spikeproof.decoders.weighted import Geometric, Weighted
from spikeproof.decoders.wrapping import activity, by_step, dynamic_exit, exit_steps, inside, prefixes

__all__ = [
    "UNDECIDED",
    "ConfidenceExit",
    "Count",
    "Earliest",
    "FirstSpike",
    "FirstSpikeExit",
    "FixedExit",
    "Geometric",
    "MarginExit",
    "MeanPotential",
    "MembraneTies",
    "Stacked",
    "Voting",
    "Weighted",
    "activity",
    "by_step",
    "decide",
    "dynamic_exit",
    "exit_steps",
    "inside",
    "prefixes",
    "silent",
]
