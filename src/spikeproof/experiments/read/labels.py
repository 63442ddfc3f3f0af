"""Display names of the parts of a study: as short as possible, yet different for different parts."""

from __future__ import annotations

import json
from ast import literal_eval
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.evaluation.suites import Suite
from spikeproof.experiments.read.record import Parts
from spikeproof.experiments.run.driver import Budget
from spikeproof.experiments.study.cells import CellRecord, CellSpec, Plain, is_nested
from spikeproof.experiments.study.kinds import CellKind

__all__ = ["AXES", "Names", "labels", "text_of"]

AXES = ("network", "neuron", "encoder", "decoder", "surrogate")
"""The parts of a model, as records name them."""


@dataclass(frozen=True)
class Names:
    """Display names of every member that a study uses: canonical text -> name."""

    axes: Mapping[str, Mapping[str, str]]
    attacks: Mapping[str, str]
    threats: Mapping[str, str]
    probes: Mapping[str, str]
    corruptions: Mapping[str, str]
    certificates: Mapping[str, str]
    analyses: Mapping[str, str]
    models: Mapping[str, tuple[str, int]]  # address of a train cell -> the parts that tell it apart, its seed

    def threat(self, spec: CellSpec) -> str:
        """The threat of a cell."""
        return self.threats[text_of(spec["threat"])]

    def budget(self, spec: CellSpec) -> Budget:
        """The threat, by its name, and the epsilon of a cell."""
        return Budget(self.threat(spec), spec["epsilon"])

    def parts(self, train: CellSpec) -> Parts:
        """The parts of the model of a train cell."""
        parts = _axes(train)
        named = {axis: names[text_of(parts[axis])] for axis, names in self.axes.items()}
        return {
            "network": named["network"],
            "neuron": named["neuron"],
            "encoder": named["encoder"],
            "decoder": named["decoder"],
            "surrogate": named["surrogate"],
            "rule": named["rule"],
            "seed": train["seed"],
        }

    def attack(self, spec: CellSpec, seed: int) -> str:
        """The attack of a cell; for a transfer, with the model that its images were made on."""
        name, source = self.attacks[text_of(spec["attack"])], spec.get("source")
        nested = ", nested" if is_nested(spec) else ""
        if source is None:
            return name + nested
        if not isinstance(source, str):
            return f"{name} from {Path(source['saved']).name} ({source['sha256'][:8]}){nested}"
        parts, other_seed = self.models.get(source, ("another model", seed))
        words = [*([parts] if parts else []), *([f"seed {other_seed}"] if other_seed != seed else [])]
        return f"{name} from {', '.join(words)}{nested}"

    @classmethod
    def of(cls, plan: Sequence[CellRecord], repairs: Sequence[CellRecord]) -> Names:
        """The names of all members of a plan; members that repairs add get names and change no other name."""
        models = [cell["spec"] for cell in plan if cell["kind"] == CellKind.TRAIN]
        attacks = [cell["spec"] for cell in plan if cell["kind"] in (CellKind.ATTACK, CellKind.DISTANCE)]
        added = [cell["spec"] for cell in repairs if cell["kind"] == CellKind.ATTACK]
        axes = {axis: labels(spec["model"][axis] for spec in models) for axis in AXES}
        axes["rule"] = labels(spec["rule"] for spec in models)
        telling = [axis for axis in axes if len(axes[axis]) > 1]
        parts = {
            cell["address"]: (
                ", ".join(axes[axis][text_of(_axes(cell["spec"])[axis])] for axis in telling),
                int(cell["spec"]["seed"]),
            )
            for cell in plan
            if cell["kind"] == CellKind.TRAIN
        }
        return cls(
            axes,
            {
                **labels(spec["attack"] for spec in (*attacks, *added)),
                **labels(spec["attack"] for spec in attacks),
            },
            labels(threat for cell in plan if (threat := cell["spec"].get("threat")) is not None),
            labels(cell["spec"]["probe"] for cell in plan if cell["kind"] == CellKind.PROBE),
            labels(cell["spec"]["corruption"] for cell in plan if cell["kind"] == CellKind.CORRUPT),
            labels(cell["spec"]["certificate"] for cell in plan if cell["kind"] == CellKind.CERTIFY),
            labels(cell["spec"]["analysis"] for cell in plan if cell["kind"] == CellKind.ANALYSE),
            parts,
        )


def _axes(train: CellSpec) -> Mapping[str, Plain]:
    """The parts of a trained model and the rule that trained it, by axis."""
    return {**train["model"], "rule": train["rule"]}


def labels(members: Iterable[Plain]) -> dict[str, str]:
    """Short names that tell members apart: options are named only where two members differ in them.

    Args:
        members: descriptions such as `{"name": "latency", "steps": 8}`.

    Returns:
        The canonical text of each member -> its name.

    Example:
        >>> list(labels([{"name": "pgd", "steps": 10}, {"name": "pgd", "steps": 20}]).values())
        ['pgd(steps=10)', 'pgd(steps=20)']
        >>> list(labels([{"name": "reversed", "code": {"name": "latency", "steps": 8}}]).values())
        ['reversed(latency)']
        >>> fused = [{"name": "latency", "steps": 8}, {"name": "direct", "steps": 8}]
        >>> list(labels([{"name": "fused", "codes": fused}]).values())
        ['fused(latency+direct)']
    """
    distinct = {text_of(member): member for member in members}
    groups: dict[str, list[Plain]] = defaultdict(list)
    for member in distinct.values():
        groups[_base_name(member)].append(member)
    names = {}
    for text, member in distinct.items():
        name = _base_name(member)
        options = _differing(_flat(member), [_flat(other) for other in groups[name]])
        names[text] = f"{name}({', '.join(options)})" if options else name
    return names


def _differing(member: Mapping[str, object], group: Sequence[Mapping[str, object]]) -> list[str]:
    """The options in which a member differs from others, compared only where their parts are the same."""
    options = []
    for option, value in member.items():
        part = option.rpartition(".")[0]
        alike = [other for other in group if other.get(part) == member.get(part)]
        if value is not None and any(other.get(option) != value for other in alike):
            options.append(f"{option}={_brief(value)}")
    return options


_NAMED_BY_ATTACK = ("torchattacks", "foolbox", "transfer")


def _base_name(member: Plain) -> str:
    if PARTS[Recipe].get(member["name"]) is Suite and (level := member.get("level")) is not None:
        return f"{member['name']} {level}"
    inside = [part for key in ("codes", "decoders") for part in member.get(key, [])]
    inside += [member[key] for key in ("code", "decoder") if key in member]
    inside += [member["attack"]] if member["name"] in _NAMED_BY_ATTACK else []
    names = [_base_name(part) for part in inside if isinstance(part, Mapping)]
    return f"{member['name']}({'+'.join(names)})" if names else str(member["name"])


def _flat(member: Plain, prefix: str = "") -> dict[str, object]:
    """Options of a member, those of its parts as `part.option` and a part's own name as `part`."""
    flat: dict[str, object] = {}
    for option, value in member.items():
        if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
            flat |= _flat({str(i): part for i, part in enumerate(value)}, f"{prefix}{option}.")
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{option}.")
        elif option == "name":
            flat |= {prefix[:-1]: value} if prefix else {}
        else:
            flat[prefix + option] = value
    return flat


def _brief(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def text_of(spec: Plain) -> str:
    """The text by which a part is looked up."""
    return _sorted(repr(spec))


@lru_cache(maxsize=65536)
def _sorted(written: str) -> str:
    """The text of plain data as Python writes them; many cells have the same parts."""
    return json.dumps(literal_eval(written), sort_keys=True)
