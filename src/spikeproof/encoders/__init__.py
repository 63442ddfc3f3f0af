"""Encoders: how an image becomes spikes over time, and which gradient the backward pass uses.

Every encoder is a frozen dataclass, called with images in [0, 1]. Encoders of spike times and of levels are
defined on integer levels, such as `n = ceil(x T)`, so that a grey level on the edge of a bin always falls on
the same side. The spikes of a deterministic encoder have no useful derivative: the true one is zero almost
everywhere. An encoder therefore has an exchangeable part `backward`, its backward rule, which an attack may
replace without changing a single spike.
"""

from spikeproof.encoders.amplitudes import *
from spikeproof.encoders.codes import *
from spikeproof.encoders.composed import *
from spikeproof.encoders.currents import *
from spikeproof.encoders.rate_codes import *
from spikeproof.encoders.signals import *
from spikeproof.encoders.single_spikes import *
from spikeproof.encoders.times import *
