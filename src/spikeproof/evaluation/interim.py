"""The state of a suite between two of its members, in one file, from which the suite resumes exactly."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.evaluation.columns import columns
from spikeproof.evaluation.outcomes import Attacked, Contribution
from spikeproof.tensorfiles import digest, dump, parse, read, write

__all__ = ["Interim"]

_VERSION = 1
_WORST, _MEMBERS = "worst.", "members"
_OWN = ("broken_by", "nearest", "height")


class Interim(NamedTuple):
    """The state of a suite between two members.

    Args:
        worst: the worst case so far.
        broken_by: per example the position of the member whose image counts; -1 for the image as it is.
        members: what each member did, in order.
        nearest: for each example, the image of the largest margin so far.
        height: the margin of this image.
    """

    worst: Attacked
    broken_by: Int64[Tensor, "N"]
    members: Sequence[Contribution]
    nearest: Float[Tensor, "N *F"]
    height: Float[Tensor, "N"]

    def save(self, path: Path, identity: str) -> None:
        """Write the state to a file, which it replaces atomically.

        Args:
            path: path of the file.
            identity: digest of everything that the result of this suite depends on.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {f"{_WORST}{name}": getattr(self.worst, name) for name in columns(Attacked)}
        tensors |= {name: getattr(self, name) for name in _OWN}
        words = json.dumps(list(self.members)).encode()  # NaN included, which a header cannot hold
        tensors[_MEMBERS] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
        note = {
            "version": _VERSION,
            "identity": identity,
            "draws": self.worst.draws,
            "nested": self.worst.nested,
            "tensors": digest(tensors),
        }
        write(path, dump(tensors, note))

    @classmethod
    def resume(cls, path: Path, identity: str, device: torch.device) -> Interim | None:
        """The state in a file; None if the file is missing or damaged, or if another suite wrote it.

        A damaged file is ignored with a warning, so it costs time but cannot change a result.

        Args:
            path: path of the file.
            identity: digest with which the state was saved.
            device: device of the tensors.
        """
        if not path.exists():
            return None
        try:
            tensors, note = parse(read(path), str(path))
            if note["tensors"] != digest(tensors):
                raise ValueError("its digest does not match its content")
            if (note["version"], note["identity"]) != (_VERSION, identity):
                return None
            return cls._of({name: tensor.to(device) for name, tensor in tensors.items()}, note)
        except (InputError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"{path} is damaged ({error}); the suite starts from its first member", stacklevel=3
            )
            return None

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], note: Mapping[str, object]) -> Interim:
        named = {name: tensors[f"{_WORST}{name}"] for name in columns(Attacked)}
        worst = Attacked(**named, draws=int(str(note["draws"])), nested=bool(note["nested"]))
        members: list[Contribution] = json.loads(bytes(tensors[_MEMBERS].cpu().numpy()))
        return cls(worst, tensors["broken_by"], members, tensors["nearest"], tensors["height"])
