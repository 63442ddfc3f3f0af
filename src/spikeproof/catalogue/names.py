"""Every name that a study may use, by kind, with one sentence about each."""

from __future__ import annotations

from pathlib import Path

from spikeproof.catalogue.extensions import extended, faults, imported
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.catalogue.partkinds import KINDS
from spikeproof.catalogue.study_parts import STUDY_PARTS
from spikeproof.errors import InputError, suggest
from spikeproof.specs import Catalogue, summary

__all__ = ["KINDS", "PARTS", "broken", "members", "studies"]

PARTS: Catalogue = extended({**MODEL_PARTS, **STUDY_PARTS})
"""Kind -> name -> class, with the members that other packages add."""


def members(kind: str) -> dict[str, str]:
    """Every member of a kind, name -> one-sentence description; `studies` is a kind too.

    The members that other packages add are imported.

    Raises:
        InputError: there is no such kind.

    Example:
        >>> members("threats")["linf"]
        'Every pixel value may change by at most epsilon.'
    """
    if kind == "studies":
        return {name: _headline(path) for name, path in studies().items()}
    if kind not in KINDS:
        raise InputError("Expected a kind of part", repr(kind), suggest(kind, [*KINDS, "studies"]))
    imported(KINDS[kind])
    return {name: summary(part) for name, part in PARTS[KINDS[kind]].items()}


def broken(kind: str) -> tuple[str, ...]:
    """A sentence about each member that another package tries to add to a kind and that cannot be used."""
    return faults(KINDS[kind], PARTS[KINDS[kind]]) if kind in KINDS else ()


def studies() -> dict[str, Path]:
    """Every built-in study, name -> file.

    Example:
        >>> "quickstart" in studies()
        True
    """
    folder = Path(__file__).with_name("studies")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _headline(path: Path) -> str:
    """The comment in the first line of a study file."""
    return path.read_text("utf-8").split("\n", 1)[0].removeprefix("#").strip()
