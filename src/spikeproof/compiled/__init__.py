"""Loops over time in machine code: one C++ source, built on first use with the compiler of the machine, and
programs that `torch.compile` makes of the written loops, for accelerators.

Which loops are used is a choice of the user (`Loops`) or of a cell of a study, which notes it: cells that
measure take compiled loops. Elsewhere the loops written in PyTorch are used without a choice. On one thread
all give the same spikes and the same gradients on images and weights to the bit; gradients on learned
constants of neurons, which are sums over all neurons and steps, agree up to rounding. `spikeproof.neurons`
describes its neurons to this room.
"""

from spikeproof.compiled.choice import *
from spikeproof.compiled.inductor import *
from spikeproof.compiled.memory import *
from spikeproof.compiled.toolchain import *
