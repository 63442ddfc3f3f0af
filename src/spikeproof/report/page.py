"""The page: one HTML file that holds a whole report, opens offline and is smaller than three megabytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar, cast

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from spikeproof.auditing.checks import CHECKS, MARKS, PRELIMINARY, WITHHELD
from spikeproof.errors import InputError
from spikeproof.experiments.read.comparisons import Compared
from spikeproof.experiments.read.ranking import Ranking, most_separating
from spikeproof.experiments.read.record import (
    CorruptionError,
    CorruptionRecord,
    DistanceRecord,
    ProbeRecord,
    Record,
    SpikeRecord,
    TransferGrid,
)
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.run.store import as_json, write_atomically
from spikeproof.experiments.study.owned import UNTRAINED
from spikeproof.plainfiles import LARGEST_DOCUMENT, bytes_of, read_json
from spikeproof.report import tables
from spikeproof.report.charts.attack_figures import evidence_drawings
from spikeproof.report.charts.drawing import Drawing, file_names, inline
from spikeproof.report.charts.figures import (
    corruption_drawing,
    drawings,
    probe_drawing,
    telling,
    transfer_drawing,
)
from spikeproof.report.charts.pictures import exhibit_drawing
from spikeproof.report.exhibits import Exhibit, exhibits
from spikeproof.report.provenance import Sources, sources
from spikeproof.report.spike_page import spike_files
from spikeproof.report.trust import Trust, noun, ranking_words, threat_words
from spikeproof.version import __version__

__all__ = ["LARGEST", "is_current", "made_from", "write"]

PAGE = "report.html"
"""Name of the file."""

LARGEST = 3_000_000
"""Size that a page must stay below, in bytes."""

MOST_MODELS = 10
"""Models that the ranking at the head of a page names."""


@dataclass(frozen=True)
class Detail:
    """How much detail a page shows, so that it stays below its largest size.

    Args:
        dpi: resolution of rasters.
        exhibits: largest number of examples.
        specs: whether the page prints the spec of every cell.
        rows: largest number of rows in each table.
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
    ranked: Sequence[Ranking] = (),
    corrupted: Corrupted | None = None,
    spikes: Sequence[SpikeRecord] = (),
    grids: Sequence[TransferGrid] = (),
) -> Path:
    """Write `report.html`, `figures/*.svg` and `.pdf`, `table.csv`, `table.tex` and `probes.csv` of a study.

    A study that measured distances also gets `distances.csv`, one that measured natural corruptions
    `corruptions.csv` and `corruption-errors.csv`, and one that analysed spikes a second page, `spikes.html`,
    with `spikes.csv`.

    The same store gives the same bytes. Cells that are missing from the store cause no error; the page names
    them. Figures that only an earlier report contained are deleted, unless they have been changed since.

    Args:
        directory: the output directory of a run.
        records: the headline numbers of the study.
        probes: the results of timing probes; without any, there is no `probes.csv`.
        compared: comparisons of the robustness of models.
        distances: distances of the nearest adversarial images.
        ranked: the order of the models at every budget; without it, the page names no order.
        corrupted: accuracies under natural corruptions, with the mean errors.
        spikes: what an attack does to the spikes of each layer; without it, there is no second page.
        grids: accuracies on images that were made on every other model; they also become `transfers.csv`.

    Returns:
        The path of the page.
    """
    rows = [_portable(record, directory) for record in records]
    shown, origin = exhibits(rows, directory), sources(directory)
    charts = [_Chart.of(drawing) for drawing in drawings(rows)]
    evidence = [_Chart.of(drawing) for drawing in evidence_drawings(rows)]
    timing = _Timing.of([_portable_probe(record, directory) for record in probes])
    near = [_portable_probe(record, directory) for record in distances]
    layers = [_portable_probe(record, directory) for record in spikes]
    natural = _Natural.of(corrupted or Corrupted(), directory)
    transfers = _Transfers(grids, [_Chart.of(transfer_drawing(grids))] if grids else [])
    page, pictures = "", list[_Chart]()
    for detail in DETAILS:
        pictures = _pictures(shown, detail)
        page = _page(
            rows,
            origin,
            charts,
            evidence,
            pictures,
            shown,
            timing,
            compared,
            near,
            ranked,
            natural,
            bool(layers),
            transfers,
            detail,
        )
        if len(page.encode()) < LARGEST:
            break
    files = {
        f"figures/{chart.drawing.name}.{kind}": content
        for chart in (*charts, *evidence, *timing.charts, *natural.charts, *transfers.charts, *pictures)
        for kind, content in chart.files.items()
    }
    files |= {"table.csv": tables.to_csv(rows).encode(), "table.tex": tables.to_latex(rows).encode()}
    if timing.records:
        files["probes.csv"] = tables.probes_csv(timing.records).encode()
    if natural.records:
        files["corruptions.csv"] = tables.corruptions_csv(natural.records).encode()
        files["corruption-errors.csv"] = tables.corruption_errors_csv(natural.errors).encode()
    if grids:
        files["transfers.csv"] = tables.transfers_csv(grids).encode()
    if near:
        files["distances.csv"] = tables.distances_csv(near).encode()
    if layers:
        files |= spike_files(origin.plan["study"], layers, rows)
    _put(directory, {**files, PAGE: page.encode()})
    return directory / PAGE


