"""The published numbers of examples, and the notes on files that hold other numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spikeproof.errors import InputError

__all__ = ["Subset", "admitted"]


@dataclass(frozen=True)
class Subset:
    """The numbers of examples in the files of a subset that is used on purpose.

    The files must hold exactly these numbers, so that an incomplete copy of the subset is noticed, and every
    part must have examples of all classes.

    Args:
        train: number of training examples, including those held out for validation, at least 1.
        test: number of test examples, at least 1.
        validation: number of validation examples, at least 1, if the authors define a validation part.

    Raises:
        InputError: a number is below 1.

    Example:
        >>> Subset(train=1000, test=100)
        Subset(train=1000, test=100, validation=None)
    """

    train: int
    test: int
    validation: int | None = None

    def __post_init__(self) -> None:
        if min(self.train, self.test, 1 if self.validation is None else self.validation) < 1:
            raise InputError(
                "A subset has at least one example in each part",
                f"train={self.train}, validation={self.validation}, test={self.test}",
                "Write how many examples the files hold.",
            )

    def parts(self) -> dict[str, int]:
        """Part -> number of examples."""
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: size for part, size in sizes.items() if size is not None}


def admitted(
    name: str,
    labels: Mapping[str, Sequence[int] | np.ndarray],
    classes: Sequence[str],
    published: Mapping[str, int],
    subset: Subset | None,
    where: str,
) -> tuple[str, ...]:
    """A sentence about numbers of examples that differ from the published ones; else nothing.

    Args:
        name: the name of the data set.
        labels: the labels of each part of the files, from 0.
        classes: the names of the classes.
        published: part -> published number of examples; empty if none is published.
        subset: the numbers that the study asks for, or None for the published ones.
        where: the folder of the files.

    Raises:
        InputError: a part lacks classes, or the numbers of examples differ from `subset`.

    Example:
        >>> admitted("toy", {"train": [0, 1, 1], "test": [1, 0]}, "ab", {"train": 4, "test": 2}, None, "here")
        ('toy: 3 of 4 published examples of the train part',)
    """
    wanted = subset.parts() if subset else published
    found = {part: len(labels.get(part, ())) for part in wanted}
    for part in wanted:
        _check_classes(name, part, np.asarray(labels.get(part, ()), np.int64), classes, where)
    if found == published:
        return ()
    if subset and found != wanted:
        raise InputError(
            f"The study takes a subset of {name}, {_sizes(wanted)}",
            f"{_sizes(found)} in {where}",
            "Check that the files are complete, or write these numbers into subset.",
        )
    differing = [
        f"{found[part]:,} of {published[part]:,} published examples of the {part} part"
        for part in published
        if found[part] != published[part]
    ]
    meant = ", a subset on purpose" if subset else ""
    return (f"{name}: {', '.join(differing)}{meant}",) if differing else ()


def _check_classes(name: str, part: str, labels: np.ndarray, classes: Sequence[str], where: str) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    absent = [word for word, count in zip(classes, counts, strict=False) if not count]
    if len(absent) == len(classes):
        raise InputError(
            f"{name} has a {part} part", f"no examples of it in {where}", "Check that the files are complete."
        )
    if absent:
        shown = ", ".join(absent[:20]) + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")
        raise InputError(
            f"The {part} part of {name} has examples of all {len(classes)} classes",
            f"none of {shown} in {where}",
            "Get the files that are missing: accuracy on fewer classes is another number.",
        )


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size:,} examples of the {part} part" for part, size in sizes.items())
