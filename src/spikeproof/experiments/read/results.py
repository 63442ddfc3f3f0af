"""Stored cells as headline numbers: one record per model, attack and budget, with its warnings.

Every model and budget also has a record of the worst case: for each image the strongest attack is chosen on
one set of draws, and the image is counted on fresh draws. Attacks that an audit added are included, and the
record then also holds the values before the audit. If an attack of the study failed or is not computed yet,
the worst case is taken over the other attacks, names the missing attack, and is doubtful.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeVar, cast

import numpy as np

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.gradient.plain import FGSM
from spikeproof.attacks.recipe import Recipe
from spikeproof.auditing.assess import attack_evidence, suite_evidence
from spikeproof.auditing.checks import audit
from spikeproof.auditing.evidence import AttackEvidence, CurvePoint, Diagnostics, Evidence
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import dynamic_exit
from spikeproof.errors import InputError
from spikeproof.evaluation.certificates import Certificate
from spikeproof.experiments.read.finished import Opened, mark_missing
from spikeproof.experiments.read.labels import Names, text_of
from spikeproof.experiments.read.record import (
    Base,
    Broke,
    DistanceRecord,
    ProbeRecord,
    Proof,
    Record,
    SpikeRecord,
    data_notes,
)
from spikeproof.experiments.read.traces import contributions, effort, is_suite, proof, suite_members
from spikeproof.experiments.read.worst import WorstCase, columns_of
from spikeproof.experiments.run.driver import Budget, Repair
from spikeproof.experiments.run.parquet import Array
from spikeproof.experiments.run.store import Metrics, Stored
from spikeproof.experiments.study.cells import Cell, CellRecord, CellSpec, Plain
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.experiments.study.owned import is_owned
from spikeproof.neurons import Neuron
from spikeproof.protocols import Decoder, Threat
from spikeproof.specs import build
from spikeproof.statistics import Interval, wilson
from spikeproof.threats import Linf

__all__ = [
    "WORST_CASE",
    "Measured",
    "Outcome",
    "distance_records",
    "measured",
    "of_kind",
    "outcomes",
    "probe_records",
    "records",
    "restated",
    "spike_records",
]

WORST_CASE = "worst-case"


class Outcome(NamedTuple):
    """A worst case: its record, the share of draws answered rightly for each image, and the images' ids."""

    record: Record
    right: Array
    examples: Array


class Measured(NamedTuple):
    """The headline numbers of a study, in its order, and the outcomes of the worst cases among them."""

    records: list[Record]
    worst: list[Outcome]


def records(directory: Path | Opened) -> list[Record]:
    """The headline numbers of the finished cells of a study, in the order of the study.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    return measured(directory).records


def measured(directory: Path | Opened) -> Measured:
    """The headline numbers of a study with the outcomes behind them, each cell read once.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    opened = Opened.of(directory)
    plan, names = opened.plan, opened.names
    planned_of, added_of = _by_model(plan["plan"]), _by_model(plan["repairs"])
    found = Measured([], [])
    for train in plan["plan"]:
        if train["kind"] == CellKind.TRAIN and train["address"] in opened.cells:
            wanted, added = planned_of[train["address"]], added_of[train["address"]]
            cells = _read_of(opened.cells, train, wanted, added)
            model = cells[train["address"]]
            here = _Model(plan["study"], names, cells, model, wanted).measured()
            planned, extra = _repaired(wanted, added, cells)
            if extra or planned is not wanted:
                before = here.records
                here = _Model(plan["study"], names, cells, model, planned, extra).measured()
                _tell_before(here.records, before, added)
            worst = [each.record for each in here.worst]
            mark_missing(worst, [*wanted, *added], cells, names, opened.directory)
            found.records.extend(here.records)
            found.worst.extend(here.worst)
    return found


Planned = TypeVar("Planned", bound=CellRecord)


def _by_model(planned: Sequence[Planned]) -> Mapping[str, list[Planned]]:
    """Address of a train cell -> the records of the cells that were measured on its model."""
    found = defaultdict[str, list[Planned]](list)
    for cell in planned:
        found[cell["spec"].get("train", "")].append(cell)
    return found


