"""Gradient rules: the forward pass of the neuron itself, and several ways to differentiate it.

A gradient rule is a loop over time with the same spikes as `unroll`, to the bit, and a backward pass of its
own. So it can replace the loop of any spiking layer: `substitute(model, unroll=TSSL())` is a twin of the
model that is differentiated by TSSL-BP. Networks are trained through such twins
(`spikeproof.learning.spike_rules`), and attacks take gradients through them.
"""

from spikeproof.gradients.adaptive_surrogates import *
from spikeproof.gradients.event_driven import *
from spikeproof.gradients.rate_based import *
from spikeproof.gradients.temporal import *
