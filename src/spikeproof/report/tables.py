"""Tables: the headline numbers of a study, one row per model, for the page, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spikeproof.experiments.record import DistanceRecord, ProbeRecord, Record
from spikeproof.experiments.results import WORST_CASE

__all__ = [
    "MISSING",
    "Budget",
    "Headline",
    "budgets",
    "distance",
    "distances_csv",
    "epsilon_text",
    "far",
    "headlines",
    "interval",
    "judged",
    "number",
    "percent",
    "probes_csv",
    "to_csv",
    "to_latex",
    "varying",
]

MISSING = "\N{EN DASH}"
AXES = ("dataset", "network", "neuron", "encoder", "decoder", "surrogate", "rule", "seed", "n")
"""What tells models apart, in the order in which it is shown."""


class Budget(NamedTuple):
    """A threat and its size."""

    threat: str
    epsilon: float


@dataclass(frozen=True)
class Headline:
    """One model: what it does on clean images and in the worst case of every budget.

    Args:
        model: a record of the model, for all that does not depend on the attack.
        worst: the worst case of each budget, where every attack on it is finished.
        warnings: what looks suspicious, each text once.
    """

    model: Record
    worst: dict[Budget, Record]
    warnings: tuple[str, ...]


def headlines(records: Iterable[Record]) -> list[Headline]:
    """One row per model, in the order of the records.

    Args:
        records: of one study.
    """
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(record["model"], []).append(record)
    return [_headline(rows) for rows in models.values()]


def _headline(rows: Sequence[Record]) -> Headline:
    worst = {_budget(row): row for row in rows if row["attack"] == WORST_CASE}
    warnings = tuple(dict.fromkeys(text for row in rows for text in row["warnings"]))
    return Headline(rows[0], worst, warnings)


def budgets(records: Iterable[Record]) -> list[Budget]:
    """Every threat with each of its epsilons, in rising order; empty for a study without attacks.

    Args:
        records: of one study.
    """
    return sorted({_budget(record) for record in records if record["attack"] != "none"})


def _budget(record: Record) -> Budget:
    return Budget(record["threat"], record["epsilon"])


def varying(
    records: Sequence[Record] | Sequence[ProbeRecord] | Sequence[DistanceRecord], axes: Iterable[str] = AXES
) -> list[str]:
    """The axes that tell records apart.

    A rule that goes with the other axes, such as other epochs for another network, tells nothing new and
    is left out; every cell's settings name it.

    Args:
        records: of one study.
        axes: names of fields of a record.
    """
    differing = [axis for axis in axes if len({_field(record, axis) for record in records}) > 1]
    return [axis for axis in differing if axis != "rule" or not _follows(records, axis)]


def _follows(records: Sequence[Record] | Sequence[ProbeRecord] | Sequence[DistanceRecord], axis: str) -> bool:
    """Whether an axis is settled by the others."""
    others = [other for other in AXES if other != axis]
    values: dict[tuple[Any, ...], Any] = {}
    return all(
        values.setdefault(tuple(_field(record, other) for other in others), _field(record, axis))
        == _field(record, axis)
        for record in records
    )


def _field(record: Record | ProbeRecord | DistanceRecord, name: str) -> Any:
    return record[name]  # type: ignore[literal-required]


def number(value: float | None, digits: int = 1) -> str:
    """A number with a fixed count of decimals, or a dash where there is none.

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
    """A worst case in per cent with its verdict: a question mark for doubt, no number where it is withheld.

    A number that rests on nested budgets says so.

    Example:
        >>> judged({"robust_accuracy": 0.31, "verdict": "doubtful"})
        '31.0?'
        >>> judged({"robust_accuracy": 0.31, "verdict": "withheld"}), judged(None)
        ('withheld', '–')
        >>> judged({"robust_accuracy": 0.31, "verdict": "doubtful", "nested": True})
        '31.0? nested'
    """
    if record is None:
        return MISSING
    if record["verdict"] == "withheld":
        return "withheld"
    mark = "?" if record["verdict"] == "doubtful" else ""
    return percent(record["robust_accuracy"]) + mark + (" nested" if record.get("nested") else "")


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval of shares, in per cent.

    Example:
        >>> interval(0.9, 0.951)
        '[90.0, 95.1]'
    """
    return f"[{percent(low)}, {percent(high)}]"


def epsilon_text(epsilon: float) -> str:
    """An epsilon as people write it: a short decimal, or else a count of grey levels.

    Example:
        >>> [epsilon_text(value) for value in (0.1, 8 / 255, 1.0, 0.1234567)]
        ['0.1', '8/255', '1', '0.1235']
    """
    levels = epsilon * 255
    if abs(epsilon - round(epsilon, 3)) > 1e-9 and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{epsilon:.4g}"


def to_csv(records: Sequence[Record]) -> str:
    """Every record as one line of CSV, its field names first; warnings are joined by `; `.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.

    Args:
        records: of one study.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(Record.__annotations__), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(_harmless(record))
    return file.getvalue()


