"""Every name that a study may use: one table per kind, written out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikeproof.attacks.answers import noise, queries, reachable
from spikeproof.attacks.events import eventsteps, fewest, spikesearch
from spikeproof.attacks.gradient import assembled, estimates, iterated, plain
from spikeproof.attacks.made_of import composite, transfer
from spikeproof.attacks.made_of.transfer import Others
from spikeproof.attacks.nearest import decision, linearised, penalised, sparse
from spikeproof.attacks.parts import objectives, oracles, schedules, steps
from spikeproof.attacks.parts.targets import EveryOther, Given, LeastLikely, Targets
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.catalogue.others import EveryOtherModel, OtherSeeds, Saved, ThoseWith
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
    Source,
    SpokenDigits,
    YinYang,
)
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.certificates import (
    IBP,
    BernoulliSmoothing,
    Bins,
    Certificate,
    GaussianSmoothing,
    LinearRelaxation,
)
from spikeproof.evaluation.suites import Suite
from spikeproof.gradients import GradientRule
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS, InFoolbox, InTorchattacks
from spikeproof.interop.peers import Foolbox, Torchattacks
from spikeproof.learning.rule import Rule
from spikeproof.losses import DLR, KL, LogitCrossEntropy, Loss, Margin, Objective, Rescaled
from spikeproof.networks.architecture import Architecture
from spikeproof.neurons import Neuron
from spikeproof.probes import Deletion, Jitter, Probe, Reversal, Shuffle, SynchronousShuffle
from spikeproof.protocols import Decoder, Encoder, Threat
from spikeproof.specs import Catalogue, summary
from spikeproof.surrogates import Surrogate
from spikeproof.threats import L0, L1, L2, Additions, Flips, Linf, Region, Removals, Shifts, SquarePatch

__all__ = ["KINDS", "PARTS", "members", "studies"]

PARTS: Catalogue = {
    **MODEL_PARTS,
    Recipe: {
        "fgsm": plain.FGSM,
        "bim": plain.BIM,
        "pgd": plain.PGD,
        "eot-pgd": plain.EOTPGD,
        "r-fgsm": iterated.RFGSM,
        "eot-fgsm": iterated.EOTFGSM,
        "mim": iterated.MIM,
        "ni-fgsm": iterated.NIFGSM,
        "apgd-ce": iterated.APGD,
        "apgd-dlr": iterated.APGDDLR,
        "apgd-t": iterated.APGDT,
        "sa-pgd": iterated.SAPGD,
        "targeted-pgd": iterated.TargetedPGD,
        "assembled": assembled.Assembled,
        "through": plain.Through,
        "noise": noise.NoiseSearch,
        "gaussian-noise": noise.GaussianNoiseSearch,
        "salt-and-pepper": noise.SaltAndPepperSearch,
        "square": queries.SquareSearch,
        "patch-search": queries.PatchSearch,
        "encoder-aware": reachable.EncoderAwareSearch,
        "spike-search": spikesearch.SpikeSearch,
        "spike-walk": spikesearch.SpikeWalkSearch,
        "spike-compatible": eventsteps.SpikeCompatible,
        "retiming": eventsteps.Retiming,
        "spike-fool": fewest.SpikeFool,
        "sda": fewest.SDA,
        "suite": Suite,
        "rate-twin": composite.RateTwin,
        "width-sweep": composite.WidthSweep,
        "worst-of": composite.WorstOf,
        "chosen": composite.Chosen,
        "spsa": estimates.SPSA,
        "nes": estimates.NES,
        "deepfool": linearised.DeepFool,
        "fab": linearised.FAB,
        "fab-t": linearised.FABT,
        "carlini-wagner": penalised.CarliniWagner,
        "ead": penalised.EAD,
        "jsma": sparse.JSMA,
        "sparse-fool": sparse.SparseFool,
        "one-pixel": sparse.OnePixel,
        "boundary": decision.Boundary,
        "hop-skip-jump": decision.HopSkipJump,
        "transfer": transfer.Transfer,
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
        "at-exit": objectives.AtExit,
        "prefix-mean": objectives.PrefixMean,
        "first-spike-margin": objectives.FirstSpikeMargin,
        "potential-margin": objectives.PotentialMargin,
    },
    oracles.Oracle: {
        "exact": oracles.Exact,
        "expectation": oracles.Expectation,
        "finite-differences": estimates.FiniteDifferences,
        "rademacher": estimates.RademacherEstimate,
        "gaussian": estimates.GaussianEstimate,
    },
    steps.Step: {
        "steepest": steps.Steepest,
        "top-share": steps.TopShare,
        "frank-wolfe": steps.FrankWolfe,
        "heavy-ball": steps.HeavyBall,
        "momentum": steps.Momentum,
        "nesterov": steps.Nesterov,
        "adam": steps.Adam,
        "stable-adaptive": steps.StableAdaptive,
    },
    schedules.Schedule: {
        "constant": schedules.Constant,
        "cosine": schedules.Cosine,
        "halving": schedules.Halving,
        "oscillation": schedules.Oscillation,
        "adaptive-sparsity": schedules.AdaptiveSparsity,
    },
    Targets: {"least-likely": LeastLikely, "every-other": EveryOther, "given": Given},
    Probe: {
        "jitter": Jitter,
        "shuffle": Shuffle,
        "synchronous-shuffle": SynchronousShuffle,
        "reversal": Reversal,
        "deletion": Deletion,
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
        "flips": Flips,
        "additions": Additions,
        "removals": Removals,
        "shifts": Shifts,
    },
    Source: {
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
        "coded": CodedImages,
    },
}
"""Kind -> name -> class."""

KINDS: Mapping[str, Any] = {
    "encoders": Encoder,
    "decoders": Decoder,
    "neurons": Neuron,
    "surrogates": Surrogate,
    "gradients": GradientRule,
    "networks": Architecture,
    "rules": Rule,
    "losses": Loss,
    "attacks": Recipe,
    "torchattacks": InTorchattacks,
    "foolbox": InFoolbox,
    "objectives": Objective,
    "oracles": oracles.Oracle,
    "steps": steps.Step,
    "schedules": schedules.Schedule,
    "targets": Targets,
    "probes": Probe,
    "certificates": Certificate,
    "threats": Threat,
    "datasets": Source,
}
"""What `spikeproof list` calls each kind."""


def members(kind: str) -> dict[str, str]:
    """Name -> one-sentence description of every member of a kind, studies included.

    Raises:
        InputError: no such kind.

    Example:
        >>> members("threats")["linf"]
        'Every pixel may change by at most epsilon.'
    """
    if kind == "studies":
        return {name: _headline(path) for name, path in studies().items()}
    if kind not in KINDS:
        raise InputError("Expected a kind of part", repr(kind), suggest(kind, [*KINDS, "studies"]))
    return {name: summary(part) for name, part in PARTS[KINDS[kind]].items()}


def studies() -> dict[str, Path]:
    """Name -> file of every built-in study.

    Example:
        >>> "quickstart" in studies()
        True
    """
    folder = Path(__file__).with_name("studies")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _headline(path: Path) -> str:
    """The comment in the first line of a study file."""
    return path.read_text("utf-8").split("\n", 1)[0].removeprefix("#").strip()
