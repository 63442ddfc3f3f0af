"""The page: one HTML file that holds a whole report, opens offline, and stays below three megabytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar, cast

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from spikeproof.audit.checks import CHECKS, DOUBTFUL, SUPPORTED, WITHHELD
from spikeproof.experiments.comparisons import Compared
from spikeproof.experiments.record import DistanceRecord, ProbeRecord, Record
from spikeproof.experiments.results import WORST_CASE
from spikeproof.experiments.store import write_atomically
from spikeproof.report import tables
from spikeproof.report.exhibits import Exhibit, exhibits
from spikeproof.report.figures import (
    Drawing,
    drawings,
    exhibit_drawing,
    file_names,
    inline,
    probe_drawing,
    telling,
)
from spikeproof.report.provenance import Sources, sources

__all__ = ["LARGEST", "write"]

LARGEST = 3_000_000
"""Bytes that a page must stay below."""


@dataclass(frozen=True)
class Detail:
    """How much a page shows, to stay below its size.

    Args:
        dpi: of rasters.
        exhibits: number of examples.
        specs: whether the spec of every cell is printed.
        rows: number of rows of the table of every attack.
    """

    dpi: int
    exhibits: int
    specs: bool
    rows: int


DETAILS = (
    Detail(200, 100, True, 10_000),
    Detail(100, 100, True, 10_000),
    Detail(100, 12, False, 4_000),
    Detail(60, 6, False, 1_000),
    Detail(60, 0, False, 100),
)


def write(
    directory: Path,
    records: Sequence[Record],
    probes: Sequence[ProbeRecord] = (),
    compared: Sequence[Compared] = (),
    distances: Sequence[DistanceRecord] = (),
) -> Path:
    """Write `report.html`, `figures/*.svg` and `.pdf`, `table.csv`, `table.tex` and `probes.csv` of a study.

    A study that asked for distances also gets `distances.csv`.

    The same store gives the same bytes. What a store lacks is named in the page, not an error.

    Args:
        directory: the output directory of a run.
        records: its headline numbers.
        probes: what probes of timing found; without any there is no `probes.csv`.
        compared: which models are more robust than others.
        distances: how far nearest adversarial images are.

    Returns:
        Where the page lies.
    """
    rows = [_portable(record, directory) for record in records]
    shown, origin = exhibits(rows, directory), sources(directory)
    charts = [_Chart.of(drawing) for drawing in drawings(rows)]
    timing = _Timing.of([_portable_probe(record, directory) for record in probes])
    near = [_portable_probe(record, directory) for record in distances]
    page, pictures = "", list[_Chart]()
    for detail in DETAILS:
        pictures = _pictures(shown, detail)
        page = _page(rows, origin, charts, pictures, shown, timing, compared, near, detail)
        if len(page.encode()) < LARGEST:
            break
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for chart in (*charts, *timing.charts, *pictures):
        for kind, content in chart.files.items():
            write_atomically(folder / f"{chart.drawing.name}.{kind}", content)
    write_atomically(directory / "table.csv", tables.to_csv(rows).encode())
    write_atomically(directory / "table.tex", tables.to_latex(rows).encode())
    if timing.records:
        write_atomically(directory / "probes.csv", tables.probes_csv(timing.records).encode())
    if near:
        write_atomically(directory / "distances.csv", tables.distances_csv(near).encode())
    write_atomically(directory / "report.html", page.encode())
    return directory / "report.html"


def _portable(record: Record, directory: Path) -> Record:
    """The record with paths that start from the directory, wherever it is moved."""
    paths = {name: record[name] for name in ("model", "cell", "train_cell", "clean_cell")}
    moved = {
        name: Path(path).relative_to(directory).as_posix() if Path(path).is_relative_to(directory) else path
        for name, path in paths.items()
    }
    return cast(Record, {**record, **moved})


@dataclass(frozen=True)
class _Chart:
    """A drawing with its files."""

    drawing: Drawing
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, drawing: Drawing) -> _Chart:
        return cls(drawing, drawing.files())

    @property
    def markup(self) -> Markup:
        return Markup(inline(self.files["svg"], self.drawing.name))


Measured = TypeVar("Measured", ProbeRecord, DistanceRecord)


def _portable_probe(record: Measured, directory: Path) -> Measured:
    moved = {
        name: Path(path).relative_to(directory).as_posix() if Path(path).is_relative_to(directory) else path
        for name, path in (("model", record["model"]), ("cell", record["cell"]))
    }
    return cast(Measured, {**record, **moved})


@dataclass(frozen=True)
class _Timing:
    """What probes of timing found, and its figure."""

    records: Sequence[ProbeRecord]
    axes: Sequence[str]
    charts: Sequence[_Chart]

    @classmethod
    def of(cls, records: Sequence[ProbeRecord]) -> _Timing:
        axes = tables.varying(records) or ["encoder"]
        names = [_label(record, axes) for record in records]
        return cls(records, axes, [_Chart.of(probe_drawing(records, names))] if records else [])


def _pictures(shown: Mapping[str, Exhibit | None], detail: Detail) -> list[_Chart]:
    names = file_names("example", shown)
    found = [(names[code], exhibit) for code, exhibit in shown.items() if exhibit is not None]
    return [_Chart.of(exhibit_drawing(name, each, detail.dpi)) for name, each in found[: detail.exhibits]]


def _page(
    records: Sequence[Record],
    origin: Sources,
    charts: Sequence[_Chart],
    pictures: Sequence[_Chart],
    shown: Mapping[str, Exhibit | None],
    timing: _Timing,
    compared: Sequence[Compared],
    distances: Sequence[DistanceRecord],
    detail: Detail,
) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    axes = tables.varying(records) or ["encoder"]
    rows = tables.headlines(records)
    environment.filters |= {
        "percent": tables.percent,
        "number": tables.number,
        "distance": tables.distance,
        "epsilon": tables.epsilon_text,
        "interval": tables.interval,
        "bar": _bar,
    }
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    return template.render(
        study=origin.plan["study"],
        origin=origin,
        created=origin.plan.get("created", ""),
        version=origin.plan.get("spikeproof", ""),
        summary=_summary(records, rows, axes),
        axes=axes,
        constants={axis: value for axis, value in _model_axes(records) if axis not in axes},
        budgets=tables.budgets(records),
        headlines=rows,
        records=records[: detail.rows],
        timing=timing,
        compared=compared[: detail.rows],
        uncompared=len(compared[detail.rows :]),
        distances=distances[: detail.rows],
        distances_left_out=len(distances[detail.rows :]),
        distance_axes=tables.varying(distances) or ["encoder"],
        probes=timing.records[: detail.rows],
        probes_left_out=len(timing.records[detail.rows :]),
        left_out=len(records[detail.rows :]),
        alarms=_alarms(records, axes),
        trust=Trust.of(records, detail.rows),
        charts=charts,
        pictures=pictures,
        without_picture=[code for code, exhibit in shown.items() if exhibit is None],
        pictures_left_out=sum(exhibit is not None for exhibit in shown.values()) - len(pictures),
        detail=detail,
        worst_case=WORST_CASE,
        measured={row.model["train_cell"].rpartition("/")[2]: _label(row.model, axes) for row in rows},
    )


def _bar(share: float | None) -> float:
    """The length of a data bar, in per cent."""
    return 0.0 if share is None or not 0 <= share <= 1 else round(100 * share, 1)


def _model_axes(records: Sequence[Record]) -> list[tuple[str, object]]:
    return [(axis, records[0][axis]) for axis in tables.AXES] if records else []  # type: ignore[literal-required]


def _label(record: Record | ProbeRecord, axes: Sequence[str]) -> str:
    """The model's place on the axes on which models differ."""
    named = (f"seed {record['seed']}" if axis == "seed" else str(dict(record)[axis]) for axis in axes)
    return " · ".join(named)


