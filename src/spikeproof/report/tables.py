"""Tables: the headline numbers of a study, with one row per model, for the page, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Literal, NamedTuple

from spikeproof.analysis.spike_analysis import CostSummary
from spikeproof.auditing.checks import DOUBTFUL, MARKS, PRELIMINARY, WITHHELD
from spikeproof.experiments.read.gathered.across_seeds import SeedComparison, SeedMean
from spikeproof.experiments.read.gathered.paper_rows import PaperRow
from spikeproof.experiments.read.record import (
    Broke,
    CorruptionError,
    CorruptionRecord,
    DistanceRecord,
    Effort,
    ProbeRecord,
    Proof,
    Record,
    SpikeRecord,
    TransferGrid,
    value_of,
    values_of,
)
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.read.trained import Curve, Epoch
from spikeproof.statistics import Interval, over_seeds

__all__ = [
    "ARCHITECTURE",
    "AXES",
    "MISSING",
    "NO_ATTACK",
    "Budget",
    "Headline",
    "Seeds",
    "Tally",
    "across_seeds_csv",
    "architecture",
    "attacked",
    "attacks_of",
    "budget_of",
    "budgets",
    "comparisons_latex",
    "corruption_errors_csv",
    "corruptions_csv",
    "csv_text",
    "distance",
    "distances_csv",
    "epsilon_text",
    "far",
    "headlines",
    "interval",
    "judged",
    "label",
    "latex_text",
    "number",
    "paper_csv",
    "paper_latex",
    "percent",
    "probes_csv",
    "proof_words",
    "seeds",
    "seeds_json",
    "spikes_csv",
    "tallies",
    "to_csv",
    "to_latex",
    "training_csv",
    "trainings_csv",
    "transfers_csv",
    "varying",
    "without_seed",
]

NO_ATTACK = "none"
"""What a record of a study without attacks has for its attack and threat."""

EFFORT, LOSS_BY_STEP, CERTIFICATE = "effort", "loss_by_step", "certificate"
"""Fields of records that the tables treat in a way of their own."""

_THE_MODEL = "model"
"""What a certificate is about that holds for the model itself, not for a vote."""

MISSING = "\N{EN DASH}"

LEARNING_RULE, SEED = "rule", "seed"
ARCHITECTURE = ("dataset", "network", "neuron", "encoder", "decoder", "surrogate", LEARNING_RULE)
"""The fields by which models differ, apart from the seed of their training."""

AXES = (*ARCHITECTURE, SEED, "n")
"""The fields by which models differ, in the order in which tables show them."""


class Budget(NamedTuple):
    """A threat and its size."""

    threat: str
    epsilon: float


@dataclass(frozen=True)
class Headline:
    """One model: its accuracy on clean images and in the worst case at every budget.

    Args:
        model: a record of the model, for the fields that do not depend on the attack.
        worst: the worst case at each budget, over the attacks that are finished.
        warnings: the warnings of all records of the model, each text once.
    """

    model: Record
    worst: dict[Budget, Record]
    warnings: tuple[str, ...]


def headlines(records: Iterable[Record]) -> list[Headline]:
    """One row per model, in the order of the records.

    Args:
        records: the records of one study.
    """
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(record["model"], []).append(record)
    return [_headline(rows) for rows in models.values()]


def _headline(rows: Sequence[Record]) -> Headline:
    worst = {budget_of(row): row for row in rows if row["attack"] == WORST_CASE}
    warnings = tuple(dict.fromkeys(chain.from_iterable(row["warnings"] for row in rows if row["warnings"])))
    return Headline(rows[0], worst, warnings)


def budgets(records: Iterable[Record]) -> list[Budget]:
    """Every threat with each of its epsilons, in ascending order; empty for a study without attacks.

    Args:
        records: the records of one study.
    """
    return sorted({budget_of(record) for record in attacked(records)})


def attacked(records: Iterable[Record]) -> list[Record]:
    """The records of attacks and of worst cases, without the placeholders of a study without attacks."""
    return [record for record in records if record["attack"] != NO_ATTACK]


def attacks_of(records: Iterable[Record]) -> list[Record]:
    """The records of single attacks and of suites, without the worst cases."""
    return [record for record in attacked(records) if record["attack"] != WORST_CASE]


def budget_of(record: Record) -> Budget:
    """The threat and epsilon of a record."""
    return Budget(record["threat"], record["epsilon"])


Table = (
    Sequence[Record]
    | Sequence[ProbeRecord]
    | Sequence[CorruptionRecord]
    | Sequence[CorruptionError]
    | Sequence[DistanceRecord]
    | Sequence[SpikeRecord]
)
"""Records of one kind."""

Row = Record | ProbeRecord | CorruptionRecord | CorruptionError | DistanceRecord | SpikeRecord
"""A record of any kind."""


def varying(records: Table, axes: Iterable[str] = AXES) -> list[str]:
    """The axes on which records differ.

    The learning rule is left out if the other axes determine it, for example if it differs between networks
    only in its number of epochs; the settings of every cell state it.

    Args:
        records: the records of one study.
        axes: names of fields of a record.
    """
    differing = [axis for axis in axes if len(values_of(records, axis)) > 1]
    return [axis for axis in differing if axis != LEARNING_RULE or not _follows(records, axis)]


def architecture(row: SeedMean | Record) -> tuple[object, ...]:
    """The values by which architectures differ."""
    return tuple(value_of(row, axis) for axis in ARCHITECTURE)


def trainings_csv(rows: Sequence[SeedMean]) -> str:
    """Means over trainings as CSV: one line per architecture and budget.

    Args:
        rows: of one study.
    """
    plain = ({**row, "seeds": " ".join(map(str, row["seeds"]))} for row in rows)
    return csv_text(SeedMean.__annotations__, plain)


def across_seeds_csv(rows: Sequence[SeedComparison]) -> str:
    """Comparisons of architectures over trainings as CSV: one line per pair and budget.

    Args:
        rows: of one study.
    """
    return csv_text(SeedComparison.__annotations__, ({**row} for row in rows))


def training_csv(curves: Sequence[Curve]) -> str:
    """Training curves as CSV: one line per training and epoch.

    Args:
        curves: of one study.
    """
    parts = ("network", "neuron", "encoder", "decoder", "surrogate", LEARNING_RULE, SEED)
    lines = (
        {**{part: value_of(curve.parts, part) for part in parts}, "cell": curve.address, **epoch._asdict()}
        for curve in curves
        for epoch in curve.epochs
    )
    return csv_text([*parts, "cell", *Epoch._fields], lines)


def without_seed(axes: Iterable[str]) -> list[str]:
    """The axes without the seed, on which architectures differ."""
    return [axis for axis in axes if axis != SEED]


def label(record: Row, axes: Iterable[str]) -> str:
    """The name of a model: its values on the axes on which models differ.

    Example:
        >>> label({"encoder": "latency", "seed": 1}, ["encoder", "seed"])
        'latency · seed 1'
    """
    named = (f"seed {record['seed']}" if axis == SEED else str(value_of(record, axis)) for axis in axes)
    return " · ".join(named)


def _follows(records: Table, axis: str) -> bool:
    """Whether the other axes determine an axis."""
    others = [other for other in AXES if other != axis]
    values: dict[tuple[object, ...], object] = {}
    return all(
        values.setdefault(tuple(value_of(record, other) for other in others), value_of(record, axis))
        == value_of(record, axis)
        for record in records
    )


class Seeds(NamedTuple):
    """One architecture trained with several seeds.

    Args:
        model: a record of the model of the first seed.
        trainings: number of seeds.
        fewest, most: smallest and largest number of images for one seed; an audit may have added images.
        clean: mean clean accuracy, with the interval of Student's t over trainings.
        worst: the same in the worst case at each budget that every seed has; a budget at which the number of
            one seed is withheld is left out.
        doubtful: budgets at which one of the numbers is doubtful.
        preliminary: budgets at which one of the numbers is preliminary and none is doubtful.
        nested: budgets at which the attack behind one of the numbers started from images found at a smaller
            budget.
    """

    model: Record
    trainings: int
    fewest: int
    most: int
    clean: tuple[float, Interval | None]
    worst: dict[Budget, tuple[float, Interval | None]]
    doubtful: frozenset[Budget]
    preliminary: frozenset[Budget]
    nested: frozenset[Budget]

    @property
    def n(self) -> str:
        """The number of images for each seed, in words."""
        return f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"


def seeds(records: Sequence[Record]) -> list[Seeds]:
    """Means over seeds; empty if no architecture was trained more than once.

    Args:
        records: the records of one study.
    """
    groups: dict[tuple[object, ...], list[Headline]] = {}
    for row in headlines(records):
        groups.setdefault(tuple(value_of(row.model, axis) for axis in ARCHITECTURE), []).append(row)
    return [_seeds(rows) for rows in groups.values() if len(rows) > 1]


def _seeds(rows: Sequence[Headline]) -> Seeds:
    worst, doubtful, preliminary, nested = {}, set(), set(), set()
    for budget in rows[0].worst:
        found = [row.worst[budget] for row in rows if budget in row.worst]
        if len(found) == len(rows) and all(record["verdict"] != WITHHELD for record in found):
            worst[budget] = _mean_share(
                [record["robust_accuracy"] for record in found], min(record["n"] for record in found)
            )
            verdicts = {record["verdict"] for record in found}
            doubtful |= {budget} if DOUBTFUL in verdicts else set()
            preliminary |= {budget} if PRELIMINARY in verdicts else set()
            nested |= {budget} if any(record["nested"] for record in found) else set()
    n = [row.model["n"] for row in rows]
    clean = _mean_share([row.model["clean_accuracy"] for row in rows], min(n))
    marks = frozenset(doubtful), frozenset(preliminary - doubtful), frozenset(nested)
    return Seeds(rows[0].model, len(rows), min(n), max(n), clean, worst, *marks)


def seeds_json(records: Sequence[Record]) -> list[dict[str, object]]:
    """Means over seeds as `show --seeds --json` prints them: one object per model and budget.

    `n` is the number of images for each seed. If an audit added images for some seeds, `n` is the smallest
    and `n_most` the largest number. A mean is null if the number of one seed is withheld or missing. A study
    without attacks has only clean means, under the threat `none`.

    Args:
        records: the records of one study.
    """
    columns = budgets(records) or [Budget(NO_ATTACK, 0.0)]
    found = []
    for row, budget in product(seeds(records), columns):
        mean, ends = row.worst.get(budget, (None, None))
        found.append(
            {
                **{axis: value_of(row.model, axis) for axis in ARCHITECTURE},
                "seeds": row.trainings,
                "n": row.fewest,
                "n_most": row.most,
                "threat": budget.threat,
                "epsilon": budget.epsilon,
                "clean_mean": row.clean[0],
                "clean_interval": row.clean[1],
                "robust_mean": mean,
                "robust_interval": ends,
                "doubtful": budget in row.doubtful,
                "preliminary": budget in row.preliminary,
                "nested": budget in row.nested,
            }
        )
    return found


def _mean_share(shares: Sequence[float], n: int) -> tuple[float, Interval | None]:
    """The mean of shares of at least `n` images each and its interval, cut to [0, 1]."""
    mean, ends = over_seeds(shares, n=n)
    return mean, None if ends is None else Interval(max(ends.low, 0.0), min(ends.high, 1.0))


class Tally(NamedTuple):
    """What an attack contributed to all worst cases together, or a member to all suites.

    Args:
        attack: name of the attack or member.
        member: whether it ran inside a suite, on the examples that were still right.
        numbers: how many numbers it contributed to.
        broke: share of examples, as a mean over numbers, that count as broken by it.
        needed: how many numbers would be higher without it; None for a member, where this is unknown.
        forward, backward: numbers of queries.
    """

    attack: str
    member: bool
    numbers: int
    broke: float
    needed: int | None
    forward: int
    backward: int


def tallies(records: Sequence[Record]) -> list[Tally]:
    """The contribution of every attack and of every member of a suite; those that broke most come first.

    Args:
        records: the records of one study.
    """
    groups: dict[tuple[bool, str], list[tuple[Record, Broke]]] = {}
    for record in records:
        for part in record["broken_by"]:
            groups.setdefault((record["attack"] != WORST_CASE, part["attack"]), []).append((record, part))
    found = [_tally(member, attack, parts) for (member, attack), parts in groups.items()]
    return sorted(found, key=lambda tally: (tally.member, -tally.broke))


def _tally(member: bool, attack: str, parts: Sequence[tuple[Record, Broke]]) -> Tally:
    known = [
        part["without"] > record["robust_accuracy"] for record, part in parts if part["without"] is not None
    ]
    return Tally(
        attack,
        member,
        len(parts),
        sum(part["broke"] for _, part in parts) / len(parts),
        sum(known) if known else None,
        sum(part["forward_queries"] for _, part in parts),
        sum(part["backward_queries"] for _, part in parts),
    )


def number(value: float | None, digits: int = 1) -> str:
    """A number with a fixed number of decimals, or a dash if it is missing or not finite.

    Example:
        >>> number(12.345), number(None), number(float("nan"))
        ('12.3', '–', '–')
    """
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else MISSING


def percent(share: float | None) -> str:
    """A share as a percentage without its sign.

    Example:
        >>> percent(0.973), percent(None)
        ('97.3', '–')
    """
    return number(None if share is None else 100 * share)


def judged(record: Record | None) -> str:
    """A worst case in per cent with the mark of its verdict, or no number where it is withheld.

    Numbers from nested budgets are marked as nested, and attacks that are missing are named.

    Example:
        >>> judged({"robust_accuracy": 0.31, "verdict": "doubtful"})
        '31.0?'
        >>> judged({"robust_accuracy": 0.31, "verdict": "preliminary"})
        '31.0~'
        >>> judged({"robust_accuracy": 0.31, "verdict": "withheld"}), judged(None)
        ('withheld', '–')
        >>> judged({"robust_accuracy": 0.31, "verdict": "doubtful", "nested": True})
        '31.0? nested'
        >>> judged({"robust_accuracy": 0.31, "verdict": "doubtful", "missing": ["apgd-t"]})
        '31.0? without apgd-t'
    """
    if record is None:
        return MISSING
    if record["verdict"] == WITHHELD:
        return WITHHELD
    mark = MARKS.get(str(record["verdict"]), "")
    missing = f" without {', '.join(record['missing'])}" if record.get("missing") else ""
    return percent(record["robust_accuracy"]) + mark + (" nested" if record.get("nested") else "") + missing


def argmaxes(row: Headline, columns: Sequence[Budget]) -> str:
    """Accuracies if the first of the largest logits were the answer, on clean images and at every budget."""
    found = [row.worst.get(budget) for budget in columns]
    shares = [
        None if record is None or record["verdict"] == WITHHELD else record["robust_argmax"]
        for record in found
    ]
    return " / ".join(map(percent, [row.model["clean_argmax"], *shares]))


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval of shares, in per cent.

    Example:
        >>> interval(0.9, 0.951)
        '[90.0, 95.1]'
    """
    return f"[{percent(low)}, {percent(high)}]"


