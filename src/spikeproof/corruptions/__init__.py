"""Natural corruptions of images and of recordings, in five severities."""

from spikeproof.corruptions.blurs import *
from spikeproof.corruptions.corruption import *
from spikeproof.corruptions.eventdrops import *
from spikeproof.corruptions.eventnoise import *
from spikeproof.corruptions.eventtimes import *
from spikeproof.corruptions.geometry import *
from spikeproof.corruptions.light import *
from spikeproof.corruptions.noises import *
from spikeproof.corruptions.resolution import *