def _summary(records: Sequence[Record], rows: Sequence[tables.Headline], axes: Sequence[str]) -> str:
    """One paragraph for somebody who reads nothing else."""
    if not records:
        return "No number of this study is finished yet."
    names = list(dict.fromkeys(record["dataset"] for record in records))
    images = sorted({record["n"] for record in records})
    clean = [row.model["clean_accuracy"] for row in rows if row.model["clean_accuracy"] is not None]
    count = f"{len(rows)} models were" if len(rows) > 1 else "One model was"
    words = (
        f"{count} trained on {', '.join(names)} and measured on {' or '.join(map(str, images))} test images. "
    )
    if clean:
        words += f"Without an attack they answer {_range(clean)} of them correctly. "
    return words + _attack_summary(records, rows, axes)


def _attack_summary(records: Sequence[Record], rows: Sequence[tables.Headline], axes: Sequence[str]) -> str:
    attacks = list(dict.fromkeys(r["attack"] for r in records if r["attack"] not in (WORST_CASE, "none")))
    if not attacks:
        return "No attack was part of what is finished, so nothing is said about robustness."
    words = f"The attacks were {', '.join(attacks)}. "
    for threat in dict.fromkeys(budget.threat for budget in tables.budgets(records)):
        epsilon = telling([record for record in records if record["threat"] == threat])
        found = [row.worst.get(tables.Budget(threat, epsilon)) for row in rows]
        worst = [record for record in found if record is not None and record["robust_accuracy"] is not None]
        if worst:
            best = max(worst, key=lambda record: record["robust_accuracy"])
            words += (
                f"Under {threat} changes of at most {tables.epsilon_text(epsilon)} the worst case of all "
                f"attacks leaves {_range([record['robust_accuracy'] for record in worst])} right"
            )
            words += f"; most with {_label(best, axes)}. " if len(worst) > 1 else ". "
        else:
            words += f"Under {threat} no model has been through all of them yet. "
    return words


