"""The kinds of cells that a study is made of."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CellKind"]


class CellKind(StrEnum):
    """What a cell computes; the text of a member is what plans and stores hold, and part of an address.

    Example:
        >>> CellKind("clean") is CellKind.CLEAN, f"the {CellKind.CLEAN} cell"
        (True, 'the clean cell')
    """

    TRAIN = "train"
    CLEAN = "clean"
    INSPECT = "inspect"
    PROBE = "probe"
    CORRUPT = "corrupt"
    DISTANCE = "distance"
    ATTACK = "attack"
    CERTIFY = "certify"
    ANALYSE = "analyse"