def epsilon_text(epsilon: float) -> str:
    """An epsilon in customary notation: a short decimal or, if there is none, a number of grey levels.

    Example:
        >>> [epsilon_text(value) for value in (0.1, 8 / 255, 1.0, 0.1234567)]
        ['0.1', '8/255', '1', '0.1235']
    """
    levels = epsilon * 255
    if abs(epsilon - round(epsilon, 3)) > 1e-9 and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{epsilon:.4g}"


def to_csv(records: Sequence[Record]) -> str:
    """The records as CSV: a line of field names, then one line per record; lists are joined by `; `.

    The evidence of an attack follows in further columns, except for the loss after each step. A column whose
    name is also a field of the record (the number of steps) is prefixed with `attack_`.

    A text that a spreadsheet would run as a formula is prefixed with an apostrophe.

    Args:
        records: the records of one study.
    """
    file = io.StringIO()
    names = [name for name in Record.__annotations__ if name != EFFORT]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*names, *_EFFORT.values()])
    for record in records:
        row, effort = dict(record), dict(record["effort"] or {})
        values = (*map(row.get, names), *map(effort.get, _EFFORT))
        texts = [
            _harmless(_joined(value)) if isinstance(value, (str, list, tuple)) else value for value in values
        ]
        writer.writerow(texts)
    return file.getvalue()