def _range(shares: Sequence[float]) -> str:
    low, high = tables.percent(min(shares)), tables.percent(max(shares))
    return f"{low} %" if low == high else f"{low} to {high} %"


@dataclass(frozen=True)
class Trust:
    """What the audit made of the headline numbers.

    Args:
        words: in a few sentences.
        numbers: the audited worst cases, the gravest first.
        left_out: how many did not fit.
    """

    words: str
    numbers: Sequence[Record]
    left_out: int

    @classmethod
    def of(cls, records: Sequence[Record], most: int) -> Trust:
        """The audited ones among the records."""
        order = (WITHHELD, DOUBTFUL, SUPPORTED)
        audited = [record for record in records if record["verdict"] is not None]
        audited.sort(key=lambda record: order.index(str(record["verdict"])))
        counts = Counter(record["verdict"] for record in audited)
        reasons = Counter(text.split(":")[0] for record in audited for text in record["warnings"])
        words = (
            f"{len(audited)} robust accuracies were audited: {counts[SUPPORTED]} are supported, "
            f"{counts[DOUBTFUL]} doubtful and {counts[WITHHELD]} withheld. "
            "Every one is an upper bound: it says what these attacks left standing. "
        )
        if reasons:
            named = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(4))
            words += f"What was found most often: {named}. "
        words += (
            "A supported number passed all checks for weak attacks and faulty evaluation; it is no proof, "
            "and a cleverer attack may still lower it."
        )
        return cls(words, audited[:most], len(audited[most:]))


@dataclass(frozen=True)
class Alarm:
    """Warnings of one kind.

    Args:
        kind: in a few words.
        meaning: what to make of it.
        items: each with the model and the epsilon that it belongs to.
    """

    kind: str
    meaning: str
    items: tuple[str, ...]


MEANINGS = {check.name: f"{check.matters} {check.remedy}" for check in CHECKS}


def _alarms(records: Sequence[Record], axes: Sequence[str]) -> list[Alarm]:
    """Everything that looks suspicious, by kind; each text once per model and epsilon."""
    kinds: dict[str, dict[tuple[str, str, float], list[str]]] = {}
    for record in records:
        for text in record["warnings"]:
            place = (text, _label(record, axes), record["epsilon"])
            kinds.setdefault(text.split(":")[0], {}).setdefault(place, []).append(record["attack"])
    found = [
        Alarm(kind, MEANINGS.get(kind, ""), tuple(_alarm_text(*place) for place in places))
        for kind, places in kinds.items()
    ]
    return found


def _alarm_text(text: str, model: str, epsilon: float) -> str:
    return f"{model}, epsilon {tables.epsilon_text(epsilon)}: {text.partition(':')[2].strip() or text}"
