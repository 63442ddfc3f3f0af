"""The models of a study file: each block is the product of its axes, or names a model that is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from spikeproof.catalogue.given import Given
from spikeproof.catalogue.names import PARTS
from spikeproof.corruptions import Corruption
from spikeproof.encoders import Direct
from spikeproof.experiments.study.documents import KeyPath, Written
from spikeproof.experiments.study.files.entries import Entries
from spikeproof.experiments.study.files.layout import GIVEN, GROUPS
from spikeproof.experiments.study.owned import Owned
from spikeproof.experiments.study.study import AXES, Candidate, saved_candidate
from spikeproof.specs import build, describe

__all__ = ["ModelBlocks"]

MOST_STEPS = 1_000_000
"""Most time steps of an encoder in a study."""


@dataclass(frozen=True)
class ModelBlocks(Entries):
    """The blocks of models of a study file.

    Args:
        document: of the study.
        limit: most cells that the study may have.
    """

    limit: int

    def models(self) -> dict[Candidate | Owned, Mapping[str, KeyPath]]:
        """The models, each with the paths of its parts."""
        found: dict[Candidate | Owned, Mapping[str, KeyPath]] = {}
        for path, block in self.listed("models"):
            if isinstance(block, Mapping) and "model" in block:
                self.keys(path, block, ("model",), required=("model",))
                for where, item in self.items((*path, "model"), block["model"]):
                    found.setdefault(self.given(where, item), {"network": where, "rule": where})
                continue
            self.keys(path, block, AXES, required=("encoder",))
            axes = [self.axis(path, block, name) for name in AXES]
            self.check_size(path, len(found) + math.prod(map(len, axes)))
            for combination in product(*axes):
                paths = [where for where, _ in combination]
                model, by_axis = Candidate(*(p for _, p in combination)), dict(zip(AXES, paths, strict=True))
                self.check(model, by_axis)
                found.setdefault(model, by_axis)
        if not found:
            raise self.error(
                ("models",), "at least one model", "none", "Write, for example, - encoder: latency."
            )
        return found

    def given(self, path: KeyPath, item: Written) -> Candidate | Owned:
        """A model that is not trained: saved, or made by a program."""
        if isinstance(item, Mapping):
            self.keys(path, item, GIVEN, required=())
        if not isinstance(item, Mapping) or len(item) != 1:
            raise self.error(
                path,
                "one given model",
                f"{item!r:.200}",
                "Write {saved: {path: DIR}} or {foreign: {make: FILE.py:FUNCTION}}.",
            )
        ((name, options),) = item.items()
        where = (*path, name)
        chosen = build(GIVEN[name].holds, options, PARTS, lambda below: self.document.where((*where, *below)))
        if isinstance(chosen, Given):
            found = self.located(where, lambda: Owned.of(chosen))
            self.located(where, lambda: found.model)
            return found
        return self.located(where, lambda: saved_candidate(chosen))

    def check_size(self, path: KeyPath, models: int) -> None:
        """Refuse a product of lists with more cells than a study may have, before anything is made of it."""
        tried = ("certificates", "analyses")
        count = {name: len(self.listed(name)) for name in (*tried, "probes")}
        per_budget = len(self.attacks()) + sum(count[name] for name in tried)
        threats = len(self.listed("threat"))
        budgets = threats * len(self.listed("epsilons"))
        searches = threats * len(self.listed("distances"))
        named = [item for _, item in self.listed("corruptions")]
        groups = sum(isinstance(item, str) and item in GROUPS for item in named)
        corruptions = len(named) + groups * len(PARTS[Corruption])
        corrupted = corruptions * len(self.listed("severities"))
        each = 2 + (per_budget > 0) + count["probes"] + corrupted + searches + budgets * per_budget
        cells = models * len(self.listed("seeds")) * each
        if cells > self.limit:
            raise self.error(
                path,
                f"a study of at most {self.limit} cells",
                f"{models} models and {cells} cells",
                "Shorten a list, or allow more with --limit.",
            )

    def axis(self, path: KeyPath, block: Mapping[str, Written], name: str) -> list[tuple[KeyPath, Any]]:
        kind, default = AXES[name]
        items = self.items((*path, name), block.get(name, default))
        if not items:
            raise self.error((*path, name), f"at least one {name}", "none", "Name one, or leave out the key.")
        return [(where, self.part(kind, where, item)) for where, item in items]

    def check(self, model: Candidate, paths: Mapping[str, KeyPath]) -> None:
        if model.encoder.steps > MOST_STEPS:
            raise self.error(
                paths["encoder"], f"at most {MOST_STEPS} time steps", str(model.encoder.steps), "Try 8."
            )
        self.located(paths["network"], lambda: model.network.check(model.neuron))
        if not model.neuron.spiking:
            unit = describe(model.neuron, PARTS)["name"]
            if model.encoder != Direct(1) and not model.network.remembers:
                raise self.error(
                    paths["encoder"],
                    f"the encoder direct with steps: 1 for the neuron {unit}, which knows no time",
                    _short(model.encoder),
                    "Give the ANN a block of models of its own.",
                )
            if model.decoder.reads_spikes:
                raise self.error(
                    paths["decoder"],
                    f"the decoder mean-current for the neuron {unit}, which has no spikes to read",
                    _short(model.decoder),
                    "Give the ANN a block of models of its own.",
                )
        self.located(paths["rule"], lambda: model.rule.check(model.neuron))

    def baseline(self, models: Sequence[Candidate | Owned]) -> Candidate | None:
        """The one model that has the parts of the key `baseline`, by which corruption errors are divided."""
        value = self.value("baseline")
        if value is None:
            return None
        self.keys(("baseline",), value, AXES, required=list(value) if isinstance(value, Mapping) else AXES)
        parts = {axis: self.part(AXES[axis][0], ("baseline", axis), item) for axis, item in value.items()}
        found = [
            model
            for model in dict.fromkeys(models)
            if isinstance(model, Candidate)
            and all(getattr(model, axis) == part for axis, part in parts.items())
        ]
        if len(found) != 1:
            raise self.error(
                ("baseline",),
                "parts that one model of the study has, such as neuron: relu",
                f"parts of {len(found)} models",
                "Name more parts, or the parts as the block of models has them.",
            )
        return found[0]


def _short(part: object) -> str:
    return str(describe(part, PARTS))
