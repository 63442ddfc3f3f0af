"""How a user's examples are divided into parts: as the files say it, otherwise by class and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from spikeproof.datasets.intake.census import Subset, admitted
from spikeproof.datasets.parts import ClassProportional
from spikeproof.errors import InputError

__all__ = ["PARTS_OF_FILES", "Division", "counted", "one_after_the_other", "part_of"]

PARTS_OF_FILES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}
"""What a folder or an array may be called, and the part of the data set that it then is."""

NEEDED = frozenset({"train", "test"})
"""The parts that no data set lacks."""


def part_of(name: str) -> str | None:
    """The part that a folder, a file or an array is by its name, or None.

    Example:
        >>> part_of("Validation"), part_of("cat")
        ('validation', None)
    """
    return PARTS_OF_FILES.get(name.lower())


@dataclass(frozen=True)
class Division:
    r"""The rule that divides examples into a training, a validation and a test part.

    If the files define a test part, it is used as it is. Otherwise the first `round(test N)` of all `N`
    examples in the order of `ClassProportional(seed)` are the test part. In the same way, the first
    `round(hold_out n)` of the `n` remaining examples are the validation part, unless the files define one.
    Files that define a training and a validation part but no test part give their validation part as the test
    part, as is customary for ImageNet.

    Args:
        test: share of the examples in the test part, if the files do not define it, 0 to 0.5.
        hold_out: share of the other examples in the validation part, if the files do not define it, 0 to 0.5.
        seed: seed of the order, at least 0.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> rows = Division(test=0.5, hold_out=0).divide({"train": np.array([0, 0, 1, 1])})
        >>> {part: len(found) for part, found in rows.items()}
        {'train': 2, 'validation': 0, 'test': 2}
    """

    test: float = 0.2
    hold_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, bound in (
            ("test", 0 <= self.test <= 0.5, "from 0 to 0.5"),
            ("hold_out", 0 <= self.hold_out <= 0.5, "from 0 to 0.5"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
        ):
            if not valid:
                raise InputError(
                    f"The division of a data set needs {name} {bound}",
                    f"{name}={getattr(self, name)}",
                    "Try the default.",
                )

    def divide(self, labels: Mapping[str, Int64[np.ndarray, "n"]]) -> dict[str, Int64[np.ndarray, "m"]]:
        """The rows of each part, in the order of the files.

        Args:
            labels: the labels of each part that the files define, which are numbered one after the other in
                the order training, validation, test; the key is `train` for files that define no parts.

        Returns:
            part -> rows, for all three parts.
        """
        everything, every = one_after_the_other(labels)
        rows = {part: every[part] for part in every if part in labels}
        if "test" not in rows and "validation" in rows:
            rows["test"] = rows.pop("validation")
        for part, share in (("test", self.test), ("validation", self.hold_out)):
            if part not in rows:
                rows[part], rows["train"] = self._taken(rows["train"], everything, share)
        return {part: rows[part] for part in ("train", "validation", "test")}

    def _taken(
        self, rows: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "N"], share: float
    ) -> tuple[Int64[np.ndarray, "a"], Int64[np.ndarray, "b"]]:
        """A share of the rows, with every class in proportion, and the rest."""
        order = ClassProportional(seed=self.seed).order(labels[rows])
        cut = round(share * len(rows))
        return np.sort(rows[order[:cut]]), np.sort(rows[order[cut:]])


def counted(
    name: str,
    labels: Int64[np.ndarray, "N"],
    rows: Mapping[str, Int64[np.ndarray, "m"]],
    classes: tuple[str, ...],
    subset: Subset | None,
    where: str,
) -> tuple[str, ...]:
    """The notes on the numbers of examples of a divided data set.

    Args:
        name: the name of the data set.
        labels: the labels of all examples.
        rows: the rows of each part.
        classes: the names of the classes.
        subset: the numbers that the study asks for, or None for any.
        where: the folder of the files.

    Raises:
        InputError: there are fewer than two classes, a part lacks classes, or `subset` has other numbers.
    """
    if len(classes) < 2:
        raise InputError(
            f"{name} has at least two classes",
            f"{len(classes)} ({', '.join(classes)}) in {where}",
            "Give every class its own label, or its own folder where files are read from folders.",
        )
    for part, found in rows.items():
        absent = [classes[i] for i in sorted(set(range(len(classes))) - set(labels[found].tolist()))]
        if absent and (len(found) or part in NEEDED):
            raise InputError(
                f"The {part} part of {name} has examples of all {len(classes)} classes",
                f"{len(found)} examples, none of {', '.join(absent[:20])}, in {where}",
                "Add examples of these classes, or change the options test and hold_out.",
            )
    parts = {part: labels[found] for part, found in rows.items()}
    if not (subset and subset.validation):
        parts["train"] = np.concatenate([parts["train"], parts.pop("validation")])
    return admitted(name, parts, classes, {}, subset, where) if subset else ()


def one_after_the_other(
    labels: Mapping[str, Sequence[int] | np.ndarray],
) -> tuple[Int64[np.ndarray, "N"], dict[str, Int64[np.ndarray, "m"]]]:
    """The labels of all parts in one array, and the rows of each part in it; missing parts are empty."""
    parts = {part: np.asarray(labels.get(part, ()), np.int64) for part in ("train", "validation", "test")}
    edges = np.cumsum([0, *map(len, parts.values())])
    rows = {part: np.arange(edges[i], edges[i + 1]) for i, part in enumerate(parts)}
    return np.concatenate(list(parts.values())), rows
