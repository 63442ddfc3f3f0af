"""A stored set of adversarial images, of this or of another tool, judged on a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.steps import per_example
from spikeproof.attacks.recipe import Attack, Recipe
from spikeproof.attacks.search import Result, admit, judge, unsearched
from spikeproof.datasets.owned.arrays import read_npz
from spikeproof.errors import DamagedError, InputError
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.tensorfiles import parse, read

__all__ = ["StoredImages", "StoredSet"]

SAME = 1e-6
"""Largest difference of a pixel value between a clean image and its stored original."""

ROWS = 64
"""Images that are compared with all stored ones at a time."""


class StoredSet(NamedTuple):
    """Clean images, what an attack made of them, and labels."""

    x: Float[Tensor, "N *F"]
    x_adv: Float[Tensor, "N *F"]
    y: Int64[Tensor, "N"]


@dataclass(frozen=True, kw_only=True)
class StoredImages(Recipe):
    """A stored set of adversarial images is judged on the model; nothing is searched.

    The file is a `.npz` or a `.safetensors` file with three arrays: the clean images `x`, the adversarial
    images `x_adv` and the labels `y`. Each measured example is found in it by its clean image, to within 1e-6
    in every pixel value, and its label must agree. The budget is checked in double precision against the
    measured clean image: an image outside it counts as not attacked and as a violation of the budget, for
    which the number is withheld.

    The images were not made for this model unless it is the one they were made on, so the audit treats them
    as those of a transfer: they cannot support a number, and they can refute one.

    Args:
        path: the file.
        sha256: its digest, which is part of the address of a cell; of the file as it is, where none is given.

    Raises:
        InputError: there is no such file; at the call, arrays are missing or do not fit each other, or an
            attacked example is not among them.
        DamagedError: at the call, the file has another digest.

    Example:
        >>> StoredImages(path="adversarial.npz", sha256="0" * 64).path
        'adversarial.npz'

    Source:
        The customary way to hand over attacks, such as that of the MNIST and CIFAR-10 challenges of Madry et
        al. 2018.
    """

    path: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.sha256 is None:
            object.__setattr__(self, "sha256", hashlib.sha256(read(Path(self.path))).hexdigest())

    def __call__(self, threat: Threat) -> Attack:
        return _Judged(threat, self)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse examples of another shape than those of the file.

        Args:
            shape: of one example.

        Raises:
            InputError: the file holds examples of another shape, or cannot be used.
        """
        held = self.load().x.shape[1:]
        if tuple(held) != tuple(shape):
            raise InputError(
                f"{self.path}: expected images of {list(shape)}",
                f"images of {list(held)}",
                "Name a file that was made on the same data.",
            )

    def load(self) -> StoredSet:
        """The arrays of the file.

        Raises:
            InputError: it cannot be read, or its arrays are missing or do not fit each other.
            DamagedError: it has another digest.
        """
        return _loaded(self.path, str(self.sha256))


@lru_cache(maxsize=2)
def _loaded(path: str, sha256: str) -> StoredSet:
    content = read(Path(path))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"The stored images {path} have changed; their digest was {sha256[:16]}…")
    if content.startswith(b"PK"):
        arrays = {name: torch.tensor(array) for name, array in read_npz(Path(path)).items()}
    else:
        arrays = parse(content, path)[0]
    lacking = [name for name in StoredSet._fields if name not in arrays]
    if lacking:
        raise InputError(
            f"{path}: expected the arrays x, x_adv and y",
            f"no {' and no '.join(lacking)} among {', '.join(sorted(arrays)) or 'none'}",
            "Write numpy.savez(path, x=clean, x_adv=adversarial, y=labels).",
        )
    x, x_adv, y = (arrays[name] for name in StoredSet._fields)
    fits = x.shape == x_adv.shape and y.shape == x.shape[:1] and x.ndim > 1 and len(x) > 0
    if not fits or not (x.is_floating_point() and x_adv.is_floating_point()) or y.is_floating_point():
        raise InputError(
            f"{path}: expected images x and x_adv of one shape, as fractions, with a label for each",
            f"x {list(x.shape)} {x.dtype}, x_adv {list(x_adv.shape)} {x_adv.dtype}, "
            f"y {list(y.shape)} {y.dtype}",
            "Divide pixel values of 0 to 255 by 255, and pass class numbers as integers.",
        )
    return StoredSet(x.double(), x_adv.double(), y.long())


@dataclass(frozen=True)
class _Judged:
    """The attack that returns the stored image of each example.

    Args:
        threat: norm and budget.
        recipe: names the file.
    """

    threat: Threat
    recipe: StoredImages

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """The stored images, judged on `model`; `through` is ignored, since nothing is searched."""
        x, kept = admit(model, self.threat, x, y), self.recipe.load()
        self.recipe.check_shape(x.shape[1:])
        rows = self.rows(x.detach().cpu().double(), y.cpu(), kept)
        exact = kept.x_adv[rows].to(x.device)
        inside = self.threat.contains(exact, x.double())
        images = exact.to(x.dtype)
        rounded = self.threat.contains(images, x) & ~inside  # rounding brings none back inside
        images = torch.where(per_example(rounded, x), x, images)
        within = torch.where(per_example(inside, x), images, x)
        success = judge(model, within, y, key.fold("verdict")) & inside
        return unsearched(images, success)

    def rows(self, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], kept: StoredSet) -> Int64[Tensor, "B"]:
        """The place of every example in the file.

        Raises:
            InputError: an example is not there, or has another label there.
        """
        found, flat = [], kept.x.flatten(1)
        for part, labels in zip(torch.split(x.flatten(1), ROWS), torch.split(y, ROWS), strict=True):
            same = torch.cdist(part, flat, p=torch.inf) <= SAME
            right = same & (kept.y == labels[:, None])
            if not bool(right.any(1).all()):
                known = int(same.any(1).sum())
                many = int((~right.any(1)).sum())
                raise InputError(
                    f"{self.recipe.path}: expected every attacked example among its {len(flat)} images",
                    f"{many} of {len(part)} that are not there"
                    + (" with this label" if known == len(part) else ""),
                    "Measure the examples that the file holds (examples, sample: first), on the same data.",
                )
            found.append(right.to(torch.uint8).argmax(1))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
