"""Trained models on disk: a description from which the model is rebuilt, and a file with its weights.

A directory holds `model.json` (the format, every part with all its options, and the digest of the weights)
and `weights.safetensors`. Loading reads plain data and tensors; it never executes code and never opens a
pickle.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from spikeproof.catalogue.extensions import extended
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.errors import DamagedError, InputError
from spikeproof.evaluation.asking.leaks import unlike
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.networks.deep import expect_gains
from spikeproof.networks.outside import Outside
from spikeproof.plainfiles import bytes_of, from_json, printable, shaped
from spikeproof.protocols import takes_events
from spikeproof.specs import build, describe
from spikeproof.tensorfiles import dump, parse, write

__all__ = ["dump_model", "load", "save"]


_PARTS = extended(MODEL_PARTS)
_FORMAT = 1
_DESCRIPTION = "model.json"
_WEIGHTS = "weights.safetensors"
_LARGEST_DESCRIPTION = 64 * 1024
LARGEST_SIZE = 1_000_000
"""Largest whole number in the description of a model, such as its time steps."""

TRIED = 4
"""Number of random examples on which a model is compared with what is stored of it."""

LARGEST_WEIGHTS = 16 * 1024**3
"""Largest size of a file of weights, in bytes."""

_ASK = "Give the directory that spikeproof.save(model, directory) wrote."


def dump_model(model: Classifier) -> dict[str, bytes]:
    """The two files of a saved model, name -> content; equal models give identical bytes.

    Raises:
        InputError: a part of the model has no name in `MODEL_PARTS`.
    """
    weights = dump(model.state_dict())
    description = {
        "format": _FORMAT,
        "model": describe(model.spec, _PARTS),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {_WEIGHTS: weights, _DESCRIPTION: (json.dumps(description, indent=1) + "\n").encode()}


def save(model: Classifier, directory: str | Path) -> None:
    """Write a model to a directory, which is created if it does not exist.

    Raises:
        InputError: the directory cannot be written, the model is no `Classifier`, a part of it has no name in
            `MODEL_PARTS`, or parts and weights do not give its answers, because of a hook, a method of
            another class or an exchanged part.
    """
    if not isinstance(model, Classifier):
        raise InputError(
            "A model of spikeproof, which a description and weights bring back",
            type(model).__name__,
            "Keep the network as its framework saves it, and wrap it again.",
        )
    files = dump_model(model)
    if not _brought_back(model):
        raise InputError(
            "A model that its parts and its weights bring back",
            "one that answers otherwise than a model of the same parts with the same weights",
            "Remove its hooks, and put what they or a class of yours do into a part; or audit the model as "
            "it is, with spikeproof.audit or as FILE.py:FUNCTION.",
        )
    for name, content in files.items():
        write(Path(directory) / name, content)


@torch.no_grad()
def _brought_back(model: Classifier) -> bool:
    """Whether a model of the same parts and weights gives the same answers to a few random examples."""
    given, key, first = copy.deepcopy(model).eval(), Key.of(0), next(model.parameters())
    twin = model.spec.build(key)
    weights = model.state_dict()
    expect_gains(twin, weights)
    twin.load_state_dict(weights, assign=True)  # in their memory format too, which decides the last digits
    twin = twin.to(first.device, first.dtype).eval()
    draws = key.fold("examples").uniform((TRIED, *model.spec.example_shape)).to(first.device)
    x = (draws < 1 / 2).to(draws.dtype) if takes_events(model.spec.encoder) else draws
    try:
        return not unlike(given(x, key.for_rows(range(TRIED))), twin(x, key.for_rows(range(TRIED)))).any()
    except InputError:  # a model that takes no such examples is judged by what it is measured on
        return not model.altered


def load(path: str | Path) -> Classifier:
    """Load a saved model on the CPU, in eval mode: `model(images [B, C, H, W] in [0, 1]) -> logits [B, K]`.

    A call without a key takes images outside [0, 1] too, which some attacks of other libraries evaluate on
    their way. It answers for the nearest image inside, and `model.outside` counts them. Evaluations of
    spikeproof refuse such images.

    Args:
        path: the directory that `save` wrote, or one of the two files in it.

    Raises:
        InputError: there is no saved model, a file is not JSON or not safetensors (a pickle, for example),
            the description names unknown parts, the weights do not fit the description, or a weight is NaN.
        DamagedError: the weights are not those that were saved.

    Example:
        >>> import tempfile
        >>> from spikeproof.decoders import FirstSpike
        >>> from spikeproof.encoders import Latency
        >>> from spikeproof.networks import MLP, ModelSpec
        >>> from spikeproof.neurons import LIF
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
    content = bytes_of(weights, LARGEST_WEIGHTS)
    tensors, _ = parse(content, str(weights))
    if hashlib.sha256(content).hexdigest() != document["weights_sha256"]:
        raise DamagedError(
            f"{weights} is not the file that {description.name} describes: their SHA-256 digests differ. "
            "Copy both files again, or train the model again."
        )
    model = _skeleton(document["model"], str(description))
    expect_gains(model, tensors)
    _check_fit(model, tensors, weights)
    if broken := [name for name, tensor in tensors.items() if tensor.isnan().any()]:
        raise InputError(
            f"{weights}: expected weights that are numbers",
            f"NaN in {broken[0]!r}",
            "Train the model again with a lower learning rate.",
        )
    model.load_state_dict(tensors, assign=True)
    model.outside = Outside()
    return model.eval()