_EFFORT = {
    name: f"attack_{name}" if name in Record.__annotations__ else name
    for name in Effort.__annotations__
    if name != LOSS_BY_STEP
}
"""Field of the evidence -> name of its column."""


def _joined(value: object) -> object:
    return "; ".join(map(_in_words, value)) if isinstance(value, list) else value


def _in_words(item: object) -> str:
    """One entry of a list as a few words."""
    if isinstance(item, tuple):
        return f"{item[0]}: {item[1]:.4g}"
    if not isinstance(item, dict):
        return str(item)
    if CERTIFICATE in item:
        return proof_words(item)  # type: ignore[arg-type]
    return f"{item['attack']} {item['broke']:.4g}"


def proof_words(proof: Proof) -> str:
    """The result of a certificate in words.

    Example:
        >>> proof_words({"certificate": "ibp", "subject": "model", "certified": 0.125, "ci_low": 0.1,
        ...     "ci_high": 0.2, "reason": None})
        'ibp proves 12.5 % [10.0, 20.0]'
    """
    if proof["certified"] is None:
        return f"{proof['certificate']} does not apply: {proof['reason']}"
    of = "" if proof["subject"] == _THE_MODEL else f" of the {proof['subject']}"
    ends = interval(proof["ci_low"], proof["ci_high"])
    return f"{proof['certificate']} proves {percent(proof['certified'])} %{of} {ends}"


