"""spikeproof: how robust is a spiking neural network, and what does spike timing have to do with it?

The public names, in the order of the pipeline. Each is imported when it is first used, so that `import
spikeproof` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spikeproof.architectures import VGG9, VGG11, VGG16, ResNet18, ResNet19, SEWResNet
    from spikeproof.attacks.composite import RateTwin, WidthSweep, WorstOf
    from spikeproof.attacks.decision import Boundary, HopSkipJump
    from spikeproof.attacks.estimates import NES, SPSA
    from spikeproof.attacks.eventsteps import Retiming, SpikeCompatible
    from spikeproof.attacks.fewest import SDA, SpikeFool
    from spikeproof.attacks.iterated import (
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
    from spikeproof.attacks.linearised import FAB, FABT, DeepFool
    from spikeproof.attacks.noise import GaussianNoiseSearch, SaltAndPepperSearch
    from spikeproof.attacks.penalised import EAD, CarliniWagner
    from spikeproof.attacks.recipes import (
        BIM,
        EOTPGD,
        FGSM,
        PGD,
        NoiseSearch,
        PatchSearch,
        SquareSearch,
        Through,
    )
    from spikeproof.attacks.sparse import JSMA, OnePixel, SparseFool
    from spikeproof.attacks.spikes import SpikeSearch, SpikeWalkSearch
    from spikeproof.attacks.transfer import Transfer
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
    from spikeproof.evaluation import evaluate_attack, evaluate_clean, evaluate_sweep
    from spikeproof.event_driven import EventDriven
    from spikeproof.gradients import ANTLR, ASSG, BPTR, HART, PDSG, RGA, TSSL, SurrogateGradient, Truncated
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
    from spikeproof.learning.through import ANTLRBP, STBP, TSSLBP, EventDrivenBP
    from spikeproof.learning.timed import TimeCoded
    from spikeproof.models import load, save
    from spikeproof.nearest import evaluate_distances
    from spikeproof.network import MLP, Classifier, ConvNet, ModelSpec, Normalise, probed, substitute
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
    from spikeproof.probes import Deletion, Jitter, Reversal, Shuffle, SynchronousShuffle
    from spikeproof.recurrent import GRU, LSNN, LSTM
    from spikeproof.sources import rate_twin, strongest
    from spikeproof.spiketimes import S4NN, T2FSNN, FastAndDeep, Mostafa
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
    from spikeproof.timed import TimedMLP

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
    "event_driven": ("EventDriven",),
    "gradients": ("ANTLR", "ASSG", "BPTR", "HART", "PDSG", "RGA", "TSSL", "SurrogateGradient", "Truncated"),
    "neurons": (
        *("AHP", "ALIF", "DLIF", "FS", "IF", "LIF", "PLIF", "PSP", "SNU", "SRM", "BySubtraction", "CuBaLIF"),
        *("Mixture", "Plastic", "PrimedIF", "ReLU", "Recurrent", "Renewal", "Softplus", "ToZero"),
    ),
    "spiketimes": ("S4NN", "T2FSNN", "FastAndDeep", "Mostafa"),
    "timed": ("TimedMLP",),
    "network": ("MLP", "Classifier", "ConvNet", "ModelSpec", "Normalise", "probed", "substitute"),
    "architectures": ("VGG9", "VGG11", "VGG16", "ResNet18", "ResNet19", "SEWResNet"),
    "recurrent": ("GRU", "LSNN", "LSTM"),
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
    "learning.through": ("ANTLRBP", "STBP", "TSSLBP", "EventDrivenBP"),
    "learning.conversion": (
        *("QCFS", "Cao", "DataBased", "ModelBased", "RateNormLayer", "Rueckauer", "SpikeNorm"),
    ),
    "learning.timed": ("TimeCoded",),
    "models": ("load", "save"),
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
    "attacks.composite": ("RateTwin", "WidthSweep", "WorstOf"),
    "attacks.estimates": ("NES", "SPSA"),
    "attacks.eventsteps": ("Retiming", "SpikeCompatible"),
    "attacks.fewest": ("SDA", "SpikeFool"),
    "attacks.spikes": ("SpikeSearch", "SpikeWalkSearch"),
    "coded": ("CodedImages",),
    "sources": ("rate_twin", "strongest"),
    "attacks.iterated": (
        *("APGD", "APGDDLR", "APGDT", "EOTFGSM", "MIM", "NIFGSM", "RFGSM", "SAPGD", "TargetedPGD"),
    ),
    "attacks.decision": ("Boundary", "HopSkipJump"),
    "attacks.linearised": ("FAB", "FABT", "DeepFool"),
    "attacks.noise": ("GaussianNoiseSearch", "SaltAndPepperSearch"),
    "attacks.penalised": ("EAD", "CarliniWagner"),
    "attacks.sparse": ("JSMA", "OnePixel", "SparseFool"),
    "attacks.recipes": (
        "BIM",
        "EOTPGD",
        "FGSM",
        "PGD",
        "NoiseSearch",
        "PatchSearch",
        "SquareSearch",
        "Through",
    ),
    "evaluation": ("evaluate_attack", "evaluate_clean", "evaluate_sweep"),
    "attacks.transfer": ("Transfer",),
    "nearest": ("evaluate_distances",),
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
