"""Spiking neurons: a pure step, the loop over time, and a thin layer that holds what neurons learn.

A neuron is a frozen dataclass with a `step`: (current, state, spike function) -> (spikes, state); `rest`
makes the first state, with whatever the neurons of a layer have learned in it. `unroll` repeats the step.
`lif_unroll` computes the same spikes and the same gradient for leaky and non-leaky integrate-and-fire neurons
with one hand-written backward pass, faster (`benchmarks`). `Spiking` is the layer; its parts `spike` and
`unroll` are what `spikeproof.substitute` exchanges.
"""

from __future__ import annotations

from spikeproof.neurons.adaptive import AHP, ALIF
from spikeproof.neurons.analogue import Analogue, GatedRecurrent, LongShortTerm, ReLU, Softplus
from spikeproof.neurons.combined import Mixture, Plastic, Recurrent
from spikeproof.neurons.few_spikes import FS
from spikeproof.neurons.integrate import IF, IntegrateAndFire, PrimedIF, fused_unroll, lif_unroll
from spikeproof.neurons.kernels import SRM, CuBaLIF, Renewal
from spikeproof.neurons.layers import Integrator, Spiking, Unroll, potentials
from spikeproof.neurons.leaky import DLIF, LIF, PLIF, SNU
from spikeproof.neurons.parts.neuron import Learned, Neuron, State, unroll
from spikeproof.neurons.parts.resets import BySubtraction, Reset, ToZero
from spikeproof.neurons.parts.synapses import PSP, Synapse, psp_filter
from spikeproof.neurons.spiketimes import S4NN, T2FSNN, FastAndDeep, Mostafa

__all__ = [
    "AHP",
    "ALIF",
    "DLIF",
    "FS",
    "IF",
    "LIF",
    "PLIF",
    "PSP",
    "S4NN",
    "SNU",
    "SRM",
    "T2FSNN",
    "Analogue",
    "BySubtraction",
    "CuBaLIF",
    "FastAndDeep",
    "GatedRecurrent",
    "IntegrateAndFire",
    "Integrator",
    "Learned",
    "LongShortTerm",
    "Mixture",
    "Mostafa",
    "Neuron",
    "Plastic",
    "PrimedIF",
    "ReLU",
    "Recurrent",
    "Renewal",
    "Reset",
    "Softplus",
    "Spiking",
    "State",
    "Synapse",
    "ToZero",
    "Unroll",
    "fused_unroll",
    "lif_unroll",
    "potentials",
    "psp_filter",
    "unroll",
]