def _harmless(value: object) -> object:
    """A value that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def csv_text(fields: Iterable[str], rows: Iterable[dict[str, object]]) -> str:
    """A line of field names, then one line per row; what a row lacks is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(fields), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def probes_csv(records: Sequence[ProbeRecord]) -> str:
    """The records of timing probes as CSV: a line of field names, then one line per model and probe.

    Args:
        records: the records of one study.
    """
    return csv_text(ProbeRecord.__annotations__, ({**record} for record in records))


def corruptions_csv(records: Sequence[CorruptionRecord]) -> str:
    """The accuracies under natural corruptions as CSV: one line per model, corruption and severity.

    Args:
        records: the records of one study.
    """
    return csv_text(CorruptionRecord.__annotations__, ({**record} for record in records))


def corruption_errors_csv(records: Sequence[CorruptionError]) -> str:
    """The mean corruption errors as CSV: one line per model.

    Args:
        records: the records of one study.
    """
    rows = [
        {name: value for name, value in record.items() if name != "by_corruption"}
        | {"missing": "; ".join(record["missing"])}
        for record in records
    ]
    fields = [name for name in CorruptionError.__annotations__ if name != "by_corruption"]
    return csv_text(fields, rows)


def transfers_csv(grids: Sequence[TransferGrid]) -> str:
    """The grids of transfers as CSV: one line per pair of models.

    Args:
        grids: of one study.
    """
    shared = ("study", "dataset", "attack", "threat", "epsilon", "seed", "n")
    rows: list[dict[str, object]] = [
        {name: value for name, value in grid.items() if name in shared}
        | {"made_on": source, "judged_on": judge, "accuracy": accuracy}
        for grid in grids
        for source, row in zip(grid["models"], grid["accuracy"], strict=True)
        for judge, accuracy in zip(grid["models"], row, strict=True)
    ]
    return csv_text([*shared, "made_on", "judged_on", "accuracy"], rows)