def _read_of(
    cells: Mapping[str, Stored], train: CellRecord, wanted: Sequence[CellRecord], added: Sequence[Repair]
) -> dict[str, Stored]:
    """The finished cells of a model, each read once, with those on the numbers of examples of an audit."""
    sizes = {cell["spec"]["examples"] for cell in added}
    larger = [restated(cell, size).record() for size in sizes for cell in wanted if cell["kind"] in MEASURED]
    found = (cell["address"] for cell in (train, *wanted, *added, *larger))
    return {address: cells[address] for address in found if address in cells}


MEASURED = (CellKind.CLEAN, CellKind.INSPECT, CellKind.ATTACK, CellKind.CERTIFY, CellKind.DISTANCE)
"""What a number rests on beside its model; an audit measures these again on more images."""


def restated(cell: CellRecord, examples: int) -> Cell:
    """The same cell on another number of examples; it no longer belongs to a nested sweep."""
    spec: CellSpec = {**cell["spec"], "examples": examples}
    spec.pop("smaller", None)
    return Cell.of(cell["kind"], spec)


def _repaired(
    wanted: Sequence[CellRecord], added: Sequence[Repair], cells: Mapping[str, Stored]
) -> tuple[Sequence[CellRecord], Sequence[CellRecord]]:
    """The cells of a model on the largest number of examples that all have, and the added cells."""
    planned = max((cell["spec"].get("examples", 0) for cell in wanted), default=0)
    sizes = sorted({cell["spec"]["examples"] for cell in added if cell["spec"]["examples"] > planned})
    best, size = wanted, planned
    for more in sizes:
        larger = [restated(cell, more).record() for cell in wanted if cell["kind"] in MEASURED]
        if all(cell["address"] in cells for cell in larger):
            best, size = larger, more
    own = {cell["address"] for cell in best}
    extra = [c for c in added if c["spec"]["examples"] == size and c["address"] in cells]
    return best, [cell for cell in extra if cell["address"] not in own]


def _tell_before(after: list[Record], before: Sequence[Record], added: Sequence[Repair]) -> None:
    """Give the records after repairs what was before: attacks their reasons, worst cases their old values."""
    because = {cell["address"]: cell["because"] for cell in added if cell["because"] != TOO_FEW}
    for row in after:
        if row["attack"] != WORST_CASE:
            row["because"] = because.get(Path(row["cell"]).name)
    tried = {_budget(row) for row in after if row["because"] is not None}
    olds = {_budget(row): row for row in before if row["attack"] == WORST_CASE}
    for row in after:
        old = olds.get(_budget(row)) if row["attack"] == WORST_CASE else None
        if old is not None and (
            _budget(row) in tried or old["warnings"] != row["warnings"] or old["n"] != row["n"]
        ):
            row["before_accuracy"], row["before_verdict"] = old["robust_accuracy"], old["verdict"]
            row["before_n"], row["before_warnings"] = old["n"], old["warnings"]


def _budget(row: Record) -> Budget:
    return Budget(row["threat"], row["epsilon"])


TOO_FEW = "too few examples"


def probe_records(directory: Path | Opened) -> list[ProbeRecord]:
    """The accuracy of every model of a study under every timing probe, from the finished cells.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    return [_probe_record(base, names, cell) for base, names, cell in of_kind(directory, CellKind.PROBE)]


def distance_records(directory: Path | Opened) -> list[DistanceRecord]:
    """The distances of the nearest adversarial images of every model of a study, from the finished cells.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    return [
        _distance_record(base, names, cell) for base, names, cell in of_kind(directory, CellKind.DISTANCE)
    ]