def _locate(path: Path) -> tuple[Path, Path]:
    if "\0" in str(path) or not path.exists():
        raise InputError(
            "A saved model is a directory or a file in it",
            f"{printable(str(path))}, which does not exist",
            _ASK,
        )
    if not path.is_dir() and path.suffix != ".json":
        # A pickle is reported as one, before a missing description is.
        parse(bytes_of(path, LARGEST_WEIGHTS), str(path))
        return path.with_name(_DESCRIPTION), path
    description = path / _DESCRIPTION if path.is_dir() else path
    return description, description.with_name(_WEIGHTS)


def _document(path: Path) -> Mapping[str, object]:
    content = bytes_of(path, _LARGEST_DESCRIPTION)
    try:
        document = shaped(from_json(content, str(path)), dict[str, object], str(path))
        if document.get("format") == _FORMAT:
            found: Mapping[str, object] = shaped(document, _Description, str(path))
            return found
    except InputError as error:
        raise InputError(
            f"{path}: expected the JSON description of a model", f"{content[:40]!r} ({error})", _ASK
        ) from error
    if (found_format := document.get("format")) is None:
        raise InputError(f"{path}: expected the JSON description of a model", f"{content[:40]!r}", _ASK)
    raise InputError(
        f"{path}: this version of spikeproof reads format {_FORMAT}",
        f"format {found_format!r:.40}",
        "Install a newer spikeproof.",
    )


class _Description(TypedDict):
    model: object
    weights_sha256: object


def _skeleton(spec: object, name: str) -> Classifier:
    """Build the model without memory for its weights, so that a wrong description cannot exhaust memory."""
    _check_sizes(spec, (name,))
    try:
        with torch.device("meta"):
            model: Classifier = build(
                ModelSpec, spec, _PARTS, lambda path: ".".join(map(str, (name, *path)))
            ).build(Key.of(0))
    except InputError:
        raise
    except (RuntimeError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"{name}: expected a model that can be built", str(error)[:200], _ASK) from error
    return model


def _check_sizes(part: object, path: tuple[str, ...]) -> None:
    """Refuse sizes that no model has, such as time steps; the weights determine the sizes of layers."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key != "network":
                _check_sizes(value, (*path, str(key)))
    elif isinstance(part, list):
        for i, value in enumerate(part):
            _check_sizes(value, (*path, str(i)))
    elif isinstance(part, int) and abs(part) > LARGEST_SIZE:
        raise InputError(
            f"{'.'.join(path)}: expected whole numbers up to {LARGEST_SIZE} in a model that can be built",
            f"{part!r:.40}",
            "Build a model of this size with ModelSpec and load its weights yourself.",
        )


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
