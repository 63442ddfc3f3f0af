"""Decoders: how the output layer's activity over time becomes a decision, and when.

A decoder gives one score per class. `decide` turns scores into a class and never invents one: a tie for the
best score, all classes silent included, and scores that are not numbers are no decision, reported as -1.
"""

from spikeproof.decoders.exits import *
from spikeproof.decoders.groups import *
from spikeproof.decoders.readouts import *
from spikeproof.decoders.weighted import *
from spikeproof.decoders.wrapping import *
