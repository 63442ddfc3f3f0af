"""spikeproof: how robust is a spiking neural network, and what does spike timing have to do with it?

The public names, in the order of the pipeline. Each is imported when it is first used, so that `import
spikeproof` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from spikeproof.version import __version__

# Without this, some processors round a row of a small matrix product by its place in the batch. MKL reads the
# variable at the first product; a value that is already set stays.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    from spikeproof.attacks.answers.noise import GaussianNoiseSearch, NoiseSearch, SaltAndPepperSearch
    from spikeproof.attacks.answers.queries import PatchSearch, SquareSearch
    from spikeproof.attacks.events.eventsteps import Retiming, SpikeCompatible
    from spikeproof.attacks.events.fewest import SDA, SpikeFool
    from spikeproof.attacks.events.spikesearch import SpikeSearch, SpikeWalkSearch
    from spikeproof.attacks.gradient.estimates import NES, SPSA
    from spikeproof.attacks.gradient.iterated import (
        APGD,
        APGDDLR,
        APGDT,
        EOTFGSM,
        MIM,
        NIFGSM,
        RFGSM,
        SAPGD,
        TargetedPGD,
    )
    from spikeproof.attacks.gradient.plain import BIM, EOTPGD, FGSM, PGD, Through
    from spikeproof.attacks.made_of.composite import RateTwin, WidthSweep, WorstOf
    from spikeproof.attacks.made_of.transfer import Transfer
    from spikeproof.attacks.nearest.decision import Boundary, HopSkipJump
    from spikeproof.attacks.nearest.linearised import FAB, FABT, DeepFool
    from spikeproof.attacks.nearest.penalised import EAD, CarliniWagner
    from spikeproof.attacks.nearest.sparse import JSMA, OnePixel, SparseFool
    from spikeproof.catalogue.saved import load, save
    from spikeproof.coded import CodedImages
    from spikeproof.datasets import (
        CIFAR10,
        CIFAR10DVS,
        CIFAR100,
        MNIST,
        NMNIST,
        SHD,
        SSC,
        Digits,
        DVS128Gesture,
        FashionMNIST,
        Randman,
        SpokenDigits,
        YinYang,
    )
    from spikeproof.decoders import (
        ConfidenceExit,
        Count,
        Earliest,
        FirstSpike,
        FirstSpikeExit,
        FixedExit,
        Geometric,
        MarginExit,
        MeanPotential,
        MembraneTies,
        Stacked,
        Voting,
        Weighted,
        decide,
    )
    from spikeproof.encoders import (
        Bernoulli,
        Burst,
        Delta,
        Direct,
        EarlyBurst,
        Events,
        FewSpikes,
        Fused,
        KernelTimes,
        LateBurst,
        Latency,
        LevelCrossing,
        LogLatency,
        LowPass,
        Phase,
        Population,
        QuantisedDirect,
        RankOrder,
        RelativeLatency,
        Reversed,
        SpikeGated,
        SpikeTimes,
        StraightThrough,
        ThetaPhase,
        TimeShift,
        WholeSpikeTimes,
    )
    from spikeproof.errors import DamagedError, InputError, SpikeproofError
    from spikeproof.evaluation.distances import evaluate_distances
    from spikeproof.evaluation.through import rate_twin, strongest
    from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean, evaluate_sweep
    from spikeproof.gradients import ANTLR, ASSG, BPTR, HART, PDSG, RGA, TSSL, SurrogateGradient, Truncated
    from spikeproof.gradients.event_driven import EventDriven
    from spikeproof.interop.calls import AsFoolbox, AsTorchattacks
    from spikeproof.interop.peers import Foolbox, Torchattacks
    from spikeproof.keys import Key
    from spikeproof.learning.augmentation import AugmentedBPTT
    from spikeproof.learning.backprop import BPTT
    from spikeproof.learning.conversion import (
        QCFS,
        Cao,
        DataBased,
        ModelBased,
        RateNormLayer,
        Rueckauer,
        SpikeNorm,
    )
    from spikeproof.learning.online import FPTT
    from spikeproof.learning.spike_rules import ANTLRBP, STBP, TSSLBP, EventDrivenBP
    from spikeproof.learning.time_coded import TimeCoded
    from spikeproof.networks.architecture import MLP, ConvNet
    from spikeproof.networks.classifier import Classifier, ModelSpec, Normalise
    from spikeproof.networks.deep import VGG9, VGG11, VGG16, ResNet18, ResNet19, SEWResNet
    from spikeproof.networks.recurrent import GRU, LSNN, LSTM
    from spikeproof.networks.substitute import probed, substitute
    from spikeproof.networks.timed import TimedMLP
    from spikeproof.neurons import (
        AHP,
        ALIF,
        DLIF,
        FS,
        IF,
        LIF,
        PLIF,
        PSP,
        SNU,
        SRM,
        BySubtraction,
        CuBaLIF,
        Mixture,
        Plastic,
        PrimedIF,
        Recurrent,
        ReLU,
        Renewal,
        Softplus,
        ToZero,
    )
    from spikeproof.neurons.spiketimes import S4NN, T2FSNN, FastAndDeep, Mostafa
    from spikeproof.probes import Deletion, Jitter, Reversal, Shuffle, SynchronousShuffle
    from spikeproof.surrogates import (
        ATan,
        Exponential,
        FastSigmoid,
        Gaussian,
        Rectangle,
        Sigmoid,
        StraightThroughSpike,
        Triangle,
    )
    from spikeproof.threats import (
        L0,
        L1,
        L2,
        Additions,
        Flips,
        Linf,
        Region,
        Removals,
        Shifts,
        SquarePatch,
        parse_epsilon,
    )

_HOMES = {
    "errors": ("DamagedError", "InputError", "SpikeproofError"),
    "keys": ("Key",),
    "datasets": (
        "YinYang",
        "CIFAR10",
        "CIFAR100",
        "MNIST",
        "Digits",
        "FashionMNIST",
        "Randman",
        "SpokenDigits",
        "CIFAR10DVS",
        "NMNIST",
        "SHD",
        "SSC",
        "DVS128Gesture",
    ),
    "encoders": (
        *("KernelTimes", "SpikeTimes", "WholeSpikeTimes"),
        *("Bernoulli", "Burst", "Delta", "Direct", "EarlyBurst", "Events", "FewSpikes", "Fused"),
        *("LateBurst", "Latency", "LevelCrossing", "LogLatency", "LowPass", "Phase"),
        *("Population", "QuantisedDirect", "RankOrder", "RelativeLatency", "Reversed"),
        *("SpikeGated", "StraightThrough", "ThetaPhase", "TimeShift"),
    ),
    "probes": ("Deletion", "Jitter", "Reversal", "Shuffle", "SynchronousShuffle"),
    "surrogates": (
        *("ATan", "Exponential", "FastSigmoid", "Gaussian", "Rectangle", "Sigmoid", "StraightThroughSpike"),
        "Triangle",
    ),
    "gradients.event_driven": ("EventDriven",),
    "gradients": ("ANTLR", "ASSG", "BPTR", "HART", "PDSG", "RGA", "TSSL", "SurrogateGradient", "Truncated"),
    "neurons": (
        *("AHP", "ALIF", "DLIF", "FS", "IF", "LIF", "PLIF", "PSP", "SNU", "SRM", "BySubtraction", "CuBaLIF"),
        *("Mixture", "Plastic", "PrimedIF", "ReLU", "Recurrent", "Renewal", "Softplus", "ToZero"),
    ),
    "neurons.spiketimes": ("S4NN", "T2FSNN", "FastAndDeep", "Mostafa"),
    "networks.timed": ("TimedMLP",),
    "networks": ("MLP", "Classifier", "ConvNet", "ModelSpec", "Normalise", "probed", "substitute"),
    "networks.deep": ("VGG9", "VGG11", "VGG16", "ResNet18", "ResNet19", "SEWResNet"),
    "networks.recurrent": ("GRU", "LSNN", "LSTM"),
    "decoders": (
        "ConfidenceExit",
        "Count",
        "Earliest",
        "FirstSpike",
        "FirstSpikeExit",
        "FixedExit",
        "Geometric",
        "MarginExit",
        "MeanPotential",
        "MembraneTies",
        "Stacked",
        "Voting",
        "Weighted",
        "decide",
    ),
    "learning.augmentation": ("AugmentedBPTT",),
    "learning.backprop": ("BPTT",),
    "learning.online": ("FPTT",),
    "learning.spike_rules": ("ANTLRBP", "STBP", "TSSLBP", "EventDrivenBP"),
    "learning.conversion": (
        *("QCFS", "Cao", "DataBased", "ModelBased", "RateNormLayer", "Rueckauer", "SpikeNorm"),
    ),
    "learning.time_coded": ("TimeCoded",),
    "catalogue.saved": ("load", "save"),
    "threats": (
        "L0",
        "L1",
        "L2",
        "Additions",
        "Flips",
        "Linf",
        "Region",
        "Removals",
        "Shifts",
        "SquarePatch",
        "parse_epsilon",
    ),
    "attacks.made_of.composite": ("RateTwin", "WidthSweep", "WorstOf"),
    "attacks.gradient.estimates": ("NES", "SPSA"),
    "attacks.events.eventsteps": ("Retiming", "SpikeCompatible"),
    "attacks.events.fewest": ("SDA", "SpikeFool"),
    "attacks.events.spikesearch": ("SpikeSearch", "SpikeWalkSearch"),
    "coded": ("CodedImages",),
    "evaluation.through": ("rate_twin", "strongest"),
    "attacks.gradient.iterated": (
        *("APGD", "APGDDLR", "APGDT", "EOTFGSM", "MIM", "NIFGSM", "RFGSM", "SAPGD", "TargetedPGD"),
    ),
    "attacks.nearest.decision": ("Boundary", "HopSkipJump"),
    "attacks.nearest.linearised": ("FAB", "FABT", "DeepFool"),
    "attacks.answers.noise": ("NoiseSearch", "GaussianNoiseSearch", "SaltAndPepperSearch"),
    "attacks.nearest.penalised": ("EAD", "CarliniWagner"),
    "attacks.nearest.sparse": ("JSMA", "OnePixel", "SparseFool"),
    "attacks.gradient.plain": ("BIM", "EOTPGD", "FGSM", "PGD", "Through"),
    "attacks.answers.queries": ("PatchSearch", "SquareSearch"),
    "evaluation.verdicts": ("evaluate_attack", "evaluate_clean", "evaluate_sweep"),
    "attacks.made_of.transfer": ("Transfer",),
    "evaluation.distances": ("evaluate_distances",),
    "interop.calls": ("AsFoolbox", "AsTorchattacks"),
    "interop.peers": ("Foolbox", "Torchattacks"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'spikeproof' has no attribute {name!r}")
    return getattr(import_module(f"spikeproof.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
