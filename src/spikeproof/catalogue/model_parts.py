"""The parts of a model that a study may name, written out in one table per kind.

A member takes one row in its table and one line that imports its class `as` itself. That spelling makes the
class public, and `spikeproof` reads from the line which module defines it.
"""

from __future__ import annotations

from spikeproof.decoders.exits import ConfidenceExit as ConfidenceExit
from spikeproof.decoders.exits import FirstSpikeExit as FirstSpikeExit
from spikeproof.decoders.exits import FixedExit as FixedExit
from spikeproof.decoders.exits import MarginExit as MarginExit
from spikeproof.decoders.groups import MembraneTies as MembraneTies
from spikeproof.decoders.groups import Stacked as Stacked
from spikeproof.decoders.groups import Voting as Voting
from spikeproof.decoders.readouts import Count as Count
from spikeproof.decoders.readouts import Earliest as Earliest
from spikeproof.decoders.readouts import FirstSpike as FirstSpike
from spikeproof.decoders.readouts import MeanCurrent as MeanCurrent
from spikeproof.decoders.readouts import MeanPotential as MeanPotential
from spikeproof.decoders.weighted import Geometric as Geometric
from spikeproof.decoders.weighted import Weighted as Weighted
from spikeproof.defences.adversarial import TRADES as TRADES
from spikeproof.defences.adversarial import Adversarial as Adversarial
from spikeproof.defences.adversarial import FastAdversarial as FastAdversarial
from spikeproof.defences.intervals import IBPTraining as IBPTraining
from spikeproof.defences.noisy import NoiseTraining as NoiseTraining
from spikeproof.defences.noisy import SmoothAdversarial as SmoothAdversarial
from spikeproof.defences.periods import HIRE as HIRE
from spikeproof.defences.potentials_apart import StableSNN as StableSNN
from spikeproof.defences.potentials_apart import ThresholdGuarding as ThresholdGuarding
from spikeproof.defences.retraction import SNNRAT as SNNRAT
from spikeproof.defences.retraction import Retraction as Retraction
from spikeproof.defences.robust_conversion import RobustConversion as RobustConversion
from spikeproof.defences.sparse_gradients import SparseGradients as SparseGradients
from spikeproof.encoders.amplitudes import Burst as Burst
from spikeproof.encoders.amplitudes import FewSpikes as FewSpikes
from spikeproof.encoders.amplitudes import KernelCode as KernelCode
from spikeproof.encoders.amplitudes import Phase as Phase
from spikeproof.encoders.codes import BackwardRule
from spikeproof.encoders.codes import SpikeGated as SpikeGated
from spikeproof.encoders.codes import StraightThrough as StraightThrough
from spikeproof.encoders.codes import TimeShift as TimeShift
from spikeproof.encoders.composed import Fused as Fused
from spikeproof.encoders.composed import Population as Population
from spikeproof.encoders.composed import Reversed as Reversed
from spikeproof.encoders.currents import Direct as Direct
from spikeproof.encoders.currents import LowPass as LowPass
from spikeproof.encoders.currents import QuantisedDirect as QuantisedDirect
from spikeproof.encoders.rate_codes import Bernoulli as Bernoulli
from spikeproof.encoders.rate_codes import ThetaPhase as ThetaPhase
from spikeproof.encoders.signals import Delta as Delta
from spikeproof.encoders.signals import Events as Events
from spikeproof.encoders.signals import LevelCrossing as LevelCrossing
from spikeproof.encoders.single_spikes import KernelTimes as KernelTimes
from spikeproof.encoders.single_spikes import SpikeTimes as SpikeTimes
from spikeproof.encoders.single_spikes import WholeSpikeTimes as WholeSpikeTimes
from spikeproof.encoders.times import EarlyBurst as EarlyBurst
from spikeproof.encoders.times import LateBurst as LateBurst
from spikeproof.encoders.times import Latency as Latency
from spikeproof.encoders.times import LogLatency as LogLatency
from spikeproof.encoders.times import RankOrder as RankOrder
from spikeproof.encoders.times import RelativeLatency as RelativeLatency
from spikeproof.gradients.adaptive_surrogates import ASSG as ASSG
from spikeproof.gradients.adaptive_surrogates import PDSG as PDSG
from spikeproof.gradients.adaptive_surrogates import OnePassASSG as OnePassASSG
from spikeproof.gradients.event_driven import EventDriven as EventDriven
from spikeproof.gradients.rate_based import BPTR as BPTR
from spikeproof.gradients.rate_based import HART as HART
from spikeproof.gradients.rate_based import RGA as RGA
from spikeproof.gradients.temporal import ANTLR as ANTLR
from spikeproof.gradients.temporal import TSSL as TSSL
from spikeproof.gradients.temporal import GradientRule
from spikeproof.gradients.temporal import SurrogateGradient as SurrogateGradient
from spikeproof.gradients.temporal import Truncated as Truncated
from spikeproof.learning.augmentation import AugmentedBPTT as AugmentedBPTT
from spikeproof.learning.backprop import BPTT as BPTT
from spikeproof.learning.checkpoints import AsSaved as AsSaved
from spikeproof.learning.from_ann.balancing import Cao as Cao
from spikeproof.learning.from_ann.balancing import DataBased as DataBased
from spikeproof.learning.from_ann.balancing import ModelBased as ModelBased
from spikeproof.learning.from_ann.balancing import Rueckauer as Rueckauer
from spikeproof.learning.from_ann.balancing import SpikeNorm as SpikeNorm
from spikeproof.learning.from_ann.kernel_conversion import T2FSNNConversion as T2FSNNConversion
from spikeproof.learning.from_ann.learned_bounds import QCFS as QCFS
from spikeproof.learning.from_ann.learned_bounds import RateNormLayer as RateNormLayer
from spikeproof.learning.online import FPTT as FPTT
from spikeproof.learning.rule import Rule
from spikeproof.learning.spike_rules import ANTLRBP as ANTLRBP
from spikeproof.learning.spike_rules import STBP as STBP
from spikeproof.learning.spike_rules import TSSLBP as TSSLBP
from spikeproof.learning.spike_rules import EventDrivenBP as EventDrivenBP
from spikeproof.learning.time_coded import TimeCoded as TimeCoded
from spikeproof.losses import TET as TET
from spikeproof.losses import CountMSE as CountMSE
from spikeproof.losses import CrossEntropy as CrossEntropy
from spikeproof.losses import DeepSupervision as DeepSupervision
from spikeproof.losses import Loss
from spikeproof.losses import RelativeTargets as RelativeTargets
from spikeproof.losses import SpikeLatency as SpikeLatency
from spikeproof.losses import SpikeLatency2 as SpikeLatency2
from spikeproof.losses import SpikeLatency3 as SpikeLatency3
from spikeproof.losses import TimeMargin as TimeMargin
from spikeproof.networks.architecture import MLP as MLP
from spikeproof.networks.architecture import Architecture
from spikeproof.networks.architecture import ConvNet as ConvNet
from spikeproof.networks.deep import VGG9 as VGG9
from spikeproof.networks.deep import VGG11 as VGG11
from spikeproof.networks.deep import VGG16 as VGG16
from spikeproof.networks.deep import ResNet18 as ResNet18
from spikeproof.networks.deep import ResNet19 as ResNet19
from spikeproof.networks.deep import SEWResNet as SEWResNet
from spikeproof.networks.recurrent import GRU as GRU
from spikeproof.networks.recurrent import LSNN as LSNN
from spikeproof.networks.recurrent import LSTM as LSTM
from spikeproof.networks.timed import TimedMLP as TimedMLP
from spikeproof.neurons.adaptive import AHP as AHP
from spikeproof.neurons.adaptive import ALIF as ALIF
from spikeproof.neurons.analogue import ReLU as ReLU
from spikeproof.neurons.analogue import Softplus as Softplus
from spikeproof.neurons.combined import Mixture as Mixture
from spikeproof.neurons.combined import Plastic as Plastic
from spikeproof.neurons.combined import Recurrent as Recurrent
from spikeproof.neurons.few_spikes import FS as FS
from spikeproof.neurons.few_spikes import ConvertedT2FSNN as ConvertedT2FSNN
from spikeproof.neurons.integrate import IF as IF
from spikeproof.neurons.integrate import PrimedIF as PrimedIF
from spikeproof.neurons.kernels import SRM as SRM
from spikeproof.neurons.kernels import CuBaLIF as CuBaLIF
from spikeproof.neurons.kernels import Renewal as Renewal
from spikeproof.neurons.leaky import DLIF as DLIF
from spikeproof.neurons.leaky import LIF as LIF
from spikeproof.neurons.leaky import PLIF as PLIF
from spikeproof.neurons.leaky import SNU as SNU
from spikeproof.neurons.leaky import EvolutionaryLeak as EvolutionaryLeak
from spikeproof.neurons.parts.neuron import Neuron
from spikeproof.neurons.parts.resets import BySubtraction as BySubtraction
from spikeproof.neurons.parts.resets import Reset
from spikeproof.neurons.parts.resets import ToZero as ToZero
from spikeproof.neurons.spiketimes import S4NN as S4NN
from spikeproof.neurons.spiketimes import T2FSNN as T2FSNN
from spikeproof.neurons.spiketimes import FastAndDeep as FastAndDeep
from spikeproof.neurons.spiketimes import Mostafa as Mostafa
from spikeproof.protocols import Decoder, Encoder
from spikeproof.specs import Catalogue
from spikeproof.surrogates import ATan as ATan
from spikeproof.surrogates import Exponential as Exponential
from spikeproof.surrogates import FastSigmoid as FastSigmoid
from spikeproof.surrogates import Gaussian as Gaussian
from spikeproof.surrogates import Rectangle as Rectangle
from spikeproof.surrogates import Sigmoid as Sigmoid
from spikeproof.surrogates import StraightThroughSpike as StraightThroughSpike
from spikeproof.surrogates import Surrogate
from spikeproof.surrogates import Triangle as Triangle

