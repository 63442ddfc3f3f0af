"""The worst case over attacks, image by image, from the tables of stored cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spikeproof.experiments.run.parquet import Array, Columns, read_columns
from spikeproof.experiments.run.store import Stored

__all__ = ["WorstCase", "columns_of"]


def columns_of(cell: Stored) -> Columns:
    """The columns of a stored cell, one value per example each."""
    return read_columns(cell.path, cell.cell["kind"]) if cell.columns is None else cell.columns


@dataclass(frozen=True)
class WorstCase:
    """Each image counts, on fresh draws, for the attack that hurt it most on the draws for choosing.

    Args:
        clean: columns of the clean cell: an attacker may also leave an image as it is.
        attacks: columns of every attack.
    """

    clean: Columns
    attacks: Sequence[Columns]

    @classmethod
    def of(cls, clean: Stored, attacks: Sequence[Stored]) -> WorstCase:
        """That of stored cells."""
        return cls(columns_of(clean), [columns_of(cell) for cell in attacks])

    @property
    def tables(self) -> list[Columns]:
        """Of the images as they are, and of every attack."""
        return [self.clean, *self.attacks]

    @cached_property
    def chosen(self) -> NDArray[np.intp]:
        """Per image the attack that counts, from 1; 0 for the image as it is."""
        selection = np.stack([table["right_selection"] for table in self.tables])
        order = np.argsort(
            selection.mean(1), kind="stable"
        )  # of equals the attack that is stronger as a whole
        return np.asarray(order[selection[order].argmin(0)])

    def column(self, name: str) -> Array:
        """A column of the images that count; NaN where it was not measured."""
        return np.asarray(np.concatenate([table[name] for table in self.tables])[self._rows])

    @cached_property
    def _rows(self) -> NDArray[np.intp]:
        """Per image, its row among those of all tables, one after the other."""
        return self.chosen * len(self.chosen) + np.arange(len(self.chosen))

    @property
    def right(self) -> Array:
        """Per image, the share of fresh draws answered with the label."""
        return self.column("right")

    @property
    def hardest(self) -> int:
        """Index of the attack that counts for most images."""
        return int(np.bincount(self.chosen, minlength=len(self.attacks) + 1)[1:].argmax())
