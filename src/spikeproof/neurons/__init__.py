"""Spiking neurons: a pure step, the loop over time, and a thin layer that holds the learned tensors.

A neuron is a frozen dataclass with a `step`: (current, state, spike function) -> (spikes, state); `rest`
makes the initial state, which includes the learned tensors of the layer. `unroll` repeats the step. For leaky
and non-leaky integrate-and-fire neurons, `lif_unroll` computes the same spikes and the same gradient faster,
with a hand-written backward pass (`benchmarks`). `Spiking` is the layer; its parts `spike` and `unroll` are
what `spikeproof.substitute` exchanges.
"""

from spikeproof.neurons.adaptive import *
from spikeproof.neurons.analogue import *
from spikeproof.neurons.combined import *
from spikeproof.neurons.few_spikes import *
from spikeproof.neurons.integrate import *
from spikeproof.neurons.kernels import *
from spikeproof.neurons.layers import *
from spikeproof.neurons.leaky import *
from spikeproof.neurons.parts.neuron import *
from spikeproof.neurons.parts.resets import *
from spikeproof.neurons.parts.synapses import *
from spikeproof.neurons.spiketimes import *