def distances_csv(records: Sequence[DistanceRecord]) -> str:
    """The distances as CSV: a line of field names, then one line per model and search.

    Args:
        records: the records of one study.
    """
    return csv_text(DistanceRecord.__annotations__, ({**record} for record in records))


def spikes_csv(records: Sequence[SpikeRecord]) -> str:
    """The layers of every analysis as CSV: a line of field names, then one line per model, budget and layer.

    Args:
        records: the records of one study.
    """
    rows = []
    for record in records:
        for layer in record["layers"]:
            row: dict[str, object] = {
                **{name: value for name, value in record.items() if name not in _GROUPS},
                **{f"sensitivity_{name}": value for name, value in record["sensitivity"].items()},
                **{f"{cost}_{name}": value for cost in _COSTS for name, value in _numbers(record[cost])},
                **{name: value for name, value in layer.items() if name not in _NESTED},
                **{f"distance {name}": value for name, value in layer["distances"].items()},
                **{f"bits {name}": value for name, value in layer["bits"].items()},
                **{f"shuffled {name}": value for name, value in layer["shuffled"].items()},
            }
            rows.append(row)
    return csv_text(dict.fromkeys(name for row in rows for name in row), rows)


_COSTS: tuple[Literal["cost"], Literal["attacked_cost"]] = ("cost", "attacked_cost")
_GROUPS = ("layers", "sensitivity", *_COSTS)
_NESTED = ("distances", "bits", "shuffled", "windows")


