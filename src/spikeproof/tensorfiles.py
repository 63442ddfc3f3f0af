"""Tensors on disk: safetensors only, written in one step, read with suspicion, never executed."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.plainfiles import bytes_of, from_json, shaped, synchronise
from spikeproof.specs import canonical

__all__ = ["digest", "dump", "parse", "read", "write"]

LARGEST_HEADER = 1 << 20
"""Bytes of a header that are read: about ten thousand tensors."""

_NOTE = "spikeproof"
_OTHER_FORMATS = {
    b"\x80": "a pickle",
    b"PK": "a zip archive, as torch.save writes, with a pickle inside",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer instead of the file itself",
}


def dump(tensors: Mapping[str, Tensor], note: Mapping[str, object] | None = None) -> bytes:
    """The content of a safetensors file; equal tensors and notes give equal bytes.

    Args:
        tensors: what to write, on any device.
        note: plain data to keep in the header.

    Example:
        >>> parse(dump({"w": torch.ones(2)}, {"epoch": 3}), "example")
        ({'w': tensor([1., 1.])}, {'epoch': 3})
    """
    plain = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    return safetensors.torch.save(plain, None if note is None else {_NOTE: canonical(note)})


def parse(
    content: bytes, name: str, largest_header: int = LARGEST_HEADER
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and note out of the content of a safetensors file.

    Args:
        content: of the file.
        name: of the file, for messages.
        largest_header: bytes of the header that are accepted, which is looked at before anything is read.

    Raises:
        InputError: with `name` in front, when the content is something else, or its header is larger.
    """
    length = int.from_bytes(content[:8], "little")
    if largest_header < length <= len(content) - 8:
        raise InputError(
            f"{name}: expected a header of at most {largest_header} bytes",
            f"one of {length}",
            "Is this the right file? spikeproof.tensorfiles.parse takes another largest_header.",
        )
    try:
        note = _note(content, name)
        tensors = safetensors.torch.load(content)
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RuntimeError,
        RecursionError,
    ) as error:
        other = (words for start, words in _OTHER_FORMATS.items() if content.startswith(start))
        raise InputError(
            f"{name}: expected a safetensors file",
            f"what looks like {found}" if (found := next(other, None)) else f"{len(content)} bytes ({error})",
            "Other formats are never opened, since a pickle can run any program. Write the file with "
            "spikeproof.save(model, directory), or copy it again if it was cut short.",
        ) from error
    return tensors, note


def _note(content: bytes, name: str) -> dict[str, object]:
    """What stands in the header beside the tensors, which is looked at before any of them is made.

    Raises:
        ValueError: there is no header, or it is something else.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it is cut short")
    header = shaped(from_json(content[8 : 8 + length], name), dict[str, object], name)
    beside = shaped(header.get("__metadata__") or {}, dict[str, str], name)
    note = from_json(beside.get(_NOTE, "{}").encode(), name)
    return note if isinstance(note, dict) else {}


def read(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        limit: most bytes that are accepted.

    Raises:
        InputError: it cannot be read, is a pipe or a device, or is larger than the limit.
    """
    return bytes_of(path, limit)


def write(path: Path, content: bytes) -> None:
    """Put a file in place in one step: a reader sees the old content or the new one, even after a kill.

    Raises:
        InputError: the directory cannot be written.
    """
    staged = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            synchronise(file.fileno())
        staged.replace(path)
    except OSError as error:
        raise InputError(
            "Files are written to a directory that can be written to",
            f"{path.parent} ({error.strerror})",
            "Choose another.",
        ) from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, as hexadecimal digits.

    Example:
        >>> digest({"w": torch.zeros(2)}) == digest({"w": torch.zeros(2, 1)})
        False
    """
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hashed.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