MODEL_PARTS: Catalogue = {
    Encoder: {
        "direct": Direct,
        "quantised-direct": QuantisedDirect,
        "bernoulli": Bernoulli,
        "latency": Latency,
        "early-burst": EarlyBurst,
        "late-burst": LateBurst,
        "log-latency": LogLatency,
        "relative-latency": RelativeLatency,
        "rank-order": RankOrder,
        "theta-phase": ThetaPhase,
        "phase": Phase,
        "few-spikes": FewSpikes,
        "kernel-code": KernelCode,
        "burst": Burst,
        "low-pass": LowPass,
        "reversed": Reversed,
        "population": Population,
        "fused": Fused,
        "events": Events,
        "delta": Delta,
        "level-crossing": LevelCrossing,
        "spike-times": SpikeTimes,
        "whole-spike-times": WholeSpikeTimes,
        "kernel-times": KernelTimes,
    },
    BackwardRule: {
        "straight-through": StraightThrough,
        "spike-gated": SpikeGated,
        "time-shift": TimeShift,
    },
    Surrogate: {
        "sigmoid": Sigmoid,
        "arctangent": ATan,
        "triangle": Triangle,
        "rectangle": Rectangle,
        "gaussian": Gaussian,
        "fast-sigmoid": FastSigmoid,
        "exponential": Exponential,
        "straight-through": StraightThroughSpike,
    },
    Neuron: {
        "lif": LIF,
        "if": IF,
        "primed-if": PrimedIF,
        "plif": PLIF,
        "alif": ALIF,
        "ahp": AHP,
        "cuba-lif": CuBaLIF,
        "srm": SRM,
        "dlif": DLIF,
        "evolutionary-leak": EvolutionaryLeak,
        "snu": SNU,
        "few-spikes": FS,
        "recurrent": Recurrent,
        "mixture": Mixture,
        "plastic": Plastic,
        "relu": ReLU,
        "softplus": Softplus,
        "fast-and-deep": FastAndDeep,
        "mostafa": Mostafa,
        "s4nn": S4NN,
        "t2fsnn": T2FSNN,
        "t2fsnn-converted": ConvertedT2FSNN,
        "renewal": Renewal,
    },
    Reset: {
        "to-zero": ToZero,
        "by-subtraction": BySubtraction,
    },
    Architecture: {
        "mlp": MLP,
        "convnet": ConvNet,
        "vgg9": VGG9,
        "vgg11": VGG11,
        "vgg16": VGG16,
        "resnet18": ResNet18,
        "resnet19": ResNet19,
        "sew-resnet": SEWResNet,
        "timed-mlp": TimedMLP,
        "lsnn": LSNN,
        "gru": GRU,
        "lstm": LSTM,
    },
    Decoder: {
        "count": Count,
        "mean-current": MeanCurrent,
        "mean-potential": MeanPotential,
        "first-spike": FirstSpike,
        "earliest": Earliest,
        "weighted": Weighted,
        "geometric": Geometric,
        "membrane-ties": MembraneTies,
        "voting": Voting,
        "stacked": Stacked,
        "fixed-exit": FixedExit,
        "confidence-exit": ConfidenceExit,
        "margin-exit": MarginExit,
        "first-spike-exit": FirstSpikeExit,
    },
    Loss: {
        "cross-entropy": CrossEntropy,
        "count-mse": CountMSE,
        "tet": TET,
        "deep-supervision": DeepSupervision,
        "spike-latency": SpikeLatency,
        "spike-latency-2": SpikeLatency2,
        "spike-latency-3": SpikeLatency3,
        "relative-targets": RelativeTargets,
        "time-margin": TimeMargin,
    },
    GradientRule: {
        "surrogate": SurrogateGradient,
        "tssl": TSSL,
        "antlr": ANTLR,
        "event-driven": EventDriven,
        "truncated": Truncated,
        "bptr": BPTR,
        "rga": RGA,
        "hart": HART,
        "pdsg": PDSG,
        "assg": ASSG,
        "assg-one-pass": OnePassASSG,
    },
    Rule: {
        "bptt": BPTT,
        "time-coded": TimeCoded,
        "bptt-augmented": AugmentedBPTT,
        "stbp": STBP,
        "tssl-bp": TSSLBP,
        "antlr": ANTLRBP,
        "event-driven-bp": EventDrivenBP,
        "fptt": FPTT,
        "cao": Cao,
        "diehl-model": ModelBased,
        "diehl-data": DataBased,
        "rueckauer": Rueckauer,
        "spike-norm": SpikeNorm,
        "rate-norm": RateNormLayer,
        "qcfs": QCFS,
        "t2fsnn-conversion": T2FSNNConversion,
        "as-saved": AsSaved,
        "adversarial": Adversarial,
        "fast-adversarial": FastAdversarial,
        "trades": TRADES,
        "noise-training": NoiseTraining,
        "retraction": Retraction,
        "snn-rat": SNNRAT,
        "sparse-gradients": SparseGradients,
        "hire": HIRE,
        "stable-snn": StableSNN,
        "threshold-guarding": ThresholdGuarding,
        "ibp-training": IBPTraining,
        "robust-conversion": RobustConversion,
        "smooth-adversarial": SmoothAdversarial,
    },
}
"""Kind -> name -> class."""