def _numbers(cost: CostSummary) -> list[tuple[str, object]]:
    return [*{**cost}.items()]


def far(record: DistanceRecord) -> str:
    """A median distance with its interval, and the share of images for which an adversarial one was found.

    Example:
        >>> far({"median": 0.21, "median_low": 0.18, "median_high": None, "found": 0.62})
        '0.21 [0.18, –], found on 62.0 %'
    """
    middle, low, high = (distance(record[name]) for name in ("median", "median_low", "median_high"))
    return f"{middle} [{low}, {high}], found on {percent(record['found'])} %"


def distance(value: float | None) -> str:
    """A distance with three significant digits, or a dash if it is missing or infinite.

    Example:
        >>> distance(0.020839), distance(None)
        ('0.0208', '–')
    """
    return f"{value:.3g}" if value is not None and math.isfinite(value) else MISSING


def to_latex(records: Sequence[Record]) -> str:
    r"""The headline table as a LaTeX `tabular` in the style of booktabs, with accuracies in per cent.

    Args:
        records: the records of one study.
    """
    rows, columns = headlines(records), budgets(records)
    axes = varying(records) or ["encoder"]
    head = [*axes, "clean", *(f"{threat} {epsilon_text(epsilon)}" for threat, epsilon in columns)]
    certified = any(row["certified"] is not None for row in records)
    lines = [
        "% Needs \\usepackage{booktabs}. Accuracy in per cent with 95 % Wilson intervals; robust accuracy in",
        "% the worst case over all attacks of the study; ties count as errors. Argmax: the same accuracies,",
        "% clean and at each budget, if the first of the largest logits is the answer. A question mark:",
        "% doubtful; a tilde: preliminary, without a search by a standard suite.",
        "% Spikes: mean per image up to its decision; exit: mean number of time steps up to it.",
        *(["% After a bar: certified accuracy, a lower bound of the robust accuracy."] if certified else []),
        f"\\begin{{tabular}}{{{'l' * len(axes)}{'r' * (len(head) + 5 - len(axes))}}}",
        "\\toprule",
        _latex_row([latex_text(name) for name in (*head, "argmax", "ties", "silent", "spikes", "exit")]),
        "\\midrule",
        *(_latex_row(_latex_cells(row, axes, columns)) for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def paper_csv(rows: Sequence[PaperRow]) -> str:
    """The numbers of a study for a paper as CSV: one line per architecture and budget.

    Args:
        rows: of one study.
    """
    return csv_text(PaperRow.__annotations__, ({**row} for row in rows))


def paper_latex(rows: Sequence[PaperRow]) -> str:
    r"""The numbers of a study for a paper as a LaTeX `tabular`, with mean and interval over seeds, in per
    cent.

    Args:
        rows: of one study.
    """
    axes = [axis for axis in ARCHITECTURE if len(values_of(rows, axis)) > 1] or ["encoder"]
    columns = sorted({(row["threat"], row["epsilon"]) for row in rows}, key=lambda c: (c[0] != NO_ATTACK, c))
    models: dict[tuple[object, ...], dict[tuple[str, float], PaperRow]] = {}
    for row in rows:
        budget = row["threat"], row["epsilon"]
        models.setdefault(tuple(value_of(row, axis) for axis in ARCHITECTURE), {})[budget] = row
    head = [*axes, "seeds", "$n$"] + [
        "clean" if threat == NO_ATTACK else f"{threat} {epsilon_text(epsilon)}" for threat, epsilon in columns
    ]
    lines = []
    for found in models.values():
        first = next(iter(found.values()))
        counts = sorted({row["n"] for row in found.values()})
        cells = [latex_text(str(value_of(first, axis))) for axis in axes]
        cells += [str(first["seeds"]), "--".join(map(str, dict.fromkeys((counts[0], counts[-1]))))]
        lines.append([*cells, *(_latex_mean(found.get(budget)) for budget in columns)])
    covers = " and ".join(sorted({row["covers"] for row in rows if row["mean"] is not None}))
    title = [*map(latex_text, head[: len(axes)]), "seeds", "$n$", *map(latex_text, head[len(axes) + 2 :])]
    return "\n".join(
        [
            "% Needs \\usepackage{booktabs}. Accuracy in per cent, mean over seeds, with 95 % intervals for",
            f"% {covers}; under attack the worst case over all attacks of the study.",
            "% Ties count as errors. A question mark: doubtful; a tilde: preliminary; a dash: missing.",
            f"\\begin{{tabular}}{{{'l' * len(axes)}{'r' * (len(head) - len(axes))}}}",
            "\\toprule",
            _latex_row(title),
            "\\midrule",
            *map(_latex_row, lines),
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def comparisons_latex(rows: Sequence[SeedComparison]) -> str:
    r"""Comparisons of architectures over trainings and images as a LaTeX `tabular`, in points of accuracy.

    Args:
        rows: of one study; there are none where no architecture has several seeds.
    """
    head = ["budget", "part", "first", "second", "others", "difference", "$p$", "seeds", "same sign"]
    lines = []
    for row in rows:
        clean = row["threat"] == NO_ATTACK
        budget = "clean" if clean else f"{row['threat']} {epsilon_text(row['epsilon'])}"
        names = [str(value_of(row, name)) for name in ("part", "first", "second", "others")]
        shown = _latex_accuracy(row["difference"], row["ci_low"], row["ci_high"])
        agreeing = "--" if row["agreeing"] is None else str(row["agreeing"])
        counts = [f"{row['adjusted']:.2g}", str(row["seeds"]), agreeing]
        lines.append([*map(latex_text, [budget, *names]), shown + ("*" if row["shown"] else ""), *counts])
    return "\n".join(
        [
            "% Needs \\usepackage{booktabs}. Mean accuracy of the first minus that of the second, in points,",
            "% with 95 % intervals for other trainings and other images; p-values are corrected for all rows",
            "% (Holm). A star: a difference is shown. Same sign: seeds that agree with the sign of the mean.",
            "\\begin{tabular}{lllllrrrr}",
            "\\toprule",
            _latex_row(head),
            "\\midrule",
            *map(_latex_row, lines),
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def _latex_mean(row: PaperRow | None) -> str:
    if row is None:
        return "--"
    if row["verdict"] == WITHHELD:
        return WITHHELD
    if row["mean"] is None:
        return "--"
    return _latex_accuracy(row["mean"], row["low"], row["high"]) + _LATEX_MARKS.get(str(row["verdict"]), "")


def _latex_cells(row: Headline, axes: Iterable[str], columns: Sequence[Budget]) -> list[str]:
    model = row.model
    accuracies = [_latex_accuracy(model["clean_accuracy"], model["clean_ci_low"], model["clean_ci_high"])]
    for budget in columns:
        worst = row.worst.get(budget)
        accuracies.append(_latex_judged(worst) if worst else "--")
    shares = [argmaxes(row, columns), percent(model["tie_share"]), percent(model["silent_share"])]
    names = [latex_text(str(value_of(model, axis))) for axis in axes]
    costs = [number(model["spikes_per_inference"]), number(model["mean_exit"], 2)]
    return [*names, *accuracies, *map(latex_text, [*shares, *costs])]


def _latex_accuracy(value: float | None, low: float | None, high: float | None) -> str:
    return f"{latex_text(percent(value))} {{\\scriptsize {latex_text(interval(low, high))}}}"


def _latex_judged(record: Record) -> str:
    if record["verdict"] == WITHHELD:
        return WITHHELD
    mark = _LATEX_MARKS.get(str(record["verdict"]), "")
    mark += " {\\scriptsize nested}" if record["nested"] else ""
    if record["missing"]:
        mark += f" {{\\scriptsize without {latex_text(', '.join(record['missing']))}}}"
    attacked = _latex_accuracy(record["robust_accuracy"], record["ci_low"], record["ci_high"]) + mark
    if record["certified"] is None:
        return attacked
    proved = _latex_accuracy(record["certified"], record["certified_low"], record["certified_high"])
    return f"{attacked} $\\mid$ {proved}"


_LATEX_MARKS = {DOUBTFUL: "\\rlap{?}", PRELIMINARY: "\\rlap{$\\sim$}"}


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def latex_text(text: str) -> str:
    """Text in which every character with a meaning in LaTeX is escaped."""
    return " ".join(text.translate(_LATEX).split())


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",
        "]": "{]}",
        MISSING: "--",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)
