"""spikeproof: how robust is a spiking neural network, and what does spike timing have to do with it?"""

__version__ = "0.1.0"
