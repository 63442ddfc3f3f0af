"""Stored cells as headline numbers: one record per model, attack and budget, with what looks suspicious.

For every model and budget there is one record more, the worst case: each image is attacked by whichever
attack hurt most on the draws that were used for choosing, and is counted on fresh draws. Attacks that an
audit added count as well; such a worst case tells what it was before.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.gradient.plain import FGSM
from spikeproof.attacks.recipe import Recipe
from spikeproof.audit.assess import attack_evidence, suite_evidence
from spikeproof.audit.checks import audit
from spikeproof.audit.evidence import AttackEvidence, CurvePoint, Evidence, ProbeEvidence
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import dynamic_exit
from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.read.record import Broke, DistanceRecord, ProbeRecord, Proof, Record
from spikeproof.experiments.read.traces import effort, members, proof, shares
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.store import Store, Stored
from spikeproof.experiments.study.cells import Cell
from spikeproof.protocols import Decoder
from spikeproof.specs import build
from spikeproof.statistics import Interval, wilson

__all__ = [
    "WORST_CASE",
    "Column",
    "distance_records",
    "labels",
    "outcomes",
    "probe_records",
    "records",
    "restated",
]

WORST_CASE = "worst-case"

Spec = Mapping[str, Any]


def records(directory: Path) -> list[Record]:
    """The headline numbers of a study, as far as it is finished, in the order of the study.

    Args:
        directory: the output directory of a run.

    Raises:
        InputError: the directory holds no study.
    """
    plan, store = read_plan(directory), Store(directory)
    cells = {stored.address: stored for stored in _readable(store, plan["cells"])}
    names = _Names.of(plan["plan"], plan["repairs"])
    rows: list[Record] = []
    for train in plan["plan"]:
        if train["kind"] == "train" and train["address"] in cells:
            model = cells[train["address"]]
            wanted, added = (
                [cell for cell in cells_ if cell["spec"].get("train") == model.address]
                for cells_ in (plan["plan"], plan["repairs"])
            )
            before = _records_of_model(plan["study"], names, cells, model, wanted)
            planned, extra = _repaired(wanted, added, cells)
            if not extra and planned is wanted:
                rows += before
                continue
            after = _records_of_model(plan["study"], names, cells, model, planned, extra)
            rows += _with_before(after, before, added)
    return rows


MEASURED = ("clean", "inspect", "attack", "certify", "distance")


def restated(cell: Spec, examples: int) -> Cell:
    """The cell of a plan that measures the same on so many examples; afresh, what was nested."""
    spec = {name: value for name, value in cell["spec"].items() if name != "smaller"}
    return Cell.of(cell["kind"], {**spec, "examples": examples})


def _repaired(
    wanted: Sequence[Spec], added: Sequence[Spec], cells: Mapping[str, Stored]
) -> tuple[Sequence[Spec], Sequence[Spec]]:
    """The plan of a model on the most examples on which all of it is measured, and what was added there."""
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


def _with_before(after: list[Record], before: Sequence[Record], added: Sequence[Spec]) -> list[Record]:
    """Records after repairs: each attack that was added with its reason, each worst case as it was before."""
    because = {cell["address"]: cell["because"] for cell in added if cell["because"] != TOO_FEW}
    for row in after:
        if row["attack"] != WORST_CASE:
            row["because"] = because.get(Path(row["cell"]).name)
    tried = {(row["threat"], row["epsilon"]) for row in after if row["because"] is not None}
    olds = {(row["threat"], row["epsilon"]): row for row in before if row["attack"] == WORST_CASE}
    for row in after:
        budget = (row["threat"], row["epsilon"])
        old = olds.get(budget) if row["attack"] == WORST_CASE else None
        if old is not None and (
            budget in tried or old["warnings"] != row["warnings"] or old["n"] != row["n"]
        ):
            row["before_accuracy"], row["before_verdict"] = old["robust_accuracy"], old["verdict"]
            row["before_n"], row["before_warnings"] = old["n"], old["warnings"]
    return after


TOO_FEW = "too few examples"


def probe_records(directory: Path) -> list[ProbeRecord]:
    """What every model of a study answers under every probe of timing, as far as it is finished.

    Args:
        directory: the output directory of a run.

    Raises:
        InputError: the directory holds no study.
    """
    return [_probe_record(base, names, cell) for base, names, cell in _of_kind(directory, "probe")]


def distance_records(directory: Path) -> list[DistanceRecord]:
    """How far the nearest adversarial images of every model of a study are, as far as it is finished.

    Args:
        directory: the output directory of a run.

    Raises:
        InputError: the directory holds no study.
    """
    return [_distance_record(base, names, cell) for base, names, cell in _of_kind(directory, "distance")]


def _of_kind(directory: Path, kind: str) -> Iterator[tuple[Spec, _Names, Stored]]:
    """Every finished cell of a kind, with what is known of its model."""
    plan, store = read_plan(directory), Store(directory)
    cells = {stored.address: stored for stored in _readable(store, plan["cells"])}
    names, bases = _Names.of(plan["plan"], ()), dict[str, dict[str, Any]]()
    for cell in plan["plan"]:
        train = cells.get(cell["spec"].get("train", ""))
        if train is None or cell["address"] not in cells:
            continue
        if cell["kind"] == "clean":
            bases[train.address] = _base(plan["study"], names, train, cells[cell["address"]])
        elif cell["kind"] == kind and train.address in bases:
            yield bases[train.address], names, cells[cell["address"]]


def _distance_record(base: Spec, names: _Names, cell: Stored) -> DistanceRecord:
    metrics, spec = cell.metrics, cell.cell["spec"]
    record = {
        **{name: base[name] for name in DistanceRecord.__annotations__ if name in base},
        **{name: metrics[name] for name in DistanceRecord.__annotations__ if name in metrics},
        **{name: metrics[f"median_{end}"] for name, end in _MEDIAN.items()},
        "unconfirmed": metrics["unconfirmed_share"],
        "attack": names.attack(spec, base["seed"]),
        "threat": names.threats[_text(spec["threat"])],
        "cell": str(cell.path),
    }
    return cast(DistanceRecord, record)


_MEDIAN = {"median": "distance", "median_low": "low", "median_high": "high"}


def _probe_record(base: Spec, names: _Names, cell: Stored) -> ProbeRecord:
    metrics, above = cell.metrics, base["clean_accuracy"] - cell.metrics["chance"]
    record = {
        **{name: base[name] for name in ProbeRecord.__annotations__ if name in base},
        **{name: metrics[name] for name in ProbeRecord.__annotations__ if name in metrics},
        "probe": names.probes[_text(cell.cell["spec"]["probe"])],
        "timing_share": metrics["lost"] / above if above > 0 else None,
        "cell": str(cell.path),
    }
    return cast(ProbeRecord, record)


def _readable(store: Store, addresses: Iterable[str]) -> Iterable[Stored]:
    for address in addresses:
        try:
            stored = store.find(address)
        except DamagedError:  # `status` names it and `run` computes it again
            continue
        if stored is not None:
            yield stored


def _records_of_model(
    study: str,
    names: _Names,
    cells: Mapping[str, Stored],
    train: Stored,
    wanted: Sequence[Spec],
    extra: Sequence[Spec] = (),
) -> list[Record]:
    """The numbers of one model; a worst case once all that was wanted is there, with the extra that is."""
    clean = next(
        (cells[c["address"]] for c in wanted if c["kind"] == "clean" and c["address"] in cells), None
    )
    if clean is None:
        return []
    base = _base(study, names, train, clean)
    groups: dict[tuple[str, float], list[Spec]] = defaultdict(list)
    for cell in wanted:
        if cell["kind"] == "attack":
            groups[names.threats[_text(cell["spec"]["threat"])], cell["spec"]["epsilon"]].append(cell)
    more: dict[tuple[str, float], list[Stored]] = defaultdict(list)
    for cell in extra:
        if cell["kind"] == "attack":
            budget = (names.threats[_text(cell["spec"]["threat"])], cell["spec"]["epsilon"])
            more[budget].append(cells[cell["address"]])
    rows: list[Record] = [] if groups else [_clean_record(base)]
    contradicted: dict[tuple[str, float], float] = {}
    for (threat, epsilon), group in groups.items():
        found = [cells[cell["address"]] for cell in group if cell["address"] in cells]
        whole = bool(found) and len(found) == len(group)
        found += more[threat, epsilon]
        here = [_attack_record(base, names, threat, epsilon, cell) for cell in found]
        if whole:
            here.append(_worst_record(base, threat, epsilon, clean, found, here))
            proofs = [
                cells[c["address"]]
                for c in wanted
                if c["kind"] == "certify"
                and c["address"] in cells
                and (names.threats[_text(c["spec"]["threat"])], c["spec"]["epsilon"]) == (threat, epsilon)
            ]
            contradicted[threat, epsilon] = _certify(here[-1], clean, found, proofs)
            here[-1]["proofs"] = [_proof(names, cell) for cell in proofs]
        rows += here
    _warn_rising([row for row in rows if row["attack"] != WORST_CASE])
    looks = [c for c in (*wanted, *extra) if c["kind"] == "inspect" and c["address"] in cells]
    inspected = cells[looks[0]["address"]] if looks else None
    far = [cells[c["address"]] for c in wanted if c["kind"] == "distance" and c["address"] in cells]
    nearer = {
        place: _nearer(
            clean,
            [*(cells[c["address"]] for c in group if c["address"] in cells), *more[place]],
            near,
            place[1],
        )
        for place, group in groups.items()
        if (near := [cell for cell in far if names.threats[_text(cell.cell["spec"]["threat"])] == place[0]])
    }
    _judge(rows, cells, train, inspected, contradicted, nearer)
    return rows


def _nearer(clean: Stored, found: Sequence[Stored], far: Sequence[Stored], epsilon: float) -> float:
    """Share of examples that all attacks left standing, with an adversarial image within epsilon known."""
    distance = np.stack([_columns(cell)["distance"] for cell in far]).min(0)
    return float(((distance <= epsilon) & (_worst_case(clean, found)[0] > 0.5)).mean())


def _base(study: str, names: _Names, train: Stored, clean: Stored) -> dict[str, Any]:
    spec, metrics = train.cell["spec"], clean.metrics
    model = spec["model"]
    return {
        "study": study,
        "dataset": spec["dataset"]["name"],
        **{axis: names.axes[axis][_text(model[axis])] for axis in _AXES},
        "rule": names.axes["rule"][_text(spec["rule"])],
        "seed": spec["seed"],
        "n": metrics["n"],
        "clean_accuracy": metrics["clean_accuracy"],
        "clean_ci_low": metrics["ci_low"],
        "clean_ci_high": metrics["ci_high"],
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
    }


_AXES = ("network", "neuron", "encoder", "decoder", "surrogate")


def _steps(encoder: Spec) -> int:
    """Number of time steps of a code, or of the code inside it; 1 for codes of spike times."""
    if "steps" in encoder:
        return int(encoder["steps"])
    parts = [part for value in encoder.values() for part in (value if isinstance(value, list) else [value])]
    return next((_steps(part) for part in parts if isinstance(part, Mapping) and "name" in part), 1)


_NOTHING: Mapping[str, Any] = {
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
}
"""What a record lacks that is no attack, no worst case, was not certified or not repaired."""


def _clean_record(base: Spec) -> Record:
    """The record of a study without attacks: an attack that does nothing."""
    record = {
        **base,
        "attack": "none",
        "threat": "none",
        "epsilon": 0.0,
        "robust_accuracy": base["clean_accuracy"],
        "ci_low": base["clean_ci_low"],
        "ci_high": base["clean_ci_high"],
        "robust_all_draws": base["clean_all_draws"],
        "robust_vote": base["clean_vote"],
        "adversarial_tie_share": base["tie_share"],
        "adversarial_silent_share": base["silent_share"],
        "adversarial_mean_exit": base["mean_exit"],
        "gradient_free": True,
        **_NOTHING,
        "nested": False,
        "certified": None,
        "certified_vote": None,
        "verdict": None,
        "warnings": [],
        "cell": base["clean_cell"],
    }
    return cast(Record, record)


def _attack_record(base: Spec, names: _Names, threat: str, epsilon: float, cell: Stored) -> Record:
    metrics = cell.metrics
    record = {
        **base,
        "attack": names.attack(cell.cell["spec"], base["seed"]),
        "threat": threat,
        "epsilon": epsilon,
        "robust_accuracy": metrics["robust_accuracy"],
        "ci_low": metrics["ci_low"],
        "ci_high": metrics["ci_high"],
        "robust_all_draws": metrics["robust_all_draws"],
        "robust_vote": metrics.get("robust_vote"),
        "adversarial_tie_share": metrics["tie_share"],
        "adversarial_silent_share": metrics["silent_share"],
        "adversarial_mean_exit": metrics.get("mean_exit"),
        "gradient_free": metrics["gradient_free"],
        **_NOTHING,
        "effort": effort(metrics, _columns(cell)),
        "broken_by": members(metrics),
        "nested": metrics.get("nested", False),
        "certified": None,
        "certified_vote": None,
        "verdict": None,
        "warnings": [],
        "cell": str(cell.path),
    }
    return cast(Record, record)


def _worst_record(
    base: Spec, threat: str, epsilon: float, clean: Stored, found: Sequence[Stored], rows: Sequence[Record]
) -> Record:
    right, ties, silent, exits, voted, chosen = _worst_case(clean, found)
    low, high = wilson(float(right.sum()), len(right))
    hardest = int(np.bincount(chosen, minlength=len(found) + 1)[1:].argmax())
    record = {
        **base,
        "attack": WORST_CASE,
        "threat": threat,
        "epsilon": epsilon,
        "robust_accuracy": float(right.mean()),
        "ci_low": low,
        "ci_high": high,
        "robust_all_draws": float((right == 1).mean()),
        "robust_vote": None if np.isnan(voted).any() else float(voted.mean()),
        "adversarial_tie_share": float(ties.mean()),
        "adversarial_silent_share": float(silent.mean()),
        "adversarial_mean_exit": None if np.isnan(exits).any() else float(exits.mean()),
        "gradient_free": all(row["gradient_free"] for row in rows),
        **_NOTHING,
        "broken_by": _shares(clean, found, chosen, rows),
        "nested": any(row["nested"] for row in rows),
        "certified": None,
        "certified_vote": None,
        "verdict": None,
        "warnings": [],
        "cell": str(found[hardest].path),
    }
    return cast(Record, record)


def _shares(
    clean: Stored, found: Sequence[Stored], chosen: NDArray[np.intp], rows: Sequence[Record]
) -> list[Broke]:
    names, metrics = [row["attack"] for row in rows], [cell.metrics for cell in found]
    return shares(_columns(clean), [_columns(cell) for cell in found], chosen, names, metrics)


Column = NDArray[np.float64]


def _worst_case(
    clean: Stored, found: Sequence[Stored]
) -> tuple[Column, Column, Column, Column, Column, NDArray[np.intp]]:
    """Per image: share of fresh draws right, ties, silence, exit, vote, and the attack chosen (0: none).

    What was not measured is NaN.
    """
    tables = [_columns(clean), *map(_columns, found)]
    selection = np.stack([table["right_selection"] for table in tables])
    unknown = np.full(selection.shape[1], np.nan)
    wanted = ("right", "tie", "silent", "exit", "voted")
    measured = [np.stack([table.get(column, unknown) for table in tables]) for column in wanted]
    order = np.argsort(selection.mean(1), kind="stable")  # of equals the attack that is stronger as a whole
    chosen = order[selection[order].argmin(0)]
    right, ties, silent, exits, voted = (np.take_along_axis(m, chosen[None], 0)[0] for m in measured)
    return right, ties, silent, exits, voted, chosen


def outcomes(directory: Path, worst: Record, records: Sequence[Record]) -> tuple[Column, Column]:
    """What one worst case was counted from: per image, the share of draws answered rightly, and which image.

    Args:
        directory: the output directory of a run.
        worst: one of the worst cases.
        records: all records of the study.
    """
    store = Store(directory)
    alike = ("train_cell", "threat", "epsilon")
    found = [row for row in records if all(dict(row)[name] == dict(worst)[name] for name in alike)]
    paths = [worst["clean_cell"], *(row["cell"] for row in found if row["attack"] != WORST_CASE)]
    clean, *attacks = [cell for path in paths for cell in _readable(store, [Path(path).name])]
    return _worst_case(clean, attacks)[0], _columns(clean)["example"]


def _columns(cell: Stored) -> dict[str, Column]:
    table = pq.read_table(cell.path / "examples.parquet")
    return {name: table.column(name).to_numpy().astype(float) for name in table.column_names}


def _warn_rising(rows: Sequence[Record]) -> None:
    """A larger budget holds every smaller one, so accuracy that rises with it shows a weak attack."""
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


def _certify(worst: Record, clean: Stored, found: Sequence[Stored], proofs: Sequence[Stored]) -> float:
    """Note what was proved beside what was left standing; the share of examples where the two disagree."""
    applied = [cell for cell in proofs if cell.metrics["certified"] is not None]
    of_model = [cell for cell in applied if cell.metrics["subject"] == "model"]
    votes = [cell.metrics["certified"] for cell in applied if cell.metrics["subject"] != "model"]
    worst["certified_vote"] = max(votes, default=None)
    if not of_model:
        return 0.0
    proved = np.stack([_columns(cell)["certified"] for cell in of_model]).max(0)
    worst["certified"] = float(proved.mean())
    worst["certified_low"], worst["certified_high"] = wilson(float(proved.sum()), len(proved))
    right = _worst_case(clean, found)[0]
    return float((proved > right).mean())


def _proof(names: _Names, cell: Stored) -> Proof:
    return proof(names.certificates[_text(cell.cell["spec"]["certificate"])], cell.metrics)


def _judge(
    rows: Sequence[Record],
    cells: Mapping[str, Stored],
    train: Stored,
    inspected: Stored | None,
    contradicted: Mapping[tuple[str, float], float],
    nearer: Mapping[tuple[str, float], float],
) -> None:
    """Every worst case gets the verdict of the audit, with its reasons."""
    probe = None if inspected is None else _probe_evidence(inspected.metrics)
    for worst in (row for row in rows if row["attack"] == WORST_CASE):
        alike = [row for row in rows if row["threat"] == worst["threat"]]
        attacks = [
            evidence
            for row in alike
            if row["epsilon"] == worst["epsilon"] and row["attack"] != WORST_CASE
            for evidence in _evidence(row["attack"], cells[Path(row["cell"]).name])
        ]
        verdict = audit(
            Evidence(
                accuracy=worst["robust_accuracy"],
                interval=Interval(worst["ci_low"], worst["ci_high"]),
                n=worst["n"],
                clean_accuracy=worst["clean_accuracy"],
                classes=train.cell["spec"]["model"]["classes"],
                epsilon=worst["epsilon"],
                unbounded=worst["threat"] == "linf" and worst["epsilon"] >= 1,
                stochastic=worst["stochastic"],
                attacks=attacks,
                curve=[
                    CurvePoint(row["epsilon"], row["robust_accuracy"])
                    for row in alike
                    if row["attack"] == WORST_CASE
                ],
                probe=probe,
                contradicted=contradicted[worst["threat"], worst["epsilon"]],
                dynamic_exit=_exits(train.cell["spec"]["model"]["decoder"]),
                nearer=nearer.get((worst["threat"], worst["epsilon"]), 0.0),
                nested=all(row["nested"] for row in alike if row["epsilon"] == worst["epsilon"]),
            )
        )
        worst["verdict"] = verdict.verdict
        worst["warnings"] += [f"{finding.check}: {finding.why}" for finding in verdict.findings]


def _exits(spec: Spec) -> bool:
    """Whether a decoder exits as outputs have it; one that this version does not know is taken for plain."""
    try:
        decoder: Decoder = build(Decoder, spec, PARTS)
    except InputError:
        return False
    return dynamic_exit(decoder)


def _evidence(name: str, cell: Stored) -> list[AttackEvidence]:
    if "members" in cell.metrics:
        return suite_evidence(cell.metrics)
    return [attack_evidence(name, _recipe(cell), cell.metrics)]


def _recipe(cell: Stored) -> Recipe:
    """The attack of a cell; one that this version does not know is taken for one of a single step."""
    try:
        recipe: Recipe = build(Recipe, cell.cell["spec"]["attack"], PARTS)
    except InputError:
        return SquareSearch() if cell.metrics["gradient_free"] else FGSM()
    return recipe


def _probe_evidence(metrics: Mapping[str, Any]) -> ProbeEvidence:
    names = {column.name for column in fields(ProbeEvidence)}
    return ProbeEvidence(**{name: value for name, value in metrics.items() if name in names})


def _accuracy(row: Record) -> float:
    return row["robust_accuracy"]


@dataclass(frozen=True)
class _Names:
    """Display names of every member that a study uses: canonical text -> name."""

    axes: Mapping[str, Mapping[str, str]]
    attacks: Mapping[str, str]
    threats: Mapping[str, str]
    probes: Mapping[str, str]
    certificates: Mapping[str, str]
    models: Mapping[str, tuple[str, int]]  # address of a train cell -> the parts that tell it apart, its seed

    def attack(self, spec: Spec, seed: int) -> str:
        """The attack of a cell, with what its images were made on."""
        name, source = self.attacks[_text(spec["attack"])], spec.get("source")
        nested = ", nested" if "smaller" in spec else ""
        if source is None:
            return name + nested
        if not isinstance(source, str):
            return f"{name} from {Path(source['saved']).name} ({source['sha256'][:8]}){nested}"
        parts, other_seed = self.models.get(source, ("another model", seed))
        words = [*([parts] if parts else []), *([f"seed {other_seed}"] if other_seed != seed else [])]
        return f"{name} from {', '.join(words)}{nested}"

    @classmethod
    def of(cls, plan: Sequence[Spec], repairs: Sequence[Spec]) -> _Names:
        """Names for what a plan uses; what repairs add is named beside it and renames nothing."""
        models = [cell["spec"] for cell in plan if cell["kind"] == "train"]
        attacks = [cell["spec"] for cell in plan if cell["kind"] in ("attack", "distance")]
        added = [cell["spec"] for cell in repairs if cell["kind"] == "attack"]
        axes = {axis: labels(spec["model"][axis] for spec in models) for axis in _AXES}
        axes["rule"] = labels(spec["rule"] for spec in models)
        telling = [axis for axis in axes if len(axes[axis]) > 1]
        parts = {
            cell["address"]: (
                ", ".join(axes[axis][_text(_part(cell["spec"], axis))] for axis in telling),
                int(cell["spec"]["seed"]),
            )
            for cell in plan
            if cell["kind"] == "train"
        }
        return cls(
            axes,
            {
                **labels(spec["attack"] for spec in (*attacks, *added)),
                **labels(spec["attack"] for spec in attacks),
            },
            labels(cell["spec"]["threat"] for cell in plan if "threat" in cell["spec"]),
            labels(cell["spec"]["probe"] for cell in plan if cell["kind"] == "probe"),
            labels(cell["spec"]["certificate"] for cell in plan if cell["kind"] == "certify"),
            parts,
        )


def _part(train: Spec, axis: str) -> Spec:
    part: Spec = train["rule"] if axis == "rule" else train["model"][axis]
    return part


def labels(members: Iterable[Spec]) -> dict[str, str]:
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
    distinct = {_text(member): member for member in members}
    groups: dict[str, list[Spec]] = defaultdict(list)
    for member in distinct.values():
        groups[_base_name(member)].append(member)
    names = {}
    for text, member in distinct.items():
        name = _base_name(member)
        options = _differing(_flat(member), [_flat(other) for other in groups[name]])
        names[text] = f"{name}({', '.join(options)})" if options else name
    return names


def _differing(member: Spec, group: Sequence[Spec]) -> list[str]:
    """The options in which a member differs from others, compared only where their parts are the same."""
    options = []
    for option, value in member.items():
        part = option.rpartition(".")[0]
        alike = [other for other in group if other.get(part) == member.get(part)]
        if value is not None and any(other.get(option) != value for other in alike):
            options.append(f"{option}={_brief(value)}")
    return options


_NAMED_BY_ATTACK = ("torchattacks", "foolbox", "transfer")


def _base_name(member: Spec) -> str:
    if member["name"] == "suite" and "level" in member:
        return f"suite {member['level']}"
    inside = [part for key in ("codes", "decoders") for part in member.get(key, [])]
    inside += [member[key] for key in ("code", "decoder") if key in member]
    inside += [member["attack"]] if member["name"] in _NAMED_BY_ATTACK else []
    names = [_base_name(part) for part in inside if isinstance(part, Mapping)]
    return f"{member['name']}({'+'.join(names)})" if names else str(member["name"])


def _flat(member: Spec, prefix: str = "") -> dict[str, Any]:
    """Options of a member, those of its parts as `part.option` and a part's own name as `part`."""
    flat: dict[str, Any] = {}
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


def _text(spec: Spec) -> str:
    return json.dumps(spec, sort_keys=True)
