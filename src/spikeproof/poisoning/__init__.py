"""Poisoning: training images that carry a trigger, so that a model learns a backdoor."""

from spikeproof.poisoning.poisoned import *
from spikeproof.poisoning.triggers import *
