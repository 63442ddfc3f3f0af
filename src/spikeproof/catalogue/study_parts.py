"""The parts that a study may name besides the parts of a model, written out in one table per kind.

A member takes one row in its table and one line that imports its class `as` itself. That spelling makes the
class public, and `spikeproof` reads from the line which module defines it. Attacks of other libraries keep
the names that those libraries give them; because some of these names are also ours, they have tables of
their own.
"""

from __future__ import annotations

from spikeproof.analysis.spike_analysis import Analysis
from spikeproof.analysis.spike_analysis import SpikeAnalysis as SpikeAnalysis
from spikeproof.analysis.trains.dissimilarity import TrainDistance
from spikeproof.analysis.trains.dissimilarity import VanRossum as VanRossum
from spikeproof.analysis.trains.dissimilarity import VictorPurpura as VictorPurpura
from spikeproof.analysis.trains.profiles import ISIDistance as ISIDistance
from spikeproof.analysis.trains.profiles import SPIKEDistance as SPIKEDistance
from spikeproof.analysis.trains.profiles import SPIKESynchronisation as SPIKESynchronisation
from spikeproof.attacks.answers.foundlevels import LevelSearch as LevelSearch
from spikeproof.attacks.answers.noise import GaussianNoiseSearch as GaussianNoiseSearch
from spikeproof.attacks.answers.noise import NoiseSearch as NoiseSearch
from spikeproof.attacks.answers.noise import SaltAndPepperSearch as SaltAndPepperSearch
from spikeproof.attacks.answers.queries import PatchSearch as PatchSearch
from spikeproof.attacks.answers.queries import RectangleSearch as RectangleSearch
from spikeproof.attacks.answers.queries import SquareSearch as SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch as EncoderAwareSearch
from spikeproof.attacks.events.eventsteps import Retiming as Retiming
from spikeproof.attacks.events.eventsteps import SpikeCompatible as SpikeCompatible
from spikeproof.attacks.events.fewest import SDA as SDA
from spikeproof.attacks.events.fewest import SpikeFool as SpikeFool
from spikeproof.attacks.events.spikesearch import SpikeSearch as SpikeSearch
from spikeproof.attacks.events.spikesearch import SpikeWalkSearch as SpikeWalkSearch
from spikeproof.attacks.gradient.assembled import Assembled as Assembled
from spikeproof.attacks.gradient.estimates import NES as NES
from spikeproof.attacks.gradient.estimates import SPSA as SPSA
from spikeproof.attacks.gradient.estimates import FiniteDifferences as FiniteDifferences
from spikeproof.attacks.gradient.estimates import GaussianEstimate as GaussianEstimate
from spikeproof.attacks.gradient.estimates import RademacherEstimate as RademacherEstimate
from spikeproof.attacks.gradient.iterated import APGD as APGD
from spikeproof.attacks.gradient.iterated import APGDDLR as APGDDLR
from spikeproof.attacks.gradient.iterated import APGDL1 as APGDL1
from spikeproof.attacks.gradient.iterated import APGDT as APGDT
from spikeproof.attacks.gradient.iterated import EOTFGSM as EOTFGSM
from spikeproof.attacks.gradient.iterated import MIM as MIM
from spikeproof.attacks.gradient.iterated import NIFGSM as NIFGSM
from spikeproof.attacks.gradient.iterated import RFGSM as RFGSM
from spikeproof.attacks.gradient.iterated import SAPGD as SAPGD
from spikeproof.attacks.gradient.iterated import TargetedPGD as TargetedPGD
from spikeproof.attacks.gradient.plain import BIM as BIM
from spikeproof.attacks.gradient.plain import EOTPGD as EOTPGD
from spikeproof.attacks.gradient.plain import FGSM as FGSM
from spikeproof.attacks.gradient.plain import PGD as PGD
from spikeproof.attacks.gradient.plain import Through as Through
from spikeproof.attacks.gradient.universal import Universal as Universal
from spikeproof.attacks.made_of.composite import Chosen as Chosen
from spikeproof.attacks.made_of.composite import RateTwin as RateTwin
from spikeproof.attacks.made_of.composite import WidthSweep as WidthSweep
from spikeproof.attacks.made_of.composite import WorstOf as WorstOf
from spikeproof.attacks.made_of.stand_in import StandIn as StandIn
from spikeproof.attacks.made_of.stored_images import StoredImages as StoredImages
from spikeproof.attacks.made_of.transfer import Others
from spikeproof.attacks.made_of.transfer import Transfer as Transfer
from spikeproof.attacks.nearest.decision import Boundary as Boundary
from spikeproof.attacks.nearest.decision import HopSkipJump as HopSkipJump
from spikeproof.attacks.nearest.linearised import FAB as FAB
from spikeproof.attacks.nearest.linearised import FABT as FABT
from spikeproof.attacks.nearest.linearised import DeepFool as DeepFool
from spikeproof.attacks.nearest.penalised import EAD as EAD
from spikeproof.attacks.nearest.penalised import CarliniWagner as CarliniWagner
from spikeproof.attacks.nearest.sparse import JSMA as JSMA
from spikeproof.attacks.nearest.sparse import OnePixel as OnePixel
from spikeproof.attacks.nearest.sparse import SigmaZero as SigmaZero
from spikeproof.attacks.nearest.sparse import SparseFool as SparseFool
from spikeproof.attacks.parts.objectives import AtExit as AtExit
from spikeproof.attacks.parts.objectives import FirstSpikeMargin as FirstSpikeMargin
from spikeproof.attacks.parts.objectives import PotentialMargin as PotentialMargin
from spikeproof.attacks.parts.objectives import PrefixMean as PrefixMean
from spikeproof.attacks.parts.objectives import TieBrokenMargin as TieBrokenMargin
from spikeproof.attacks.parts.oracles import Exact as Exact
from spikeproof.attacks.parts.oracles import Expectation as Expectation
from spikeproof.attacks.parts.oracles import Oracle
from spikeproof.attacks.parts.schedules import AdaptiveSparsity as AdaptiveSparsity
from spikeproof.attacks.parts.schedules import Constant as Constant
from spikeproof.attacks.parts.schedules import Cosine as Cosine
from spikeproof.attacks.parts.schedules import Halving as Halving
from spikeproof.attacks.parts.schedules import Oscillation as Oscillation
from spikeproof.attacks.parts.schedules import Schedule
from spikeproof.attacks.parts.steps import Adam as Adam
from spikeproof.attacks.parts.steps import FrankWolfe as FrankWolfe
from spikeproof.attacks.parts.steps import HeavyBall as HeavyBall
from spikeproof.attacks.parts.steps import Momentum as Momentum
from spikeproof.attacks.parts.steps import Nesterov as Nesterov
from spikeproof.attacks.parts.steps import StableAdaptive as StableAdaptive
from spikeproof.attacks.parts.steps import Steepest as Steepest
from spikeproof.attacks.parts.steps import Step
from spikeproof.attacks.parts.steps import TopShare as TopShare
from spikeproof.attacks.parts.targets import EveryOther as EveryOther
from spikeproof.attacks.parts.targets import Given as Given
from spikeproof.attacks.parts.targets import LeastLikely as LeastLikely
from spikeproof.attacks.parts.targets import Targets
from spikeproof.attacks.physical.beamsearch import AdvLB as AdvLB
from spikeproof.attacks.physical.onepatch import UniversalPatch as UniversalPatch
from spikeproof.attacks.physical.stickersearch import RP2 as RP2
from spikeproof.attacks.physical.stickersearch import AdvHat as AdvHat
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.others import EveryOtherModel as EveryOtherModel
from spikeproof.catalogue.others import OtherSeeds as OtherSeeds
from spikeproof.catalogue.others import Saved as Saved
from spikeproof.catalogue.others import ThoseWith as ThoseWith
from spikeproof.coded import CodedImages as CodedImages
from spikeproof.corruptions.blurs import DefocusBlur as DefocusBlur
from spikeproof.corruptions.blurs import MotionBlur as MotionBlur
from spikeproof.corruptions.corruption import Corruption
from spikeproof.corruptions.eventdrops import AreaDrops as AreaDrops
from spikeproof.corruptions.eventdrops import EventDrops as EventDrops
from spikeproof.corruptions.eventdrops import PolarityDrops as PolarityDrops
from spikeproof.corruptions.eventdrops import TimeDrops as TimeDrops
from spikeproof.corruptions.eventnoise import BackgroundActivity as BackgroundActivity
from spikeproof.corruptions.eventnoise import DeadPixels as DeadPixels
from spikeproof.corruptions.eventnoise import HotPixels as HotPixels
from spikeproof.corruptions.eventnoise import PolarityFlips as PolarityFlips
from spikeproof.corruptions.eventtimes import ClockDrift as ClockDrift
from spikeproof.corruptions.eventtimes import TimestampJitter as TimestampJitter
from spikeproof.corruptions.eventtimes import TimeWarp as TimeWarp
from spikeproof.corruptions.geometry import Elastic as Elastic
from spikeproof.corruptions.geometry import Occlusion as Occlusion
from spikeproof.corruptions.geometry import Rotation as Rotation
from spikeproof.corruptions.geometry import Scaling as Scaling
from spikeproof.corruptions.geometry import Translation as Translation
from spikeproof.corruptions.light import Brightness as Brightness
from spikeproof.corruptions.light import Contrast as Contrast
from spikeproof.corruptions.light import Fog as Fog
from spikeproof.corruptions.noises import GaussianCorruption as GaussianCorruption
from spikeproof.corruptions.noises import ImpulseNoise as ImpulseNoise
from spikeproof.corruptions.noises import ShotNoise as ShotNoise
from spikeproof.corruptions.noises import UniformCorruption as UniformCorruption
from spikeproof.corruptions.resolution import JPEG as JPEG
from spikeproof.corruptions.resolution import Pixelation as Pixelation
from spikeproof.datasets.audio import SpokenDigits as SpokenDigits
from spikeproof.datasets.cameras import CIFAR10DVS as CIFAR10DVS
from spikeproof.datasets.cameras import NMNIST as NMNIST
from spikeproof.datasets.cameras import DVS128Gesture as DVS128Gesture
from spikeproof.datasets.cifar import CIFAR10 as CIFAR10
from spikeproof.datasets.cifar import CIFAR100 as CIFAR100
from spikeproof.datasets.cochlea import SHD as SHD
from spikeproof.datasets.cochlea import SSC as SSC
from spikeproof.datasets.generated.enlarged import Enlarged as Enlarged
from spikeproof.datasets.generated.synthetic import Randman as Randman
from spikeproof.datasets.generated.yinyang import YinYang as YinYang
from spikeproof.datasets.images import MNIST as MNIST
from spikeproof.datasets.images import Digits as Digits
from spikeproof.datasets.images import FashionMNIST as FashionMNIST
from spikeproof.datasets.owned.arrays import ImageArrays as ImageArrays
from spikeproof.datasets.owned.eventfolder import EventFolder as EventFolder
from spikeproof.datasets.owned.huggingface import HuggingFaceImages as HuggingFaceImages
from spikeproof.datasets.owned.imagefolder import ImageFolder as ImageFolder
from spikeproof.datasets.owned.tonicsets import TonicEvents as TonicEvents
from spikeproof.datasets.parts import ClassProportional as ClassProportional
from spikeproof.datasets.parts import DatasetSpec, Sample
from spikeproof.datasets.parts import First as First
from spikeproof.evaluation.certificates import IBP as IBP
from spikeproof.evaluation.certificates import BernoulliSmoothing as BernoulliSmoothing
from spikeproof.evaluation.certificates import Bins as Bins
from spikeproof.evaluation.certificates import Certificate
from spikeproof.evaluation.certificates import GaussianSmoothing as GaussianSmoothing
from spikeproof.evaluation.certificates import LinearRelaxation as LinearRelaxation
from spikeproof.evaluation.suites import Suite as Suite
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS, InFoolbox, InTorchattacks
from spikeproof.interop.peers import Foolbox as Foolbox
from spikeproof.interop.peers import Torchattacks as Torchattacks
from spikeproof.losses import DLR as DLR
from spikeproof.losses import KL as KL
from spikeproof.losses import LogitCrossEntropy as LogitCrossEntropy
from spikeproof.losses import Margin as Margin
from spikeproof.losses import Objective
from spikeproof.losses import Rescaled as Rescaled
from spikeproof.poisoning.poisoned import Poisoned as Poisoned
from spikeproof.poisoning.triggers import BadNets as BadNets
from spikeproof.poisoning.triggers import Refool as Refool
from spikeproof.poisoning.triggers import Trigger
from spikeproof.probes import Deletion as Deletion
from spikeproof.probes import Jitter as Jitter
from spikeproof.probes import Probe
from spikeproof.probes import Reversal as Reversal
from spikeproof.probes import Shuffle as Shuffle
from spikeproof.probes import SynchronousShuffle as SynchronousShuffle
from spikeproof.protocols import Threat
from spikeproof.specs import Catalogue
from spikeproof.threats.balls import L1 as L1
from spikeproof.threats.balls import L2 as L2
from spikeproof.threats.balls import Linf as Linf
from spikeproof.threats.physical.lasers import LaserBeam as LaserBeam
from spikeproof.threats.physical.patches import MovablePatch as MovablePatch
from spikeproof.threats.physical.stickers import BentSticker as BentSticker
from spikeproof.threats.physical.stickers import Sticker as Sticker
from spikeproof.threats.regions import L0 as L0
from spikeproof.threats.regions import Region as Region
from spikeproof.threats.regions import SquarePatch as SquarePatch
from spikeproof.threats.shifts import Shifts as Shifts
from spikeproof.threats.spikes import Additions as Additions
from spikeproof.threats.spikes import Flips as Flips
from spikeproof.threats.spikes import Removals as Removals
from spikeproof.threats.windows import WindowAdditions as WindowAdditions
from spikeproof.threats.windows import WindowFlips as WindowFlips
from spikeproof.threats.windows import WindowRemovals as WindowRemovals
from spikeproof.threats.windows import WindowShifts as WindowShifts

