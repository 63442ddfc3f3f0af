"""The levels of suites: how long each of them searches."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["LEVELS", "Level"]


class Level(StrEnum):
    """How long a suite searches; studies, commands and stores hold the text of a level."""

    QUICK = "quick"
    STANDARD = "standard"
    EXTREME = "extreme"


LEVELS = tuple(level.value for level in Level)
"""The levels as text, from the shortest search to the longest."""