def _harmless(record: Record) -> dict[str, object]:
    joined = {name: "; ".join(map(str, record[name])) for name in ("warnings", "accuracy_by_step")}
    return _plain_text({**record, **joined})


def _plain_text(row: dict[str, object]) -> dict[str, object]:
    return {
        name: f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
        for name, value in row.items()
    }


def probes_csv(records: Sequence[ProbeRecord]) -> str:
    """Every model under every probe of timing as one line of CSV, its field names first.

    Args:
        records: of one study.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(ProbeRecord.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain_text({**record}) for record in records)
    return file.getvalue()


def distances_csv(records: Sequence[DistanceRecord]) -> str:
    """Every model under every search for the nearest image as one line of CSV, its field names first.

    Args:
        records: of one study.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(DistanceRecord.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain_text({**record}) for record in records)
    return file.getvalue()


def far(record: DistanceRecord) -> str:
    """A median distance with its interval, and the share of images on which one was found.

    Example:
        >>> far({"median": 0.21, "median_low": 0.18, "median_high": None, "found": 0.62})
        '0.21 [0.18, –], found on 62.0 %'
    """
    middle, low, high = (distance(record[name]) for name in ("median", "median_low", "median_high"))  # type: ignore[literal-required]
    return f"{middle} [{low}, {high}], found on {percent(record['found'])} %"


def distance(value: float | None) -> str:
    """A distance in three digits, or a dash where there is none.

    Example:
        >>> distance(0.020839), distance(None)
        ('0.0208', '–')
    """
    return f"{value:.3g}" if value is not None and math.isfinite(value) else MISSING


def to_latex(records: Sequence[Record]) -> str:
    r"""The headline table as a LaTeX `tabular` in the style of booktabs, accuracies in per cent.

    Args:
        records: of one study.
    """
    rows, columns = headlines(records), budgets(records)
    axes = varying(records) or ["encoder"]
    head = [*axes, "clean", *(f"{threat} {epsilon_text(epsilon)}" for threat, epsilon in columns)]
    lines = [
        "% Needs \\usepackage{booktabs}. Accuracy in per cent with 95 % Wilson intervals; robust accuracy in",
        "% the worst case over all attacks of the study; ties count as errors. A question mark: doubtful.",
        "% Spikes per image up to its decision; exit: mean number of time steps until then.",
        f"\\begin{{tabular}}{{{'l' * len(axes)}{'r' * (len(head) + 4 - len(axes))}}}",
        "\\toprule",
        _latex_row([_latex(name) for name in (*head, "ties", "silent", "spikes", "exit")]),
        "\\midrule",
        *(_latex_row(_latex_cells(row, axes, columns)) for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cells(row: Headline, axes: Iterable[str], columns: Iterable[Budget]) -> list[str]:
    model = row.model
    accuracies = [_latex_accuracy(model["clean_accuracy"], model["clean_ci_low"], model["clean_ci_high"])]
    for budget in columns:
        worst = row.worst.get(budget)
        accuracies.append(_latex_judged(worst) if worst else "--")
    shares = [percent(model["tie_share"]), percent(model["silent_share"])]
    names = [_latex(str(_field(model, axis))) for axis in axes]
    costs = [number(model["spikes_per_inference"]), number(model["mean_exit"], 2)]
    return [*names, *accuracies, *map(_latex, [*shares, *costs])]


def _latex_accuracy(value: float | None, low: float | None, high: float | None) -> str:
    return f"{_latex(percent(value))} {{\\scriptsize {_latex(interval(low, high))}}}"


def _latex_judged(record: Record) -> str:
    if record["verdict"] == "withheld":
        return "withheld"
    mark = "\\rlap{?}" if record["verdict"] == "doubtful" else ""
    mark += " {\\scriptsize nested}" if record["nested"] else ""
    return _latex_accuracy(record["robust_accuracy"], record["ci_low"], record["ci_high"]) + mark


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex(text: str) -> str:
    """Text with everything escaped that LaTeX gives a meaning."""
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
