"""Columns of outcomes: each holds one value per example and is declared once, with its field.

A declaration says what a column means, how it is computed from a batch, its value for an example that was not
attacked, how batches are joined, how a worst case over several attacks combines it, whether the table of a
cell holds it, and which value replaces it if an older table lacks it. Evaluation, suites, cells and their
readers use the declarations, so a new column is one new field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Column", "Declared", "columns", "declared", "joined", "kept", "stored", "subset"]

Merge = Callable[[Tensor, Tensor, Bool[Tensor, "R"]], Tensor]
"""(worst case so far, outcome of a further attack, where that attack did better) -> new worst case."""


def kept(worst: Tensor, found: Tensor, better: Bool[Tensor, "R"]) -> Tensor:
    """Keep the old value: it is the same under every attack, or has no meaning for a worst case."""
    return worst


def taken(worst: Tensor, found: Tensor, better: Bool[Tensor, "R"]) -> Tensor:
    """The value under the attack whose image counts."""
    return torch.where(better.view(-1, *[1] * (worst.ndim - 1)), found.to(worst.dtype), worst)


def added(worst: Tensor, found: Tensor, better: Bool[Tensor, "R"]) -> Tensor:
    """The sum over all attacks."""
    return worst + found


def every(worst: Tensor, found: Tensor, better: Bool[Tensor, "R"]) -> Tensor:
    """Whether the column is true under every attack."""
    return worst & found


def largest(worst: Tensor, found: Tensor, better: Bool[Tensor, "R"]) -> Tensor:
    """The largest value under any attack."""
    return torch.maximum(worst, found).to(worst.dtype)


def one_after_another(parts: Sequence[Tensor]) -> Tensor:
    """The examples of all batches, in their order."""
    return torch.cat(list(parts))


def side_by_side(parts: Sequence[Float[Tensor, "S B"]]) -> Float[Tensor, "S N"]:
    """The traces of all batches; a trace that ends early is extended by its last value."""
    longest = max(len(part) for part in parts)
    return torch.cat([_held(part.T, longest) for part in parts]).T


def _held(losses: Float[Tensor, "N S"], length: int) -> Float[Tensor, "N L"]:
    if not losses.shape[1]:
        return losses.new_full((len(losses), length), torch.nan)
    held = [losses[:, 0]]
    for step in range(1, length):
        now = losses[:, step] if step < losses.shape[1] else torch.full_like(held[0], torch.nan)
        held.append(torch.where(now.isnan(), held[-1], now))
    return torch.stack(held, 1)


@dataclass(frozen=True)
class Column:
    """How one column of an outcome is handled; its name and type are those of the field that declares it.

    Args:
        meaning: meaning in words, with unit and range.
        of: maps a batch to its part of the column; the first axis is the example, except for traces.
        before: maps examples that were not attacked to their part of the column.
        merged: combines the column of a worst case with that of a further attack.
        joined: joins the parts of all batches.
        stored: whether the table of a cell holds the column, one value per example.
        absent: value that replaces the column if an older table lacks it; None leaves the column out.
    """

    meaning: str
    of: Callable[..., Tensor]
    before: Callable[..., Tensor] | None = None
    merged: Merge = taken
    joined: Callable[[Sequence[Tensor]], Tensor] = one_after_another
    stored: bool = True
    absent: float | None = None


Declared = dict[str, Column]
_KEY = "column"
Outcome = TypeVar("Outcome", bound="DataclassInstance")


def declared(column: Column) -> Declared:
    """The metadata of a field that declares a column."""
    return {_KEY: column}


def columns(outcome: type[DataclassInstance]) -> dict[str, Column]:
    """The columns that an outcome declares, in the order of its fields.

    Example:
        >>> from spikeproof.evaluation.outcomes import Attacked
        >>> columns(Attacked)["queries"].meaning
        'forward passes'
        >>> [name for name, column in columns(Attacked).items() if not column.stored]
        ['right_in_views', 'right_clean_in_views', 'losses', 'x_adv']
    """
    return {each.name: each.metadata[_KEY] for each in fields(outcome) if _KEY in each.metadata}


def joined(outcome: type[DataclassInstance], batches: Sequence[object]) -> dict[str, Tensor]:
    """Every column of an outcome over all batches.

    Args:
        outcome: the class that declares the columns.
        batches: the batches from which the columns are computed.
    """
    return {n: c.joined([c.of(batch) for batch in batches]) for n, c in columns(outcome).items()}


def stored(outcome: DataclassInstance) -> dict[str, Tensor]:
    """The columns that the table of a cell holds, in their order."""
    return {n: getattr(outcome, n) for n, c in columns(type(outcome)).items() if c.stored}


def subset(outcome: Outcome, rows: Int64[Tensor, "R"] | slice) -> Outcome:
    """The outcome of some of the examples."""
    names = columns(type(outcome))
    changes: Mapping[str, Tensor] = {name: getattr(outcome, name)[rows] for name in names}
    return replace(outcome, **changes)
