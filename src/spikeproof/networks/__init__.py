"""Networks over time: architectures, the classifier, and twins of it with other parts."""

from __future__ import annotations

from spikeproof.networks.architecture import (
    MLP,
    Architecture,
    ConvNet,
    Observed,
    OverTime,
    Parts,
    PooledConv2d,
    SpikingNetwork,
)
from spikeproof.networks.classifier import Classifier, Inference, ModelSpec, Normalise
from spikeproof.networks.deep import VGG9, VGG11, VGG16, ResNet18, ResNet19, SEWResNet
from spikeproof.networks.recurrent import GRU, LSNN, LSTM
from spikeproof.networks.substitute import probed, substitute
from spikeproof.networks.timed import TimedMLP

__all__ = [
    "GRU",
    "LSNN",
    "LSTM",
    "MLP",
    "VGG9",
    "VGG11",
    "VGG16",
    "Architecture",
    "Classifier",
    "ConvNet",
    "Inference",
    "ModelSpec",
    "Normalise",
    "Observed",
    "OverTime",
    "Parts",
    "PooledConv2d",
    "ResNet18",
    "ResNet19",
    "SEWResNet",
    "SpikingNetwork",
    "TimedMLP",
    "probed",
    "substitute",
]
