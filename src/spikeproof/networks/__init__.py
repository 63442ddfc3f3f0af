"""Networks over time: architectures, the classifier, and twins of a classifier with other parts."""

from spikeproof.networks.architecture import *
from spikeproof.networks.classifier import *
from spikeproof.networks.deep import *
from spikeproof.networks.outside import *
from spikeproof.networks.pooling import *
from spikeproof.networks.recurrent import *
from spikeproof.networks.substitute import *
from spikeproof.networks.timed import *
