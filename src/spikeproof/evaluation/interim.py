"""The state of a suite between two of its members, in one file, from which it goes on to the bit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.evaluation.columns import columns
from spikeproof.evaluation.outcomes import Attacked
from spikeproof.tensorfiles import digest, dump, parse, read, write

if TYPE_CHECKING:
    from spikeproof.evaluation.suites import Contribution

__all__ = ["Interim"]

_VERSION = 1
_WORST, _MEMBERS = "worst.", "members"
_OWN = ("broken_by", "nearest", "height")


class Interim(NamedTuple):
    """What a suite knows between two members.

    Args:
        worst: the worst case so far.
        broken_by: per example the position of the member whose image counts; -1 for the image as it is.
        members: what each member did, in order.
        nearest: of each example the image of the largest margin so far.
        height: that margin.
    """

    worst: Attacked
    broken_by: Int64[Tensor, "N"]
    members: Sequence[Contribution]
    nearest: Float[Tensor, "N *F"]
    height: Float[Tensor, "N"]

    def save(self, path: Path, identity: str) -> None:
        """Replace the file atomically.

        Args:
            path: of the file.
            identity: a digest of everything that decides the course of this suite.

        Raises:
            InputError: the directory cannot be written.
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
        """The state in a file; None where there is none, it is damaged, or another suite wrote it.

        A damaged file is ignored with a warning, so it costs time but cannot change a result.

        Args:
            path: of the file.
            identity: as it was saved.
            device: where tensors live.
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
