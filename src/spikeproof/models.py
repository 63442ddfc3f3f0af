"""Trained models on disk: a description from which the model is rebuilt, and its weights beside it.

A directory holds `model.json` (format, every part with all its options, digest of the weights) and
`weights.safetensors`. Loading reads plain data and tensors; it never executes anything and never opens a
pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeproof.architectures import VGG9, VGG11, VGG16, ResNet18, ResNet19, SEWResNet
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
)
from spikeproof.encoders import (
    BackwardRule,
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
from spikeproof.errors import DamagedError, InputError
from spikeproof.event_driven import EventDriven
from spikeproof.gradients import (
    ANTLR,
    ASSG,
    BPTR,
    HART,
    PDSG,
    RGA,
    TSSL,
    GradientRule,
    SurrogateGradient,
    Truncated,
)
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
from spikeproof.learning.rules import Rule
from spikeproof.learning.through import ANTLRBP, STBP, TSSLBP, EventDrivenBP
from spikeproof.learning.timed import TimeCoded
from spikeproof.losses import (
    TET,
    CountMSE,
    CrossEntropy,
    DeepSupervision,
    Loss,
    RelativeTargets,
    SpikeLatency,
    SpikeLatency2,
    SpikeLatency3,
    TimeMargin,
)
from spikeproof.network import MLP, Architecture, Classifier, ConvNet, ModelSpec
from spikeproof.neurons import (
    AHP,
    ALIF,
    DLIF,
    FS,
    IF,
    LIF,
    PLIF,
    SNU,
    SRM,
    BySubtraction,
    CuBaLIF,
    Mixture,
    Neuron,
    Plastic,
    PrimedIF,
    Recurrent,
    ReLU,
    Renewal,
    Reset,
    Softplus,
    ToZero,
)
from spikeproof.protocols import Decoder, Encoder
from spikeproof.recurrent import GRU, LSNN, LSTM
from spikeproof.specs import Catalogue, build, describe
from spikeproof.spiketimes import S4NN, T2FSNN, FastAndDeep, Mostafa
from spikeproof.surrogates import (
    ATan,
    Exponential,
    FastSigmoid,
    Gaussian,
    Rectangle,
    Sigmoid,
    StraightThroughSpike,
    Surrogate,
    Triangle,
)
from spikeproof.tensorfiles import dump, parse, read, write
from spikeproof.timed import TimedMLP

__all__ = ["MODEL_PARTS", "dump_model", "load", "save"]

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
        "renewal": Renewal,
    },
    Reset: {"to-zero": ToZero, "by-subtraction": BySubtraction},
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
    },
}

_FORMAT = 1
_DESCRIPTION = "model.json"
_WEIGHTS = "weights.safetensors"
_LARGEST_DESCRIPTION = 64 * 1024
_ASK = "Give the directory that spikeproof.save(model, directory) wrote."


def dump_model(model: Classifier) -> dict[str, bytes]:
    """The two files of a saved model, name -> content; equal models give equal bytes.

    Raises:
        InputError: a part of the model has no name in `MODEL_PARTS`.
    """
    weights = dump(model.state_dict())
    description = {
        "format": _FORMAT,
        "model": describe(model.spec, MODEL_PARTS),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {_WEIGHTS: weights, _DESCRIPTION: (json.dumps(description, indent=1) + "\n").encode()}


def save(model: Classifier, directory: str | Path) -> None:
    """Write a model to a directory, which is made if need be.

    Raises:
        InputError: the directory cannot be written, or a part has no name in `MODEL_PARTS`.
    """
    for name, content in dump_model(model).items():
        write(Path(directory) / name, content)


def load(path: str | Path) -> Classifier:
    """A saved model on the CPU, in eval mode: `model(images [B, C, H, W] in [0, 1]) -> logits [B, K]`.

    Args:
        path: the directory that `save` wrote, or one of the two files in it.

    Raises:
        InputError: there is no saved model, a file is no JSON or no safetensors (a pickle, say), it names
            unknown parts, the weights do not fit the description, or they are no numbers.
        DamagedError: the weights are not those that were saved.

    Example:
        >>> import tempfile
        >>> from spikeproof.surrogates import ATan
        >>> spec = ModelSpec(Latency(4), MLP((8,)), LIF(), ATan(), FirstSpike(), (1, 8, 8), 10)
        >>> model, x = spec.build(Key.of(0)).eval(), torch.rand(2, 1, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, folder)
        ...     torch.equal(load(folder)(x), model(x))
        True
    """
    description, weights = _locate(Path(path))
    document = _document(description)
    content = read(weights)
    tensors, _ = parse(content, str(weights))
    if hashlib.sha256(content).hexdigest() != document["weights_sha256"]:
        raise DamagedError(
            f"{weights} is not the file that {description.name} describes: its SHA-256 is another. "
            "Copy both files again, or train the model anew."
        )
    model = _skeleton(document["model"], str(description))
    _check_fit(model, tensors, weights)
    if broken := [name for name, tensor in tensors.items() if tensor.isnan().any()]:
        raise InputError(
            f"{weights}: expected numbers", f"NaN in {broken[0]!r}", "Train the model again, less fast."
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _locate(path: Path) -> tuple[Path, Path]:
    if not path.exists():
        raise InputError(
            "A saved model is a directory or a file in it", f"{path}, which does not exist", _ASK
        )
    if not path.is_dir() and path.suffix != ".json":
        parse(read(path), str(path))  # a pickle is named as one before anything is missed beside it
        return path.with_name(_DESCRIPTION), path
    description = path / _DESCRIPTION if path.is_dir() else path
    return description, description.with_name(_WEIGHTS)


def _document(path: Path) -> Mapping[str, Any]:
    content = read(path, limit=_LARGEST_DESCRIPTION)
    try:
        document = json.loads(content)
        version = document["format"]
        if version == _FORMAT:
            return {"model": document["model"], "weights_sha256": document["weights_sha256"]}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: expected the JSON description of a model", f"{content[:40]!r} ({error!r})", _ASK
        ) from error
    raise InputError(
        f"{path}: this version of spikeproof reads format {_FORMAT}",
        f"format {version!r:.40}",
        "Install a newer spikeproof.",
    )


def _skeleton(spec: Any, name: str) -> Classifier:
    """The model without memory for its weights, so that a wrong description cannot ask for much."""
    try:
        with torch.device("meta"):
            model: Classifier = build(
                ModelSpec, spec, MODEL_PARTS, lambda path: ".".join(map(str, (name, *path)))
            ).build(Key.of(0))
    except (RuntimeError, OverflowError, TypeError) as error:
        raise InputError(f"{name}: expected a model that can be built", str(error)[:200], _ASK) from error
    return model


def _check_fit(model: Classifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = {name: (t.dtype, tuple(t.shape)) for name, t in model.state_dict().items()}
    found = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{path}: expected {_spelt(name, wanted.get(name))}",
                _spelt(name, found.get(name)),
                "These weights belong to another model; give the directory as it was saved.",
            )


def _spelt(name: str, tensor: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    return f"no tensor {name!r}" if tensor is None else f"{name!r} as {tensor[0]} {list(tensor[1])}"
