"""Gradient rules: one forward pass, the neuron's own, and several ways to differentiate it.

A rule is a loop over time with the spikes of `unroll`, to the bit, and a backward pass of its own, so it
stands wherever a loop stands: `substitute(model, unroll=TSSL())` is a twin of the model, differentiated by
TSSL-BP. Networks are trained through such a twin (`spikeproof.learning.spike_rules`) and attacked through
one.
"""

from spikeproof.gradients.adaptive_surrogates import *
from spikeproof.gradients.event_driven import *
from spikeproof.gradients.rate_based import *
from spikeproof.gradients.temporal import *
