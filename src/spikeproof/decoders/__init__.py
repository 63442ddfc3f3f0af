"""Decoders: how the output layer's activity over time becomes a decision, and when.

A decoder gives one score per class. `decide` turns scores into a class. It makes no decision, reported as -1,
where classes tie for the best score, as they do when all are silent, or where a score is not a number.
"""

from spikeproof.decoders.exits import *
from spikeproof.decoders.groups import *
from spikeproof.decoders.readouts import *
from spikeproof.decoders.weighted import *
from spikeproof.decoders.wrapping import *
