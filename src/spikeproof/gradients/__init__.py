"""Gradient rules: one forward pass, the neuron's own, and several ways to differentiate it.

A rule is a loop over time with the spikes of `unroll`, to the bit, and a backward pass of its own, so it
stands wherever a loop stands: `substitute(model, unroll=TSSL())` is a twin of the model, differentiated by
TSSL-BP. Networks are trained through such a twin (`spikeproof.learning.through`) and attacked through one.
"""

from spikeproof.gradients.adaptive import ASSG, PDSG
from spikeproof.gradients.rates import BPTR, HART, RGA
from spikeproof.gradients.rules import ANTLR, TSSL, GradientRule, SurrogateGradient, Trace, Truncated

__all__ = [
    "ANTLR",
    "ASSG",
    "BPTR",
    "HART",
    "PDSG",
    "RGA",
    "TSSL",
    "GradientRule",
    "SurrogateGradient",
    "Trace",
    "Truncated",
]