STUDY_PARTS: Catalogue = {
    Recipe: {
        "fgsm": FGSM,
        "bim": BIM,
        "pgd": PGD,
        "eot-pgd": EOTPGD,
        "r-fgsm": RFGSM,
        "eot-fgsm": EOTFGSM,
        "mim": MIM,
        "ni-fgsm": NIFGSM,
        "apgd-ce": APGD,
        "apgd-dlr": APGDDLR,
        "apgd-t": APGDT,
        "apgd-l1": APGDL1,
        "sa-pgd": SAPGD,
        "targeted-pgd": TargetedPGD,
        "assembled": Assembled,
        "through": Through,
        "noise": NoiseSearch,
        "gaussian-noise": GaussianNoiseSearch,
        "salt-and-pepper": SaltAndPepperSearch,
        "square": SquareSearch,
        "rectangle-search": RectangleSearch,
        "stand-in": StandIn,
        "patch-search": PatchSearch,
        "encoder-aware": EncoderAwareSearch,
        "level-search": LevelSearch,
        "spike-search": SpikeSearch,
        "spike-walk": SpikeWalkSearch,
        "spike-compatible": SpikeCompatible,
        "retiming": Retiming,
        "spike-fool": SpikeFool,
        "sda": SDA,
        "suite": Suite,
        "rate-twin": RateTwin,
        "width-sweep": WidthSweep,
        "worst-of": WorstOf,
        "chosen": Chosen,
        "spsa": SPSA,
        "nes": NES,
        "deepfool": DeepFool,
        "fab": FAB,
        "fab-t": FABT,
        "carlini-wagner": CarliniWagner,
        "ead": EAD,
        "jsma": JSMA,
        "sparse-fool": SparseFool,
        "sigma-zero": SigmaZero,
        "one-pixel": OnePixel,
        "boundary": Boundary,
        "hop-skip-jump": HopSkipJump,
        "rp2": RP2,
        "adv-hat": AdvHat,
        "adv-lb": AdvLB,
        "universal-patch": UniversalPatch,
        "universal": Universal,
        "transfer": Transfer,
        "stored": StoredImages,
        "torchattacks": Torchattacks,
        "foolbox": Foolbox,
    },
    Others: {
        "every-other": EveryOtherModel,
        "other-seeds": OtherSeeds,
        "those-with": ThoseWith,
        "saved": Saved,
    },
    InTorchattacks: TORCHATTACKS,
    InFoolbox: FOOLBOX,
    Objective: {
        "cross-entropy": LogitCrossEntropy,
        "margin": Margin,
        "dlr": DLR,
        "kl": KL,
        "rescaled": Rescaled,
        "at-exit": AtExit,
        "prefix-mean": PrefixMean,
        "first-spike-margin": FirstSpikeMargin,
        "potential-margin": PotentialMargin,
        "tie-broken-margin": TieBrokenMargin,
    },
    Oracle: {
        "exact": Exact,
        "expectation": Expectation,
        "finite-differences": FiniteDifferences,
        "rademacher": RademacherEstimate,
        "gaussian": GaussianEstimate,
    },
    Step: {
        "steepest": Steepest,
        "top-share": TopShare,
        "frank-wolfe": FrankWolfe,
        "heavy-ball": HeavyBall,
        "momentum": Momentum,
        "nesterov": Nesterov,
        "adam": Adam,
        "stable-adaptive": StableAdaptive,
    },
    Schedule: {
        "constant": Constant,
        "cosine": Cosine,
        "halving": Halving,
        "oscillation": Oscillation,
        "adaptive-sparsity": AdaptiveSparsity,
    },
    Targets: {
        "least-likely": LeastLikely,
        "every-other": EveryOther,
        "given": Given,
    },
    Probe: {
        "jitter": Jitter,
        "shuffle": Shuffle,
        "synchronous-shuffle": SynchronousShuffle,
        "reversal": Reversal,
        "deletion": Deletion,
    },
    Analysis: {"spikes": SpikeAnalysis},
    TrainDistance: {
        "victor-purpura": VictorPurpura,
        "van-rossum": VanRossum,
        "isi-distance": ISIDistance,
        "spike-distance": SPIKEDistance,
        "spike-synchronisation": SPIKESynchronisation,
    },
    Corruption: {
        "gaussian-noise": GaussianCorruption,
        "uniform-noise": UniformCorruption,
        "shot-noise": ShotNoise,
        "impulse-noise": ImpulseNoise,
        "defocus-blur": DefocusBlur,
        "motion-blur": MotionBlur,
        "fog": Fog,
        "brightness": Brightness,
        "contrast": Contrast,
        "jpeg": JPEG,
        "pixelation": Pixelation,
        "elastic": Elastic,
        "rotation": Rotation,
        "translation": Translation,
        "scaling": Scaling,
        "occlusion": Occlusion,
        "background-activity": BackgroundActivity,
        "hot-pixels": HotPixels,
        "dead-pixels": DeadPixels,
        "polarity-flips": PolarityFlips,
        "event-drops": EventDrops,
        "time-drops": TimeDrops,
        "area-drops": AreaDrops,
        "polarity-drops": PolarityDrops,
        "timestamp-jitter": TimestampJitter,
        "clock-drift": ClockDrift,
        "time-warp": TimeWarp,
    },
    Certificate: {
        "bins": Bins,
        "ibp": IBP,
        "linear-relaxation": LinearRelaxation,
        "bernoulli-smoothing": BernoulliSmoothing,
        "gaussian-smoothing": GaussianSmoothing,
    },
    Threat: {
        "linf": Linf,
        "l2": L2,
        "l1": L1,
        "l0": L0,
        "square-patch": SquarePatch,
        "region": Region,
        "sticker": Sticker,
        "bent-sticker": BentSticker,
        "movable-patch": MovablePatch,
        "laser-beam": LaserBeam,
        "flips": Flips,
        "additions": Additions,
        "removals": Removals,
        "shifts": Shifts,
        "window-flips": WindowFlips,
        "window-additions": WindowAdditions,
        "window-removals": WindowRemovals,
        "window-shifts": WindowShifts,
    },
    Sample: {"class-proportional": ClassProportional, "first": First},
    DatasetSpec: {
        "digits": Digits,
        "mnist": MNIST,
        "fashion-mnist": FashionMNIST,
        "yin-yang": YinYang,
        "cifar10": CIFAR10,
        "cifar100": CIFAR100,
        "randman": Randman,
        "spoken-digits": SpokenDigits,
        "shd": SHD,
        "ssc": SSC,
        "n-mnist": NMNIST,
        "dvs128-gesture": DVS128Gesture,
        "cifar10-dvs": CIFAR10DVS,
        "image-folder": ImageFolder,
        "image-arrays": ImageArrays,
        "hugging-face": HuggingFaceImages,
        "event-folder": EventFolder,
        "tonic": TonicEvents,
        "coded": CodedImages,
        "enlarged": Enlarged,
        "poisoned": Poisoned,
    },
    Trigger: {"badnets": BadNets, "refool": Refool},
}
"""Kind -> name -> class."""