def spike_records(directory: Path | Opened) -> list[SpikeRecord]:
    """What an attack does to the spikes of every model of a study, from the finished cells.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    return [_spike_record(base, names, cell) for base, names, cell in of_kind(directory, CellKind.ANALYSE)]


def of_kind(directory: Path | Opened, kind: CellKind) -> Iterator[tuple[Base, Names, Stored]]:
    """Every finished cell of a kind, with the results of its model on clean images."""
    opened = Opened.of(directory)
    plan, cells, names, bases = opened.plan, opened.cells, opened.names, dict[str, Base]()
    if not any(cell["kind"] == kind for cell in plan["plan"]):
        return
    for cell in plan["plan"]:
        train = cell["spec"].get("train", "")
        if train not in cells or cell["address"] not in cells:
            continue
        if cell["kind"] == CellKind.CLEAN:
            bases[train] = _base(plan["study"], names, cells[train], cells[cell["address"]])
        elif cell["kind"] == kind and train in bases:
            yield bases[train], names, cells[cell["address"]]


def _distance_record(base: Base, names: Names, cell: Stored) -> DistanceRecord:
    metrics, spec, known = cell.metrics, cell.cell["spec"], dict[str, object](base)
    record = {
        **{name: known[name] for name in DistanceRecord.__annotations__ if name in known},
        **{name: metrics[name] for name in DistanceRecord.__annotations__ if name in metrics},
        **{name: metrics[f"median_{end}"] for name, end in _MEDIAN.items()},
        "unconfirmed": metrics["unconfirmed_share"],
        "attack": names.attack(spec, base["seed"]),
        "threat": names.threat(spec),
        "cell": str(cell.path),
    }
    return cast(DistanceRecord, record)


_MEDIAN = {"median": "distance", "median_low": "low", "median_high": "high"}


def _probe_record(base: Base, names: Names, cell: Stored) -> ProbeRecord:
    metrics, known = cell.metrics, dict[str, object](base)
    above = base["clean_accuracy"] - metrics["chance"]
    record = {
        **{name: known[name] for name in ProbeRecord.__annotations__ if name in known},
        **{name: metrics[name] for name in ProbeRecord.__annotations__ if name in metrics},
        "probe": names.probes[text_of(cell.cell["spec"]["probe"])],
        "timing_share": metrics["lost"] / above if above > 0 else None,
        "cell": str(cell.path),
    }
    return cast(ProbeRecord, record)


def _spike_record(base: Base, names: Names, cell: Stored) -> SpikeRecord:
    metrics, spec, known = cell.metrics, cell.cell["spec"], dict[str, object](base)
    record = {
        **{name: known[name] for name in SpikeRecord.__annotations__ if name in known},
        **{name: metrics[name] for name in SpikeRecord.__annotations__ if name in metrics},
        "analysis": names.analyses[text_of(spec["analysis"])],
        "threat": names.threat(spec),
        "epsilon": spec["epsilon"],
        "cell": str(cell.path),
    }
    return cast(SpikeRecord, record)


@dataclass(frozen=True)
class _AtBudget:
    """The finished cells of one model at one budget.

    Args:
        budget: the threat by its name, and epsilon.
        clean: the clean cell of the model.
        attacks: what was planned, then what was added.
        proofs: certificates that were tried.
        searches: for the nearest adversarial image, in the norm of this threat.
    """

    budget: Budget
    clean: Stored
    attacks: Sequence[Stored]
    proofs: Sequence[Stored]
    searches: Sequence[Stored]

    @cached_property
    def worst(self) -> WorstCase:
        """Image by image, over all attacks."""
        return WorstCase.of(self.clean, self.attacks)

    @cached_property
    def proved(self) -> Array | None:
        """Per image, whether a certificate of the model itself holds; None where none applies."""
        applied = [cell for cell in self.proofs if cell.metrics["certified"] is not None]
        own = [columns_of(cell)["certified"] for cell in applied if _of_the_model(cell)]
        return np.stack(own).max(0) if own else None

    @property
    def contradicted(self) -> float:
        """Share of images that an attack broke although a certificate holds for them."""
        return 0.0 if self.proved is None else float((self.proved > self.worst.right).mean())

    @property
    def nearer(self) -> float:
        """Share of images that count as robust although an adversarial image within epsilon is known."""
        if not self.searches:
            return 0.0
        distance = np.stack([columns_of(cell)["distance"] for cell in self.searches]).min(0)
        return float(((distance <= self.budget.epsilon) & (self.worst.right > 0.5)).mean())


@dataclass(frozen=True)
class _Model:
    """The cells of one model: the wanted cells, the added cells, and all finished cells of the study."""

    study: str
    names: Names
    cells: Mapping[str, Stored]
    train: Stored
    wanted: Sequence[CellRecord]
    extra: Sequence[CellRecord] = ()

    def measured(self) -> Measured:
        """The numbers of the model; a worst case is taken over all finished attacks, wanted and extra."""
        clean, worst = next(self.finished(CellKind.CLEAN, self.wanted), None), list[Outcome]()
        if clean is None:
            return Measured([], worst)
        base, budgets = _base(self.study, self.names, self.train, clean), self.budgets(clean)
        rows: list[Record] = [] if budgets else [_clean_record(base)]
        for at in budgets.values():
            here = [_attack_record(base, self.names, at, cell) for cell in at.attacks]
            rows += here
            if at.attacks:
                rows.append(record := _worst_record(base, self.names, at, here))
                worst.append(Outcome(record, at.worst.right, at.worst.clean["example"]))
        _warn_rising([row for row in rows if row["attack"] != WORST_CASE])
        _judge(rows, self, budgets)
        return Measured(rows, worst)

    def budgets(self, clean: Stored) -> dict[Budget, _AtBudget]:
        """The finished cells by budget, in the order of the plan."""
        groups: dict[Budget, list[CellRecord]] = defaultdict(list)
        for cell in self.wanted:
            if cell["kind"] == CellKind.ATTACK:
                groups[self.names.budget(cell["spec"])].append(cell)
        more = self.by_budget(CellKind.ATTACK, self.extra)
        proofs = self.by_budget(CellKind.CERTIFY, self.wanted)
        searches = list(self.finished(CellKind.DISTANCE, self.wanted))
        found = {}
        for budget, group in groups.items():
            planned = list(self.finished(CellKind.ATTACK, group))
            found[budget] = _AtBudget(
                budget,
                clean,
                [*planned, *more[budget]],
                proofs[budget],
                [s for s in searches if self.names.threat(s.cell["spec"]) == budget.threat],
            )
        return found

    def by_budget(self, kind: CellKind, records: Sequence[CellRecord]) -> dict[Budget, list[Stored]]:
        """Finished cells of a kind by budget."""
        groups: dict[Budget, list[Stored]] = defaultdict(list)
        for cell in self.finished(kind, records):
            groups[self.names.budget(cell.cell["spec"])].append(cell)
        return groups

    def finished(self, kind: CellKind, records: Iterable[CellRecord]) -> Iterator[Stored]:
        """The finished ones of these cells, of one kind."""
        return (self.cells[c["address"]] for c in records if c["kind"] == kind and c["address"] in self.cells)


def _worth(clean: Stored) -> int:
    """The number of independent examples that those of a clean cell are worth."""
    independent: int = clean.metrics.get("independent", clean.metrics["n"])
    return independent


def _ends(metrics: Plain, accuracy: str, clean: Stored) -> Interval:
    """The interval of an accuracy of a cell, in which examples that are nearly the same count as one."""
    worth = _worth(clean)
    if worth == metrics["n"]:
        return Interval(metrics["ci_low"], metrics["ci_high"])
    return wilson(metrics[accuracy] * worth, worth)


def _base(study: str, names: Names, train: Stored, clean: Stored) -> Base:
    spec, metrics = train.cell["spec"], clean.metrics
    low, high = _ends(metrics, "clean_accuracy", clean)
    model, backdoor = spec["model"], clean.metrics.get("backdoor", {})
    suspicion = clean.metrics.get("suspicion", {})
    return {
        "study": study,
        "dataset": spec["dataset"]["name"],
        **names.parts(spec),
        "n": metrics["n"],
        "clean_accuracy": metrics["clean_accuracy"],
        "clean_argmax": metrics.get("clean_argmax"),
        "clean_ci_low": low,
        "clean_ci_high": high,
        "clean_all_draws": metrics["clean_all_draws"],
        "clean_vote": metrics.get("clean_vote"),
        "draws": metrics["draws"],
        "stochastic": metrics["stochastic"],
        "tie_share": metrics["tie_share"],
        "silent_share": metrics["silent_share"],
        "spikes_per_inference": metrics["spikes_per_inference"],
        "mean_exit": metrics.get("mean_exit"),
        "accuracy_by_step": metrics.get("accuracy_by_step", []),
        "model": str(train.path),
        "train_cell": str(train.path),
        "clean_cell": str(clean.path),
        "steps": _steps(model["encoder"]),
        "data_notes": data_notes(train.metrics),
        "backdoor_success": backdoor.get("target_share_triggered"),
        "backdoor_low": backdoor.get("triggered_low"),
        "backdoor_high": backdoor.get("triggered_high"),
        "backdoor_without": backdoor.get("target_share"),
        "backdoor_suspect": suspicion.get("suspect"),
        "backdoor_p_value": suspicion.get("p_value"),
    }


def _steps(encoder: Plain) -> int:
    """Number of time steps of an encoder, or of the encoder inside it; 1 for encoders of spike times."""
    if (steps := encoder.get("steps")) is not None:
        return int(steps)
    parts = [part for value in encoder.values() for part in (value if isinstance(value, list) else [value])]
    return next((_steps(part) for part in parts if isinstance(part, Mapping) and part.get("name")), 1)


class _Nothing(TypedDict):
    certified_low: None
    certified_high: None
    proofs: list[Proof]
    effort: None
    broken_by: list[Broke]
    because: None
    before_accuracy: None
    before_verdict: None
    before_n: None
    before_warnings: list[str]
    notes: list[str]
    missing: list[str]


def _nothing() -> _Nothing:
    """The fields of a record that only attacks, worst cases, certificates or repairs fill."""
    return {
        "certified_low": None,
        "certified_high": None,
        "proofs": [],
        "effort": None,
        "broken_by": [],
        "because": None,
        "before_accuracy": None,
        "before_verdict": None,
        "before_n": None,
        "before_warnings": [],
        "notes": [],
        "missing": [],
    }


def _clean_record(base: Base) -> Record:
    """The record of a study without attacks, which has the attack `none`."""
    return {
        **base,
        "attack": "none",
        "threat": "none",
        "epsilon": 0.0,
        "robust_accuracy": base["clean_accuracy"],
        "robust_argmax": base["clean_argmax"],
        "ci_low": base["clean_ci_low"],
        "ci_high": base["clean_ci_high"],
        "robust_all_draws": base["clean_all_draws"],
        "robust_vote": base["clean_vote"],
        "adversarial_tie_share": base["tie_share"],
        "adversarial_silent_share": base["silent_share"],
        "adversarial_mean_exit": base["mean_exit"],
        "gradient_free": True,
        **_nothing(),
        "nested": False,
        "certified": None,
        "certified_vote": None,
        "verdict": None,
        "warnings": [],
        "cell": base["clean_cell"],
    }


def _attack_record(base: Base, names: Names, at: _AtBudget, cell: Stored) -> Record:
    metrics = cell.metrics
    low, high = _ends(metrics, "robust_accuracy", at.clean)
    return {
        **base,
        "attack": names.attack(cell.cell["spec"], base["seed"]),
        "threat": at.budget.threat,
        "epsilon": at.budget.epsilon,
        "robust_accuracy": metrics["robust_accuracy"],
        "robust_argmax": metrics.get("robust_argmax"),
        "ci_low": low,
        "ci_high": high,
        "robust_all_draws": metrics["robust_all_draws"],
        "robust_vote": metrics.get("robust_vote"),
        "adversarial_tie_share": metrics["tie_share"],
        "adversarial_silent_share": metrics["silent_share"],
        "adversarial_mean_exit": metrics.get("mean_exit"),
        "gradient_free": metrics["gradient_free"],
        **_nothing(),
        "effort": effort(metrics, columns_of(cell)),
        "broken_by": suite_members(metrics),
        "nested": metrics.get("nested", False),
        "certified": None,
        "certified_vote": None,
        "verdict": None,
        "warnings": [],
        "cell": str(cell.path),
    }


def _worst_record(base: Base, names: Names, at: _AtBudget, rows: Sequence[Record]) -> Record:
    """The worst case over all attacks at a budget, with the certified accuracy beside the robust accuracy."""
    worst = at.worst
    right, voted, exits = worst.right, worst.column("voted"), worst.column("exit")
    first = worst.column("right_argmax")
    worth = _worth(at.clean)
    share = worth / len(right)
    low, high = wilson(share * float(right.sum()), worth)
    proved = [None, None] if at.proved is None else wilson(share * float(at.proved.sum()), worth)
    attacks, metrics = [row["attack"] for row in rows], [cell.metrics for cell in at.attacks]
    record: Record = {
        **base,
        "attack": WORST_CASE,
        "threat": at.budget.threat,
        "epsilon": at.budget.epsilon,
        "robust_accuracy": float(right.mean()),
        "robust_argmax": None if np.isnan(first).any() else float(first.mean()),
        "ci_low": low,
        "ci_high": high,
        "robust_all_draws": float((right == 1).mean()),
        "robust_vote": None if np.isnan(voted).any() else float(voted.mean()),
        "adversarial_tie_share": float(worst.column("tie").mean()),
        "adversarial_silent_share": float(worst.column("silent").mean()),
        "adversarial_mean_exit": None if np.isnan(exits).any() else float(exits.mean()),
        "gradient_free": all(row["gradient_free"] for row in rows),
        **_nothing(),
        "broken_by": contributions(worst.clean, worst.attacks, worst.chosen, attacks, metrics),
        "nested": any(row["nested"] for row in rows),
        "certified": None if at.proved is None else float(at.proved.mean()),
        "certified_vote": max(_votes(at.proofs), default=None),
        "verdict": None,
        "warnings": [],
        "cell": str(at.attacks[worst.hardest].path),
    }
    record["certified_low"], record["certified_high"] = proved
    record["proofs"] = [_proof(names, cell) for cell in at.proofs]
    return record


def _of_the_model(proof: Stored) -> bool:
    """Whether a certificate is about the model itself, and not about a vote over its answers."""
    return bool(proof.metrics["subject"] == Certificate.subject)


def _votes(proofs: Sequence[Stored]) -> list[float]:
    """The certified accuracies of classifiers other than the model itself."""
    return [
        cell.metrics["certified"]
        for cell in proofs
        if cell.metrics["certified"] is not None and not _of_the_model(cell)
    ]


def outcomes(directory: Path | Opened, worst: Record, records: Sequence[Record]) -> tuple[Array, Array]:
    """The outcomes of one worst case, read again: the share of draws answered rightly, and the images' ids.

    Args:
        directory: the output directory of a run, or the study in it.
        worst: one of the worst cases.
        records: those of its model and budget, which may stand among others.
    """
    opened = Opened.of(directory)
    found = [
        row for row in records if row["train_cell"] == worst["train_cell"] and _budget(row) == _budget(worst)
    ]
    paths = [worst["clean_cell"], *(row["cell"] for row in found if row["attack"] != WORST_CASE)]
    clean, *attacks = map(opened.cell, paths)
    return WorstCase.of(clean, attacks).right, columns_of(clean)["example"]


def _warn_rising(rows: Sequence[Record]) -> None:
    """Warn where accuracy rises with epsilon: a larger budget contains the smaller, so the attack is weak."""
    curves: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for row in rows:
        curves[row["attack"], row["threat"]].append(row)
    for curve in curves.values():
        curve.sort(key=lambda row: row["epsilon"])
        for i, row in enumerate(curve[1:], 1):
            best = min(curve[:i], key=_accuracy)
            if _accuracy(row) > _accuracy(best):
                row["warnings"].append(
                    f"accuracy rises with epsilon: {_accuracy(best):.1%} at {best['epsilon']:.4g} "
                    f"-> {_accuracy(row):.1%} at {row['epsilon']:.4g}"
                )


def _proof(names: Names, cell: Stored) -> Proof:
    return proof(names.certificates[text_of(cell.cell["spec"]["certificate"])], cell.metrics)


def _judge(rows: Sequence[Record], model: _Model, budgets: Mapping[Budget, _AtBudget]) -> None:
    """Add the verdict of the audit and its reasons to every worst case."""
    inspected = next(model.finished(CellKind.INSPECT, (*model.wanted, *model.extra)), None)
    diagnostics = None if inspected is None else _diagnostics(inspected.metrics)
    spec = model.train.cell["spec"]["model"]
    for worst in (row for row in rows if row["attack"] == WORST_CASE):
        alike = [row for row in rows if row["threat"] == worst["threat"]]
        here = [row for row in alike if row["epsilon"] == worst["epsilon"]]
        at = budgets[_budget(worst)]
        verdict = audit(
            Evidence(
                accuracy=worst["robust_accuracy"],
                interval=Interval(worst["ci_low"], worst["ci_high"]),
                n=worst["n"],
                clean_accuracy=worst["clean_accuracy"],
                classes=spec["classes"],
                epsilon=worst["epsilon"],
                unbounded=PARTS[Threat].get(worst["threat"]) is Linf and worst["epsilon"] >= 1,
                stochastic=worst["stochastic"],
                attacks=[
                    evidence
                    for row in here
                    if row["attack"] != WORST_CASE
                    for evidence in _evidence(row["attack"], model.cells[row["cell"].rpartition(os.sep)[2]])
                ],
                curve=[
                    CurvePoint(row["epsilon"], row["robust_accuracy"])
                    for row in alike
                    if row["attack"] == WORST_CASE
                ],
                diagnostics=diagnostics,
                contradicted=at.contradicted,
                dynamic_exit=_exits(spec),
                nearer=at.nearer,
                nested=all(row["nested"] for row in here),
                suites=[level for cell in at.attacks if (level := _level(cell))],
                other_gradients=_other_gradients(spec),
                tie_share=worst["adversarial_tie_share"],
                argmax_accuracy=worst["robust_argmax"],
                different=_worth(at.clean),
            )
        )
        worst["notes"] = [f"{finding.check}: {finding.why}" for finding in verdict.notes]
        worst["verdict"] = verdict.verdict
        worst["warnings"] += [f"{finding.check}: {finding.why}" for finding in verdict.findings]


def _level(cell: Stored) -> str | None:
    """The level of the suite of a cell; None for other attacks."""
    return str(cell.cell["spec"]["attack"]["level"]) if is_suite(cell.metrics) else None


def _other_gradients(model: Plain) -> bool:
    """Whether there are other gradients of the same spikes, as there are where a neuron is not known."""
    if is_owned(model):
        return bool(model.get("other_gradients", False))
    try:
        neuron: Neuron = build(Neuron, model["neuron"], PARTS)
    except InputError:
        return True
    return neuron.spiking


def _exits(model: Plain) -> bool:
    """Whether a model may decide before the last time step; one with an unknown decoder is taken not to."""
    if is_owned(model):
        return bool(model.get("dynamic_exit", False))
    try:
        decoder: Decoder = build(Decoder, model["decoder"], PARTS)
    except InputError:
        return False
    return dynamic_exit(decoder)


def _evidence(name: str, cell: Stored) -> list[AttackEvidence]:
    if is_suite(cell.metrics):
        return suite_evidence(cell.metrics)
    return [attack_evidence(name, _recipe(cell), cell.metrics)]


def _recipe(cell: Stored) -> Recipe:
    """The attack of a cell; an attack that this version does not know counts as one of a single step."""
    known = _built(text_of(cell.cell["spec"]["attack"]))
    if known is None:
        return SquareSearch() if cell.metrics["gradient_free"] else FGSM()
    return known


@lru_cache(maxsize=4096)
def _built(spec: str) -> Recipe | None:
    """The attack of a spec in JSON, which many cells share; None if this version does not know it."""
    try:
        recipe: Recipe = build(Recipe, json.loads(spec), PARTS)
    except InputError:
        return None
    return recipe


def _diagnostics(metrics: Metrics) -> Diagnostics:
    names = {column.name for column in fields(Diagnostics)}
    return Diagnostics(**{name: value for name, value in metrics.items() if name in names})


def _accuracy(row: Record) -> float:
    return row["robust_accuracy"]
