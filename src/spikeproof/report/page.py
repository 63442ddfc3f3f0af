"""The page: one HTML file that holds a whole report, opens offline and is smaller than 15 megabytes."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TypeVar, cast

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from spikeproof.auditing.checks import CHECKS, GRAVITY, MARKS, PRELIMINARY, SUPPORTED, WITHHELD
from spikeproof.experiments.read.comparisons import MOST_COMPARED, Compared
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.gathered.across_seeds import (
    SeedMean,
    SeedRanking,
    Trainings,
)
from spikeproof.experiments.read.gathered.paper_rows import paper_rows
from spikeproof.experiments.read.ranking import Ranking, most_separating
from spikeproof.experiments.read.record import (
    CorruptionError,
    CorruptionRecord,
    DistanceRecord,
    ProbeRecord,
    Record,
    SpikeRecord,
    TransferGrid,
    values_of,
)
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.read.trained import Curve, training_curves
from spikeproof.experiments.run.plans import models_of
from spikeproof.experiments.study.owned import UNTRAINED, named_programs
from spikeproof.report import tables
from spikeproof.report.charts.attack_figures import evidence_drawings
from spikeproof.report.charts.drawing import Drawing, file_names, inline
from spikeproof.report.charts.exhibits import Exhibit, exhibits
from spikeproof.report.charts.figures import (
    corruption_drawing,
    drawings,
    probe_drawing,
    telling,
    transfer_drawing,
)
from spikeproof.report.charts.pictures import exhibit_drawing
from spikeproof.report.embedded import Limits, as_script, embedded
from spikeproof.report.outputs import NUMBERS, PAGE, Numbers, numbers_file, put
from spikeproof.report.provenance import Origin, Sources, sources
from spikeproof.report.spike_page import SpikeSection, spike_section
from spikeproof.report.trust import Trust, noun, over_trainings_words, ranking_words, threat_words

__all__ = ["LARGEST", "Corrupted", "write"]

LARGEST = 15_000_000
"""Size that a page must stay below, in bytes."""

MOST_MODELS = 10
"""Models that the ranking at the head of a page names."""


MOST_LINKED = 400_000
"""Size of the largest file that a page holds for saving, in bytes."""

MOST_ALARMS = 20
"""Warnings of one kind that a page lists."""

SUSPECTED = 0.05
"""Below this p-value the test of a model for backdoors suspects a class."""


@dataclass(frozen=True)
class Detail:
    """How much detail a page shows, so that it stays below its largest size.

    Args:
        dpi: resolution of rasters.
        exhibits: largest number of pictures of examples.
        rows: largest number of rows in each table, and of cells whose specs are printed.
        saved: whether the page holds the files beside it, so that they can be saved from it.
        embedded: how much data the page embeds.
        numbers: largest number of numbers of a study for which this detail may fit.
    """

    dpi: int
    exhibits: int
    rows: int
    saved: bool
    embedded: Limits
    numbers: float = math.inf


DETAILS = (
    Detail(200, 100, 400, True, Limits(20_000, True, 4_000_000, 2_000), 12_000),
    Detail(100, 12, 400, True, Limits(20_000, True, 1_000_000, 500), 12_000),
    Detail(60, 6, 200, False, Limits(20_000, False, 500_000, 500)),
    Detail(60, 6, 200, False, Limits(10_000, False, 500_000, 100)),
    Detail(60, 0, 100, False, Limits(2_000, False, 0, 0)),
)


def write(
    study: Path | Opened,
    records: Sequence[Record],
    probes: Sequence[ProbeRecord] = (),
    compared: Sequence[Compared] = (),
    distances: Sequence[DistanceRecord] = (),
    ranked: Sequence[Ranking] = (),
    corrupted: Corrupted | None = None,
    spikes: Sequence[SpikeRecord] = (),
    grids: Sequence[TransferGrid] = (),
    trainings: Trainings | None = None,
) -> Path:
    """Write `report.html`, `figures/*.svg` and `.pdf`, `table.csv`, `table.tex` and `probes.csv` of a study.

    A study that measured distances also gets `distances.csv`, one that measured natural corruptions
    `corruptions.csv` and `corruption-errors.csv`, and one that analysed spikes a second page, `spikes.html`,
    with `spikes.csv`.

    The same store gives the same bytes. Cells that are missing from the store cause no error; the page names
    them. Figures that only an earlier report contained are deleted, unless they have been changed since.

    Args:
        study: the output directory of a run, or the study in it.
        records: the headline numbers of the study.
        probes: the results of timing probes; without any, there is no `probes.csv`.
        compared: comparisons of the robustness of models.
        distances: distances of the nearest adversarial images.
        ranked: the order of the models at every budget; without it, the page names no order.
        corrupted: accuracies under natural corruptions, with the mean errors.
        spikes: what an attack does to the spikes of each layer; without it, there is no second page.
        grids: accuracies on images that were made on every other model; they also become `transfers.csv`.
        trainings: what several seeds show together, if it is known; otherwise it is read from the study.

    Returns:
        The path of the page.
    """
    opened = Opened.of(study)
    directory = opened.directory
    rows = [_portable(record, directory) for record in records]
    origin = sources(opened)
    layers = [_portable_probe(record, directory) for record in spikes]
    content = _Content(
        opened=opened,
        records=rows,
        origin=origin,
        charts=[_Chart.of(drawing) for drawing in drawings(rows)],
        evidence=[_Chart.of(drawing) for drawing in evidence_drawings(rows)],
        shown=exhibits(rows, directory),
        timing=_Timing.of([_portable_probe(record, directory) for record in probes]),
        compared=compared,
        distances=[_portable_probe(record, directory) for record in distances],
        ranked=[_portable_ranking(each, directory) for each in ranked],
        natural=_Natural.of(corrupted or Corrupted(), directory),
        layers=layers,
        spikes=spike_section(layers, rows) if layers else None,
        transfers=_Transfers(grids, [_Chart.of(transfer_drawing(grids))] if grids else []),
        trainings=Trainings.of(opened, rows) if trainings is None else trainings,
        curves=training_curves(opened),
    )
    files = content.tables()
    page, pictures, drawn = "", list[_Chart](), dict[tuple[int, int], list[_Chart]]()
    for detail in DETAILS:
        if len(rows) > detail.numbers:
            continue
        looks = (detail.dpi, detail.exhibits)
        pictures = drawn[looks] = drawn.get(looks) or _pictures(content.shown, detail)
        page = _page(content, pictures, files | _figures(pictures), detail)
        if len(page.encode()) < LARGEST:
            break
    kept = numbers_file(
        Numbers(
            rows,
            content.timing.records,
            content.natural.records,
            content.natural.errors,
            grids,
            content.distances,
            layers,
            content.ranked,
        )
    )
    files |= {NUMBERS: kept} if kept is not None else {}
    put(directory, {**files, **_figures(pictures), PAGE: page.encode()})
    return directory / PAGE


def _portable(record: Record, directory: Path) -> Record:
    """The record with paths relative to the directory, so that the directory can be moved."""
    names = ("model", "cell", "train_cell", "clean_cell")
    moved = {name: _below(record[name], directory) for name in names}  # type: ignore[literal-required]
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
    above = f"{directory}{os.sep}"
    if path.startswith(above):  # a Path takes longer
        return path[len(above) :].replace(os.sep, "/")
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


@dataclass(frozen=True)
class _Content:
    """What a page shows: the results of a study, with paths relative to its directory, and their figures."""

    opened: Opened
    records: Sequence[Record]
    origin: Sources
    charts: Sequence[_Chart]
    evidence: Sequence[_Chart]
    shown: Mapping[str, Exhibit | None]
    timing: _Timing
    compared: Sequence[Compared]
    distances: Sequence[DistanceRecord]
    ranked: Sequence[Ranking]
    natural: _Natural
    layers: Sequence[SpikeRecord]
    spikes: SpikeSection | None
    transfers: _Transfers
    trainings: Trainings
    curves: Sequence[Curve]

    def tables(self) -> dict[str, bytes]:
        """The files beside the page, apart from the pictures of examples."""
        charts = (*self.charts, *self.evidence, *self.timing.charts, *self.natural.charts)
        found = _figures((*charts, *self.transfers.charts))
        found |= {
            "table.csv": tables.to_csv(self.records).encode(),
            "table.tex": tables.to_latex(self.records).encode(),
        }
        if self.timing.records:
            found["probes.csv"] = tables.probes_csv(self.timing.records).encode()
        if self.natural.records:
            found["corruptions.csv"] = tables.corruptions_csv(self.natural.records).encode()
            found["corruption-errors.csv"] = tables.corruption_errors_csv(self.natural.errors).encode()
        if self.transfers.grids:
            found["transfers.csv"] = tables.transfers_csv(self.transfers.grids).encode()
        if any(curve.epochs for curve in self.curves):
            found["training-curves.csv"] = tables.training_csv(self.curves).encode()
        if self.trainings.means:
            rows = paper_rows(self.opened, self.records, self.trainings.means)
            found["trainings.csv"] = tables.trainings_csv(self.trainings.means).encode()
            found["trainings.tex"] = tables.paper_latex(rows).encode()
            found["across-seeds.csv"] = tables.across_seeds_csv(self.trainings.compared).encode()
            found["across-seeds.tex"] = tables.comparisons_latex(self.trainings.compared).encode()
        if self.distances:
            found["distances.csv"] = tables.distances_csv(self.distances).encode()
        return found | (self.spikes.files if self.spikes else {})

    @property
    def unfinished(self) -> list[str]:
        """What the study lacks, with the first names of each kind, the failed cells first."""
        failed, damaged, missing = self.origin.failed, self.origin.damaged, self.origin.missing
        named = _first([f"{failure.kind} {failure.address[:8]}" for failure in failed], len(failed))
        waiting = _first([words.rpartition(" (")[0] for words in self.origin.waiting], missing)
        return [
            *([f"{_cells(len(failed))} failed ({named})"] if failed else []),
            *([f"{_cells(len(damaged))} damaged"] if damaged else []),
            *([f"{_cells(missing)} not computed yet ({waiting})"] if missing > 0 else []),
        ]


def _by_architecture(means: Sequence[SeedMean]) -> list[dict[tables.Budget, SeedMean]]:
    """The means of every architecture by budget; that of clean accuracy has the threat `none`."""
    found = defaultdict[tuple[object, ...], dict[tables.Budget, SeedMean]](dict)
    for row in means:
        found[tables.architecture(row)][tables.Budget(row["threat"], row["epsilon"])] = row
    return [*found.values()]


def _first(names: Sequence[str], count: int) -> str:
    """The first two of so many names."""
    return ", ".join(names[:2]) + (f" and {count - 2} more" if count > 2 else "")


def _cells(count: int) -> str:
    return f"{count} cell{'s' if count > 1 else ''}"


def _figures(charts: Sequence[_Chart]) -> dict[str, bytes]:
    return {
        f"figures/{chart.drawing.name}.{kind}": content
        for chart in charts
        for kind, content in chart.files.items()
    }


def _portable_ranking(found: Ranking, directory: Path) -> Ranking:
    return replace(found, rows=[_portable(row, directory) for row in found.rows])


@dataclass(frozen=True)
class AnswerRow:
    """One line of the answer at the head of a page.

    Args:
        name: of the model, or of the budget where there is only one model.
        record: the worst case, or its mean over trainings.
        href: of the part of the page that the number links to.
        against: what the test against the first shows.
    """

    name: str
    record: Record
    href: str
    against: str


@dataclass(frozen=True)
class Answer:
    """The table at the head of a page: the ranking, or the worst cases where there is nothing to rank.

    Args:
        title: of the table.
        first: heading of its first column.
        rows: its lines.
        tested: whether the rows are ranked.
        more: number of models that are left out.
        averaged: whether the numbers are means over trainings.
    """

    title: str
    first: str
    rows: Sequence[AnswerRow]
    tested: bool
    more: int
    averaged: bool = False

    @property
    def proved(self) -> bool:
        """Whether a certified accuracy is shown."""
        return any(row.record["certified"] is not None for row in self.rows)

    @classmethod
    def of(cls, records: Sequence[Record], ranked: Sequence[Ranking], axes: Sequence[str]) -> Answer:
        """The answer of a study.

        Args:
            records: its headline numbers.
            ranked: their order at every budget.
            axes: on which they differ.
        """
        rows, columns = tables.headlines(records), tables.budgets(records)
        numbered = {row.model["model"]: number for number, row in enumerate(rows)}

        def line(name: str, record: Record, against: str = "") -> AnswerRow:
            place = f"{columns.index(tables.budget_of(record))}-{numbered[record['model']]}"
            return AnswerRow(name, record, f"#worst-{place}", against)

        if (top := most_separating(ranked)) is not None and all(row["model"] in numbered for row in top.rows):
            lines = [
                line(tables.label(row, axes), row, "" if rank == 0 else _against(top, rank))
                for rank, row in enumerate(top.rows[:MOST_MODELS])
            ]
            title = f"Ranking at {top.threat} {tables.epsilon_text(top.epsilon)}"
            separated = ", the budget that separates the models most" if top.shown else ""
            return cls(title + separated, "model", lines, True, len(top.rows) - len(lines))
        worst = [(budget, row) for row in rows for budget in columns if budget in row.worst]
        lines = [
            line(
                f"{tables.label(row.model, axes) + ', ' if len(rows) > 1 else ''}{_budget_words(budget)}",
                row.worst[budget],
            )
            for budget, row in worst[:MOST_MODELS]
        ]
        return cls("Robust accuracy in the worst case", "budget", lines, False, len(worst) - len(lines))

    @classmethod
    def across(cls, trainings: Trainings, axes: Sequence[str]) -> Answer | None:
        """The answer of a study with several seeds, in means over trainings; None without them.

        Args:
            trainings: what they show together.
            axes: on which the models of the study differ.
        """
        if not trainings.ranked:
            return None
        named, top = tables.without_seed(axes) or ["encoder"], trainings.top
        mean = "mean over trainings"
        if top is None:
            places = [(each, each.rows[0], each.first[0]) for each in trainings.ranked]
            lines = [
                AnswerRow(
                    _budget_words(tables.Budget(each.threat, each.epsilon)),
                    trainings.record(row, record),
                    HERE,
                    "",
                )
                for each, row, record in places[:MOST_MODELS]
            ]
            title = f"Robust accuracy in the worst case, {mean}"
            return cls(title, "budget", lines, False, len(places) - len(lines), averaged=True)
        lines = [
            AnswerRow(
                tables.label(record, named),
                trainings.record(row, record),
                HERE,
                _across(top, place),
            )
            for place, (row, record) in enumerate(zip(top.rows, top.first, strict=True))
        ][:MOST_MODELS]
        title = f"Ranking at {top.threat} {tables.epsilon_text(top.epsilon)}, {mean}"
        return cls(title, "model", lines, True, len(top.rows) - len(lines), averaged=True)


HERE = "#trainings"
"""Where a page shows the means over trainings."""


def _across(ranking: SeedRanking, place: int) -> str:
    """What the test over trainings and images shows of an architecture against the first."""
    if place == 0:
        return ""
    return {True: "less robust", False: "no difference shown", None: "not tested"}[ranking.below[place]]


def _against(ranking: Ranking, rank: int) -> str:
    return "less robust" if rank in ranking.below_first else "no difference shown"


def _budget_words(budget: tables.Budget) -> str:
    return f"{budget.threat} {tables.epsilon_text(budget.epsilon)}"


def _verdicts(records: Sequence[Record]) -> list[tuple[str, int, str]]:
    """How many worst cases have each verdict, with the mark of the verdict, the best verdict first."""
    counts = Counter(row["verdict"] for row in records if row["attack"] == WORST_CASE)
    marks = {SUPPORTED: "\N{CHECK MARK}", WITHHELD: "\N{MULTIPLICATION X}", **MARKS}
    return [(verdict, counts[verdict], marks[verdict]) for verdict in reversed(GRAVITY) if counts[verdict]]


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
        if (p_value := record["backdoor_p_value"]) is not None:
            named = f"class {record['backdoor_suspect']}" if p_value < SUSPECTED else "no class"
            found[record["train_cell"]] += f" The test without data suspects {named} (p = {p_value:.3f})."
    return list(found.values())


def _page(content: _Content, pictures: Sequence[_Chart], saved: Mapping[str, bytes], detail: Detail) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    records, origin, ranked = content.records, content.origin, content.ranked
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
    template = environment.from_string(_asset("page.html"))
    scripts = [Markup(_asset(name)) for name in SCRIPTS]
    data = embedded(
        content.opened, records, origin, ranked, content.layers, content.trainings, detail.embedded
    )
    trained = {cell.address: cell for cell in origin.origins if cell.address == cell.train}
    measured = {row.model["train_cell"].rpartition("/")[2]: tables.label(row.model, axes) for row in rows}
    models = {address: name for address, name in measured.items() if address in trained}
    return template.render(
        study=origin.plan["study"],
        style=Markup(_asset("style.css")),
        policy=_policy(scripts),
        scripts=scripts,
        data=Markup(as_script(data)),
        link=lambda name: _saved(saved.get(name), name) if detail.saved else "",
        origin=origin,
        unfinished=content.unfinished,
        created=origin.plan.get("created", ""),
        version=origin.plan.get("spikeproof", ""),
        summary=_summary(records, rows, {each.threat for each in ranked if len(each.rows) > 1}),
        answer=Answer.across(content.trainings, axes) or Answer.of(records, ranked, axes),
        verdicts=_verdicts(records),
        order=[*over_trainings_words(content.trainings.top, axes), *ranking_words(ranked, axes)],
        axes=axes,
        constants=_constants(records),
        over_seeds=_by_architecture(content.trainings.means)[: detail.rows],
        fewest_seeds=min((len(row["seeds"]) for row in content.trainings.means), default=0),
        clean_budget=tables.Budget(tables.NO_ATTACK, 0.0),
        across_seeds=content.trainings.compared[: detail.rows],
        across_seeds_left_out=len(content.trainings.compared[detail.rows :]),
        tallies=tables.tallies(records),
        backdoors=_backdoors(records, axes),
        in_views=any(r["effort"] and r["effort"]["accuracy_in_views"] is not None for r in records),
        suites=[record for record in records if record["effort"] and record["broken_by"]][: detail.rows],
        attacked=[record for record in records if record["effort"]][: detail.rows],
        worst_records=[record for record in records if record["attack"] == WORST_CASE][: detail.rows],
        noun=noun(records),
        evidence=content.evidence,
        threats={b.threat: threat_words(b.threat) for b in tables.budgets(records)},
        budgets=tables.budgets(records),
        headlines=rows[: detail.rows],
        headlines_left_out=len(rows[detail.rows :]),
        records=records[: detail.rows],
        timing=content.timing,
        spikes=content.spikes and content.spikes.markup,
        compared=content.compared[: detail.rows],
        most_compared=MOST_COMPARED,
        rows_left_out=data["rowsLeftOut"],
        uncompared=len(content.compared[detail.rows :]),
        distances=content.distances[: detail.rows],
        distances_left_out=len(content.distances[detail.rows :]),
        distance_axes=tables.varying(content.distances) or ["encoder"],
        natural=content.natural,
        transfers=content.transfers,
        corruptions=content.natural.records[: detail.rows],
        corruptions_left_out=len(content.natural.records[detail.rows :]),
        probes=content.timing.records[: detail.rows],
        probes_left_out=len(content.timing.records[detail.rows :]),
        left_out=len(records[detail.rows :]),
        alarms=_alarms(records, axes),
        most_alarms=MOST_ALARMS,
        trust=Trust.of(
            records,
            content.timing.records,
            content.compared,
            axes,
            detail.rows,
            unfinished,
            named_programs(models_of(origin.plan["plan"]).values()),
        ),
        charts=content.charts,
        pictures=pictures,
        without_picture=[code for code, exhibit in content.shown.items() if exhibit is None],
        pictures_left_out=sum(each is not None for each in content.shown.values()) - len(pictures),
        specs=len(origin.origins) <= detail.rows,
        cells_embedded=len(data["cells"]),
        of_model=_of_model(origin.origins),
        trained=trained,
        measured=dict(list(models.items())[: detail.rows]),
        measured_left_out=len(list(models)[detail.rows :]),
    )


SCRIPTS = ("plot.min.js", "explorer.js")
"""The scripts of a page, in their order: the library that draws, and the script that shows the data."""


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text("utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: nothing is loaded, and only these scripts run."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


TYPES = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv", "tex": "application/x-tex"}
"""Ending of a file -> its type, for links that hold it."""


def _saved(content: bytes | None, name: str) -> str:
    """The address of a file inside the page, or nothing if the file is large."""
    if content is None or len(content) > MOST_LINKED:
        return ""
    return f"data:{TYPES[name.rpartition('.')[2]]};base64,{base64.b64encode(content).decode()}"


def _of_model(origins: Sequence[Origin]) -> dict[str, list[Origin]]:
    """The cells of each model."""
    found = defaultdict[str, list[Origin]](list)
    for cell in origins:
        found[cell.train].append(cell)
    return found


def _bar(share: float | None) -> float:
    """The length of a data bar in per cent."""
    return 0.0 if share is None or not 0 <= share <= 1 else round(100 * share, 1)


def _constants(records: Sequence[Record]) -> dict[str, object]:
    """The axes on which all models agree, with their values."""
    values = {axis: values_of(records, axis) for axis in tables.AXES}
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