WRITTEN = "figures/written.json"
"""The file that lists the files of a report with their digests, so that the next report can remove them."""


def _put(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a report, and delete files of an earlier report that have not been changed since."""
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    for name in _earlier(directory):
        if name not in files:
            (directory / name).unlink()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digests[MADE_FROM] = made_from(directory)
    for name, content in files.items():
        write_atomically(directory / name, content)
    write_atomically(directory / WRITTEN, as_json(digests))


def _earlier(directory: Path) -> list[str]:
    """The files of an earlier report that have not been changed since."""
    noted = _noted(directory)
    names = [name for name in noted if PLACES.fullmatch(name)]
    return [name for name in names if _digest(directory / name) == noted[name]]


def _noted(directory: Path) -> dict[str, str]:
    try:
        noted: dict[str, str] = read_json(directory / WRITTEN, dict[str, str])
    except InputError:
        return {}
    return noted


MADE_FROM = "made from"
"""The entry beside the files of a report that holds the digest of its inputs."""


def made_from(directory: Path) -> str:
    """The digest of everything that a report of this directory covers: plan, repairs, cells and failures.

    Args:
        directory: the output directory of a run.
    """
    digest = hashlib.sha256(__version__.encode())
    noted = [directory / "study.json", directory / "repairs.json"]
    for path in (*noted, *sorted(directory.glob("failures/*.json")), *sorted(directory.glob(MANIFESTS))):
        content = bytes_of(path, LARGEST_DOCUMENT) if path.is_file() else b""
        digest.update(f"{path.relative_to(directory)} {len(content)} ".encode() + content)
    return digest.hexdigest()


MANIFESTS = "cells/[!.]*/MANIFEST.json"


def is_current(directory: Path) -> bool:
    """Whether the report in a directory covers the cells there and has not been changed since it was written.

    Args:
        directory: the output directory of a run.
    """
    noted = _noted(directory)
    if noted.pop(MADE_FROM, None) != made_from(directory) or PAGE not in noted:
        return False
    plain = all(OWN.fullmatch(name) for name in noted)
    return plain and all(_digest(directory / name) == digest for name, digest in noted.items())


CSV = "probes|corruptions|corruption-errors|transfers|distances|spikes"
PLACES = re.compile(rf"figures/[\w-]+\.(svg|pdf)|({CSV})\.csv|spikes\.html")
OWN = re.compile(r"(figures/)?[\w-]+\.(svg|pdf|csv|tex|html)")


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _portable(record: Record, directory: Path) -> Record:
    """The record with paths relative to the directory, so that the directory can be moved."""
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


Measured = TypeVar("Measured", ProbeRecord, CorruptionRecord, DistanceRecord, SpikeRecord)


def _portable_probe(record: Measured, directory: Path) -> Measured:
    moved = {"model": _below(record["model"], directory), "cell": _below(record["cell"], directory)}
    return cast(Measured, {**record, **moved})


def _below(path: str, directory: Path) -> str:
    """A path relative to the directory, if it lies there."""
    return Path(path).relative_to(directory).as_posix() if Path(path).is_relative_to(directory) else path


@dataclass(frozen=True)
class _Timing:
    """The results of timing probes, and their figure."""

    records: Sequence[ProbeRecord]
    axes: Sequence[str]
    charts: Sequence[_Chart]

    @classmethod
    def of(cls, records: Sequence[ProbeRecord]) -> _Timing:
        axes = tables.varying(records) or ["encoder"]
        names = [tables.label(record, axes) for record in records]
        return cls(records, axes, [_Chart.of(probe_drawing(records, names))] if records else [])


@dataclass(frozen=True)
class Corrupted:
    """The results of natural corruptions.

    Args:
        records: one per model, corruption and severity.
        errors: one mean corruption error per model.
    """

    records: Sequence[CorruptionRecord] = ()
    errors: Sequence[CorruptionError] = ()


@dataclass(frozen=True)
class _Natural:
    """The results of natural corruptions, and their figure."""

    records: Sequence[CorruptionRecord]
    errors: Sequence[CorruptionError]
    axes: Sequence[str]
    charts: Sequence[_Chart]

    @classmethod
    def of(cls, found: Corrupted, directory: Path) -> _Natural:
        records = [_portable_probe(record, directory) for record in found.records]
        errors = [{**each, "model": _below(each["model"], directory)} for each in found.errors]
        axes = tables.varying(records) or ["encoder"]
        names = [tables.label(record, axes) for record in records]
        charts = [_Chart.of(corruption_drawing(records, names))] if records else []
        return cls(records, cast(Sequence[CorruptionError], errors), axes, charts)

    @property
    def missing(self) -> list[str]:
        """What is not finished."""
        return list(dict.fromkeys(each for row in self.errors for each in row["missing"]))

    @property
    def baseline(self) -> str | None:
        """The model by whose errors the mean corruption errors are divided."""
        return next((row["baseline"] for row in self.errors if row["baseline"]), None)


@dataclass(frozen=True)
class _Transfers:
    """The grids of transfers, and their figure."""

    grids: Sequence[TransferGrid]
    charts: Sequence[_Chart]


def _pictures(shown: Mapping[str, Exhibit | None], detail: Detail) -> list[_Chart]:
    names = file_names("example", shown)
    found = [(names[code], exhibit) for code, exhibit in shown.items() if exhibit is not None]
    return [_Chart.of(exhibit_drawing(name, each, detail.dpi)) for name, each in found[: detail.exhibits]]


def _backdoors(records: Sequence[Record], axes: Sequence[str]) -> list[str]:
    """A sentence about each model that was trained on poisoned data."""
    found = {}
    for record in records:
        if (success := record["backdoor_success"]) is None:
            continue
        interval = tables.interval(record["backdoor_low"], record["backdoor_high"])
        found[record["train_cell"]] = (
            f"{tables.label(record, axes)}: trained on poisoned data. Of the images of other classes, "
            f"{tables.percent(success)} % {interval} get the target class of the backdoor with its trigger, "
            f"and {tables.percent(record['backdoor_without'])} % without it."
        )
    return list(found.values())


def _page(
    records: Sequence[Record],
    origin: Sources,
    charts: Sequence[_Chart],
    evidence: Sequence[_Chart],
    pictures: Sequence[_Chart],
    shown: Mapping[str, Exhibit | None],
    timing: _Timing,
    compared: Sequence[Compared],
    distances: Sequence[DistanceRecord],
    ranked: Sequence[Ranking],
    natural: _Natural,
    spikes: bool,
    transfers: _Transfers,
    detail: Detail,
) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    axes = tables.varying(records) or ["encoder"]
    rows = tables.headlines(records)
    unfinished = len(origin.failed) + len(origin.damaged) + max(origin.missing, 0)
    environment.filters |= {
        "percent": tables.percent,
        "number": tables.number,
        "distance": tables.distance,
        "epsilon": tables.epsilon_text,
        "interval": tables.interval,
        "bar": _bar,
        "prose": _prose,
        "per": _per,
        "proof": tables.proof_words,
    }
    environment.filters["label"] = lambda record: tables.label(record, axes)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    return template.render(
        study=origin.plan["study"],
        origin=origin,
        created=origin.plan.get("created", ""),
        version=origin.plan.get("spikeproof", ""),
        summary=_summary(records, rows, {each.threat for each in ranked if len(each.rows) > 1}),
        ranking=most_separating(ranked),
        order=ranking_words(ranked, axes),
        most_places=MOST_MODELS,
        axes=axes,
        constants=_constants(records),
        seeds=tables.seeds(records),
        tallies=tables.tallies(records),
        backdoors=_backdoors(records, axes),
        in_views=any(r["effort"] and r["effort"]["accuracy_in_views"] is not None for r in records),
        suites=[record for record in records if record["effort"] and record["broken_by"]][: detail.rows],
        attacked=[record for record in records if record["effort"]][: detail.rows],
        noun=noun(records),
        evidence=evidence,
        threats={b.threat: threat_words(b.threat) for b in tables.budgets(records)},
        budgets=tables.budgets(records),
        headlines=rows,
        records=records[: detail.rows],
        timing=timing,
        spikes=spikes,
        compared=compared[: detail.rows],
        uncompared=len(compared[detail.rows :]),
        distances=distances[: detail.rows],
        distances_left_out=len(distances[detail.rows :]),
        distance_axes=tables.varying(distances) or ["encoder"],
        natural=natural,
        transfers=transfers,
        corruptions=natural.records[: detail.rows],
        corruptions_left_out=len(natural.records[detail.rows :]),
        probes=timing.records[: detail.rows],
        probes_left_out=len(timing.records[detail.rows :]),
        left_out=len(records[detail.rows :]),
        alarms=_alarms(records, axes),
        trust=Trust.of(records, timing.records, compared, axes, detail.rows, unfinished),
        charts=charts,
        pictures=pictures,
        without_picture=[code for code, exhibit in shown.items() if exhibit is None],
        pictures_left_out=sum(exhibit is not None for exhibit in shown.values()) - len(pictures),
        detail=detail,
        worst_case=WORST_CASE,
        measured={row.model["train_cell"].rpartition("/")[2]: tables.label(row.model, axes) for row in rows},
    )


def _bar(share: float | None) -> float:
    """The length of a data bar in per cent."""
    return 0.0 if share is None or not 0 <= share <= 1 else round(100 * share, 1)


def _constants(records: Sequence[Record]) -> dict[str, object]:
    """The axes on which all models agree, with their values."""
    values = {axis: {dict(record)[axis] for record in records} for axis in tables.AXES}
    return {axis: next(iter(found)) for axis, found in values.items() if len(found) == 1}


def _prose(text: str) -> Markup:
    """Text as HTML, in which passages between backticks are set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _per(total: float | None, count: float | None) -> float | None:
    """The total divided by the count, or None if either is missing or zero."""
    return total / count if total is not None and count else None


def _summary(records: Sequence[Record], rows: Sequence[tables.Headline], ranked: Set[str]) -> str:
    """A summary of the study in one paragraph."""
    if not records:
        return "No number of this study is finished yet."
    names = list(dict.fromkeys(record["dataset"] for record in records))
    images = sorted({record["n"] for record in records})
    clean = [row.model["clean_accuracy"] for row in rows if row.model["clean_accuracy"] is not None]
    count, they = (
        (f"{len(rows)} models were", "the models classify")
        if len(rows) > 1
        else ("One model was", "the model classifies")
    )
    data, many = ", ".join(names), " or ".join(map(str, images))
    words = f"{count} measured on {many} test {noun(records)} of {data}. "
    if not all(record["rule"].startswith(UNTRAINED) for record in records):
        words = f"{count} trained on {data} and measured on {many} test {noun(records)}. "
    if clean:
        words += f"Without an attack {they} {_range(clean)} of them correctly. "
    return words + _attack_summary(records, rows, ranked)


def _attack_summary(records: Sequence[Record], rows: Sequence[tables.Headline], ranked: Set[str]) -> str:
    attacks = list(dict.fromkeys(r["attack"] for r in tables.attacks_of(records)))
    if not attacks:
        return "No attack is finished, so the report says nothing about robustness."
    words = f"The attacks were {', '.join(attacks)}. "
    for threat in dict.fromkeys(budget.threat for budget in tables.budgets(records)):
        if threat in ranked:  # the ranking says it
            continue
        here = [record for row in rows for record in row.worst.values() if record["threat"] == threat]
        if here and all(record["verdict"] == WITHHELD for record in here):
            words += f"Under {threat}, every number is withheld. "
            continue
        epsilon = telling(here)
        worst = [r for r in here if r["epsilon"] == epsilon and r["robust_accuracy"] is not None]
        words += f"Under {threat} with epsilon {tables.epsilon_text(epsilon)}, " if worst else ""
        words += _worst_summary(worst) if worst else f"Under {threat}, no robust accuracy is finished yet. "
    return words


def _worst_summary(worst: Sequence[Record]) -> str:
    shown_numbers = [record for record in worst if record["verdict"] != WITHHELD]
    words = (
        "the robust accuracy in the worst case over all attacks is "
        f"{_range([record['robust_accuracy'] for record in shown_numbers])}"
    )
    if len(shown_numbers) == 1 and shown_numbers[0]["verdict"] in MARKS:
        words += f", a {shown_numbers[0]['verdict']} number"
    withheld = len(worst) - len(shown_numbers)
    return words + (f"; {withheld} more are withheld. " if withheld else ". ")


def _range(shares: Sequence[float]) -> str:
    low, high = tables.percent(min(shares)), tables.percent(max(shares))
    return f"{low} %" if low == high else f"{low} to {high} %"


@dataclass(frozen=True)
class Alarm:
    """Warnings of one kind.

    Args:
        kind: name of the check.
        meaning: why the check matters, and what to do.
        numbers: how many numbers the warnings concern.
        items: the warnings, each with its model and its epsilons.
    """

    kind: str
    meaning: str
    numbers: int
    items: tuple[str, ...]


MEANINGS = {check.name: f"{check.matters} {check.remedy}" for check in CHECKS}


def _alarms(records: Sequence[Record], axes: Sequence[str]) -> list[Alarm]:
    """All warnings by kind, each text once per model with its epsilons.

    The check behind a preliminary verdict is left out, because it indicates no fault.
    """
    kinds: dict[str, dict[tuple[str, str], list[str]]] = {}
    unsearched = {check.name for check in CHECKS if check.verdict == PRELIMINARY}
    for record in records:
        for text in record["warnings"]:
            if text.split(":")[0] in unsearched:
                continue
            place = (text, tables.label(record, axes))
            found = kinds.setdefault(text.split(":")[0], {}).setdefault(place, [])
            epsilon = tables.epsilon_text(record["epsilon"])
            found += [] if epsilon in found else [epsilon]
    return [
        Alarm(
            kind,
            MEANINGS.get(kind, ""),
            sum(map(len, places.values())),
            tuple(_alarm_text(*place, epsilons) for place, epsilons in places.items()),
        )
        for kind, places in kinds.items()
    ]


def _alarm_text(text: str, model: str, epsilons: Sequence[str]) -> str:
    return f"{model}, epsilon {', '.join(epsilons)}: {text.partition(':')[2].strip() or text}"
