"""Threats: the set of images or of spike trains that an attacker may choose from, around each clean one."""

from spikeproof.threats.balls import *
from spikeproof.threats.physical.lasers import *
from spikeproof.threats.physical.patches import *
from spikeproof.threats.physical.stickers import *
from spikeproof.threats.physical.views import *
from spikeproof.threats.regions import *
from spikeproof.threats.shifts import *
from spikeproof.threats.spikes import *
from spikeproof.threats.windows import *
