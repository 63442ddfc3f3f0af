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

import torch
from torch import Tensor

from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.errors import DamagedError, InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.specs import build, describe
from spikeproof.tensorfiles import dump, parse, read, write

__all__ = ["dump_model", "load", "save"]


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


def _document(path: Path) -> Mapping[str, object]:
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


def _skeleton(spec: object, name: str) -> Classifier:
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
