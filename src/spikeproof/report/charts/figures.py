"""Figures: accuracy against epsilon and against time, maps of encoders and decoders, timing probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spikeproof.auditing.checks import DOUBTFUL, MARKS, PRELIMINARY, WITHHELD
from spikeproof.experiments.read.record import (
    CorruptionRecord,
    ProbeRecord,
    Record,
    TransferGrid,
    value_of,
)
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.report.charts.drawing import (
    COLOURS,
    DASHES,
    GREY,
    MARKERS,
    Drawing,
    Style,
    file_names,
    legend,
    wrapped,
)
from spikeproof.report.charts.exhibits import ANALOGUE, Array, middle
from spikeproof.report.tables import MISSING, attacked, epsilon_text, number, varying

__all__ = ["corruption_drawing", "drawings", "probe_drawing", "telling", "transfer_drawing"]

MANY = 8
"""Largest number of lines in colour in one panel; where there are more, the most robust are in colour."""

MOST_PANELS = 24
"""Largest number of panels in one figure; the tables hold the numbers of all others."""

ROBUST = "robust_accuracy"
_UNITS = {"relu": "ReLU"}
"""Neurons of an ANN, as captions write them."""

PALE = "#c4c4c4"


def drawings(records: Sequence[Record]) -> list[Drawing]:
    """Curves in the worst case and per attack, heat maps and exit curves, as far as the records allow.

    Args:
        records: the records of one study.
    """
    found = attacked(records)
    atlas = _Atlas(records)
    return [
        *_curves(atlas, found),
        *_attack_curves(atlas, found),
        *_heat_maps(atlas, records),
        *_exit_curves(atlas, records),
    ]


@dataclass(frozen=True)
class _Panel:
    """Models that differ only in their encoder, under one threat, with ReLU networks as a reference."""

    place: str
    decoder: str
    rows: tuple[Record, ...]
    reference: tuple[Record, ...]

    @property
    def title(self) -> str:
        return " · ".join(part for part in (self.place, self.decoder) if part)


@dataclass(frozen=True)
class _Facet:
    """One panel of a figure: its lines by name, and their styles."""

    title: str
    lines: Mapping[str, Sequence[Record]]
    styles: Mapping[str, Style]
    coloured: frozenset[str] | None = None  # the same in all panels of a figure; None for all

    @property
    def rows(self) -> list[Record]:
        return [row for rows in self.lines.values() for row in rows]

    def shown(self) -> list[tuple[str, Sequence[Record], Style]]:
        """Lines with names and styles; the lines without a colour come first, in grey."""
        coloured = self.coloured or self.lines.keys()
        pale = {"color": PALE, "marker": "", "linestyle": "-"}
        others = [("others", rows, pale) for name, rows in self.lines.items() if name not in coloured]
        return others + [(n, rows, self.styles[n]) for n, rows in self.lines.items() if n in coloured]


def _legible(facets: Sequence[_Facet]) -> list[_Facet]:
    """The same facets, in which only the lines that are most robust on average have colours."""
    lines: dict[str, list[Record]] = {}
    for facet in facets:
        for name, rows in facet.lines.items():
            lines.setdefault(name, []).extend(rows)
    if len(lines) <= MANY:
        return list(facets)
    best = set(sorted(lines, key=lambda name: -_height(lines[name]))[:MANY])
    styles = {name: _style(i) for i, name in enumerate(name for name in lines if name in best)}
    return [replace(facet, styles=styles, coloured=frozenset(best)) for facet in facets]


def _height(rows: Sequence[Record]) -> float:
    """The mean accuracy in the worst case, or on clean images where there is no worst case."""
    worst = [row["robust_accuracy"] for row in rows if row["attack"] == WORST_CASE and _shown(row)]
    values = worst or [row["clean_accuracy"] for row in rows]
    return float(np.mean([value for value in values if value is not None] or [0.0]))


def _shown(record: Record) -> bool:
    return record["verdict"] != WITHHELD


class _Atlas:
    """Names and colours of the encoders of a study, the same in every figure."""

    def __init__(self, records: Sequence[Record]) -> None:
        spiking = [record for record in records if not _is_ann(record)]
        twins = [record for record in records if _is_ann(record)]
        self.twin_axes = varying(twins, ("encoder",))
        axes = varying(records, ("dataset", "network", "threat"))
        self.place_axes = axes or ["network"]
        self.part_axes = varying(spiking or records, ("decoder", "rule", "neuron", "surrogate")) or [
            "decoder"
        ]
        self.places = len({self.place(record) for record in records})
        ann = {name: _ann_style(i) for i, name in enumerate(dict.fromkeys(map(self.code, twins)))}
        codes = dict.fromkeys(record["encoder"] for record in spiking)
        decoders = dict.fromkeys(map(self.decoder, spiking))
        self.styles: dict[str, Style] = {code: _style(i) for i, code in enumerate(codes)} | ann
        self.decoder_styles: dict[str, Style] = {name: _style(i) for i, name in enumerate(decoders)} | ann

    def code(self, record: Record) -> str:
        if not _is_ann(record):
            return record["encoder"]
        unit = _UNITS.get(record["neuron"], record["neuron"])
        return f"{unit} network" + (f", {record['encoder']}" if self.twin_axes else "")

    def place(self, record: Record) -> str:
        return " · ".join(str(value_of(record, axis)) for axis in self.place_axes)

    def decoder(self, record: Record) -> str:
        return " · ".join(str(value_of(record, axis)) for axis in self.part_axes)

    def panels(self, records: Sequence[Record]) -> list[_Panel]:
        groups: dict[tuple[str, str], list[Record]] = {}
        twins: dict[str, list[Record]] = {}
        for record in records:
            place = self.place(record)
            if _is_ann(record):
                twins.setdefault(place, []).append(record)
            else:
                groups.setdefault((place, self.decoder(record)), []).append(record)
        panels = [
            _Panel(place, decoder, tuple(rows), tuple(twins.get(place, ())))
            for (place, decoder), rows in groups.items()
        ]
        alone = [place for place in twins if place not in {panel.place for panel in panels}]
        return panels + [_Panel(place, "", (), tuple(twins[place])) for place in alone]

    def facet(self, panel: _Panel) -> _Facet:
        """The encoders of a panel as lines."""
        lines: dict[str, list[Record]] = {}
        for record in (*panel.rows, *panel.reference):
            lines.setdefault(self.code(record), []).append(record)
        title = panel.title if len(self.place_axes) > 1 or self.places > 1 else panel.decoder or panel.place
        return _Facet(title, lines, self.styles)

    def facets(self, records: Sequence[Record]) -> list[_Facet]:
        """One panel per decoder with encoders as lines, or the reverse where that gives fewer lines."""
        panels = self.panels(records)
        by_decoder = [self.facet(panel) for panel in panels]
        most = max((len(facet.lines) for facet in by_decoder), default=0)
        by_code = self._by_code(panels)
        if most <= MANY or max(len(facet.lines) for facet in by_code) >= most:
            return _legible(by_decoder)
        return _legible(by_code)

    def _by_code(self, panels: Sequence[_Panel]) -> list[_Facet]:
        groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
        for panel in panels:
            for row in panel.rows or panel.reference:
                lines = groups.setdefault((panel.place, self.code(row)), {})
                lines.setdefault(self.code(row) if _is_ann(row) else panel.decoder, []).append(row)
        for panel in panels:
            for (place, _), lines in groups.items():
                if place == panel.place and panel.rows:
                    lines.update(self.facet(_Panel(place, "", (), panel.reference)).lines)  # type: ignore[arg-type]
        places = {place for place, _ in groups}
        return [
            _Facet(f"{code} · {place}" if len(places) > 1 else code, lines, self.decoder_styles)
            for (place, code), lines in groups.items()
        ]


def _style(i: int) -> Style:
    n = len(COLOURS)
    return {"color": COLOURS[i % n], "marker": MARKERS[i % n], "linestyle": DASHES[i // n % len(DASHES)]}


def _ann_style(i: int) -> Style:
    return {"color": GREY, "marker": MARKERS[i % len(MARKERS)], "linestyle": (0, (4, 2))}


def _is_ann(record: Record) -> bool:
    return record["neuron"] in ANALOGUE


# --- accuracy against epsilon ---


def _curves(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    facets = [facet for facet in atlas.facets(records) if any(r["attack"] == WORST_CASE for r in facet.rows)]
    if not facets:
        return []
    shown = facets[:MOST_PANELS]
    columns = min(len(shown), 2 if len(shown) <= 4 else 3 if len(shown) <= 9 else 4)
    lines = math.ceil(len(shown) / columns)
    caption = (
        "Share of test images that the model still classifies correctly after every attack of the study, "
        "against epsilon, the size of the allowed change; epsilon 0 stands for clean images. "
        "Bands are 95 % intervals" + _seeds_note(records) + "." + _verdict_note(records) + _left(facets)
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, facet in zip(axes.flat, shown, strict=False):
            _draw_curves(ax, facet, WORST_CASE, title=wrapped(facet.title, 120 // columns, 2))
            ax.set_xlabel("epsilon" + _scale_note(facet))
        _finish(figure, axes, len(shown))

    height = (3.1 if columns < 4 else 2.4) * lines + 0.5
    return [Drawing("curves", "Robust accuracy in the worst case", caption, paint, _width(columns), height)]


def _width(columns: int) -> float:
    """The width of a figure in inches: the whole page, or less for a single panel."""
    return 10.5 if columns > 1 else 6.5


def _verdict_note(records: Sequence[Record]) -> str:
    verdicts = {record["verdict"] for record in records if record["attack"] == WORST_CASE}
    kinds = " or ".join(verdict for verdict in MARKS if verdict in verdicts)
    note = f" An open mark is a {kinds} number." if kinds else ""
    return note + (" Numbers that are withheld are not drawn." if WITHHELD in verdicts else "")


def _left(facets: Sequence[object]) -> str:
    return (
        f" {len(facets) - MOST_PANELS} more panels do not fit; the tables hold their numbers."
        if len(facets) > MOST_PANELS
        else ""
    )


def _attack_curves(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    places: dict[str, list[_Panel]] = {}
    for panel in atlas.panels(records):
        places.setdefault(panel.place, []).append(panel)
    names = file_names("attacks", places)
    figures = [_attack_figure(atlas, names[place], place, panels) for place, panels in places.items()]
    return [figure for figure in figures if figure is not None]


def _attack_figure(atlas: _Atlas, name: str, place: str, panels: Sequence[_Panel]) -> Drawing | None:
    """The curves of each attack; None if there is only one attack, whose curves show the worst case."""
    rows = [record for panel in panels for record in (*panel.rows, *panel.reference)]
    attacks = list(dict.fromkeys(record["attack"] for record in rows if record["attack"] != WORST_CASE))
    if len(attacks) < 2 and any(record["attack"] == WORST_CASE for record in rows):
        return None
    if (
        len(panels) > 4
        and len(attacks) <= MANY
        and max(len(atlas.facet(panel).lines) for panel in panels) <= 2
    ):
        return _model_figure(atlas, name, place, panels, attacks)
    columns = min(len(attacks), 4)
    blocks = [attacks[i : i + columns] for i in range(0, len(attacks), columns)]
    names = [panel.decoder or panel.place for panel in panels]
    facets = _legible([atlas.facet(panel) for panel in panels])
    every = [(label, facet, block) for label, facet in zip(names, facets, strict=True) for block in blocks]
    every = [each for each in every if {row["attack"] for row in each[1].rows} & set(each[2])]
    cells = every[: max(1, MOST_PANELS // columns)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(cells), columns, squeeze=False, sharey=True, sharex=False)
        for line, (label, facet, block) in zip(axes, cells, strict=True):
            for ax, attack in zip(line, block, strict=False):
                if attack not in {row["attack"] for row in facet.rows}:
                    ax.set_visible(False)  # it applies to none of these models
                title = wrapped(attack, 110 // columns, 2)
                _draw_curves(ax, facet, attack, title=title, band=False, small=True)
            for ax in line[len(block) :]:
                ax.set_visible(False)
            line[0].set_ylabel(wrapped(label, 24) + "\naccuracy [%]")
        for ax in axes[-1]:
            ax.set_xlabel("epsilon" + _scale_note(cells[-1][1]))
        _finish(figure, axes, axes.size, label=False)

    caption = (
        "Accuracy under each attack alone, one row of panels per decoder. An attack that does not break an "
        "image may leave it unchanged."
    )
    if any(facet.coloured for facet in facets):
        caption += f" The {MANY} lines that are most robust on average are coloured."
    if len(every) > len(cells):
        caption += f" {len(every) - len(cells)} more rows do not fit; the tables hold their numbers."
    height = 2.1 * len(cells) + 0.6
    return Drawing(name, f"Each attack alone: {place}", caption, paint, 10.5, height)


def _model_figure(
    atlas: _Atlas, name: str, place: str, panels: Sequence[_Panel], attacks: Sequence[str]
) -> Drawing:
    """One panel per model with the attacks as lines, for many decoders with few encoders each."""
    styles = {attack: _style(i) for i, attack in enumerate(attacks)}
    facets = []
    for panel in panels:
        for code, rows in atlas.facet(
            _Panel(panel.place, panel.decoder, panel.rows or panel.reference, ())
        ).lines.items():
            lines = {a: [row for row in rows if row["attack"] == a] for a in attacks}
            title = " · ".join(part for part in (panel.decoder, code) if part)
            facets.append(_Facet(title, {a: found for a, found in lines.items() if found}, styles))
    shown = facets[:MOST_PANELS]
    columns = 3 if len(shown) <= 9 else 4
    lines_ = math.ceil(len(shown) / columns)

    def paint(figure: Figure) -> None:
        axes = figure.subplots(lines_, columns, squeeze=False, sharey=True)
        for ax, facet in zip(axes.flat, shown, strict=False):
            _draw_curves(ax, facet, None, title=wrapped(facet.title, 110 // columns, 2), band=False)
            ax.set_xlabel("epsilon" + _scale_note(facet))
        _finish(figure, axes, len(shown))

    caption = (
        "Accuracy under each attack alone, one panel per model. An attack that does not break an image may "
        "leave it unchanged." + _left(facets)
    )
    return Drawing(name, f"Each attack alone: {place}", caption, paint, 10.5, 2.5 * lines_ + 0.6)


def _draw_curves(
    ax: Axes, facet: _Facet, attack: str | None, *, title: str, band: bool = True, small: bool = False
) -> None:
    ticks = _ticks(facet)
    for name, rows, style in facet.shown():
        points = _points(rows, attack or name)
        if len(points) > 1:
            x = [ticks[epsilon] for epsilon in points]
            accuracy, low, high = (
                100 * np.array([getattr(point, end) for point in points.values()])
                for end in ("accuracy", "low", "high")
            )
            pale = style["color"] == PALE
            size = {"markersize": 2.5 if small else 4, "linewidth": 0.7 if pale else 1.1 if small else 1.6}
            ax.plot(x, accuracy, label=name, **{**style, **size})
            open_ = [i for i, point in enumerate(points.values()) if point.open_]
            if open_ and not pale and not small:
                marks = {**style, **size, "linestyle": "none", "markerfacecolor": "white"}
                ax.plot([x[i] for i in open_], accuracy[open_], zorder=3, **marks)
            if band and not pale:
                ax.fill_between(x, low, high, color=style["color"], alpha=0.1, linewidth=0)
    if not ax.lines:
        withheld = any(row["attack"] == attack and not _shown(row) for row in facet.rows)
        words = "withheld" if withheld else "not finished"
        ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", color=GREY)
    ax.set_title(title)
    ax.set_ylim(-3, 103)
    ax.set_yticks(range(0, 101, 25))
    crowded = small or len(ticks) > 5
    ax.set_xticks(list(ticks.values()), list(map(epsilon_text, ticks)), rotation=45 if crowded else 0)


@dataclass(frozen=True)
class _Point:
    """The mean accuracy over models, and the lowest and the highest end of their intervals."""

    accuracy: float
    low: float
    high: float
    open_: bool


def _points(rows: Sequence[Record], attack: str) -> dict[float, _Point]:
    """A point for every epsilon, of which 0 stands for no attack; withheld numbers are left out."""
    found: dict[float, list[tuple[float, float, float]]] = {0.0: []}
    open_: set[float] = set()
    for model in {row["model"]: row for row in rows}.values():
        found[0.0].append((model["clean_accuracy"], model["clean_ci_low"], model["clean_ci_high"]))
    for row in rows:
        if row["attack"] == attack and _shown(row):
            values = (row["robust_accuracy"], row["ci_low"], row["ci_high"])
            found.setdefault(row["epsilon"], []).append(values)
            open_ |= {row["epsilon"]} if row["verdict"] in MARKS else set()
    points = {}
    for epsilon, triples in sorted(found.items()):
        whole = [_numbers(triple) for triple in triples if _numbers(triple)]
        if whole:
            accuracy, low, high = zip(*whole, strict=True)
            mean = sum(accuracy) / len(accuracy)
            points[epsilon] = _Point(mean, min(low), max(high), epsilon in open_)
    return points


def _numbers(triple: Iterable[float | None]) -> tuple[float, ...]:
    """The three numbers, or an empty tuple if one of them is missing or not finite."""
    numbers = tuple(value for value in triple if value is not None and math.isfinite(value))
    return numbers if len(numbers) == 3 else ()


def _epsilons(facet: _Facet) -> list[float]:
    return sorted({0.0, *(record["epsilon"] for record in facet.rows)})


def _to_scale(epsilons: Sequence[float]) -> bool:
    """Whether the labels of these epsilons do not overlap on an axis to scale."""
    gaps = np.diff(epsilons)
    return bool(len(gaps) == 0 or gaps.min() >= 0.08 * (epsilons[-1] - epsilons[0]))


def _ticks(facet: _Facet) -> dict[float, float]:
    """The position of each epsilon on the axis."""
    epsilons = _epsilons(facet)
    return {epsilon: epsilon if _to_scale(epsilons) else float(i) for i, epsilon in enumerate(epsilons)}


def _scale_note(facet: _Facet) -> str:
    return "" if _to_scale(_epsilons(facet)) else " (not to scale)"


def _seeds_note(records: Sequence[Record]) -> str:
    seeds = len({record["seed"] for record in records})
    words = f"; lines show the mean over {seeds} seeds, and bands reach from the lowest end to the highest"
    return words * (seeds > 1)


def _finish(figure: Figure, axes: Array, used: int, label: bool = True) -> None:
    for ax in axes.flat[used:]:
        ax.set_visible(False)
    if label:
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy [%]")
    legend(figure, axes.flat)


# --- timing probes ---


def probe_drawing(records: Sequence[ProbeRecord], names: Sequence[str]) -> Drawing:
    """The accuracy of every model without a probe and under every timing probe.

    Args:
        records: the records of timing probes, at least one.
        names: the name of each record's model.
    """
    models = dict(zip((record["model"] for record in records), names, strict=True))
    labels = [(model, wrapped(models[model], 44, 2)) for model in list(models)[:MOST_MODELS]]
    probes = list(dict.fromkeys(record["probe"] for record in records))
    found = {(record["model"], record["probe"]): record for record in records}

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        ranks = range(len(labels))
        clean = {record["model"]: 100 * record["clean_accuracy"] for record in records}
        ax.plot([clean[m] for m, _ in labels], ranks, "|", color=GREY, markersize=13, label="without a probe")
        for i, probe in enumerate(probes):
            here = [(rank, found[m, probe]) for rank, (m, _) in enumerate(labels) if (m, probe) in found]
            accuracy = np.array([100 * row["accuracy"] for _, row in here])
            ends = [[100 * row[end] for _, row in here] for end in ("ci_low", "ci_high")]
            ax.errorbar(
                accuracy,
                [rank + (i - (len(probes) - 1) / 2) * 0.6 / len(probes) for rank, _ in here],
                xerr=np.abs(np.array(ends) - accuracy),
                fmt=MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                markersize=4,
                elinewidth=0.8,
                label=probe,
            )
        ax.set_yticks(list(ranks), [label for _, label in labels])
        ax.invert_yaxis()
        ax.set_xlim(-3, 103)
        ax.set_xlabel("accuracy [%]")
        legend(figure, [ax])

    left = len(models) - len(labels)
    caption = (
        "Share of clean test images that the model classifies correctly when a probe changes the spikes "
        "between encoder and network. A model that loses no accuracy under a shuffle that keeps spike "
        "counts does not use spike timing. Bars are 95 % intervals"
        + (f"; {left} more models are in the table only." if left else ".")
    )
    return Drawing("probes", "Accuracy under timing probes", caption, paint, 9.0, 1.4 + 0.45 * len(labels))


MOST_MODELS = 40
"""Largest number of models in the figure of timing probes."""


# --- natural corruptions ---


def corruption_drawing(records: Sequence[CorruptionRecord], names: Sequence[str]) -> Drawing:
    """The accuracy of every model under every corruption, the mean over severities, as a map of colours.

    Args:
        records: the records of natural corruptions, at least one.
        names: the name of each record's model.
    """
    models = dict(zip((record["model"] for record in records), names, strict=True))
    shown = list(models)[:MOST_MODELS]
    corruptions = list(dict.fromkeys(record["corruption"] for record in records))
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        found.setdefault((record["model"], record["corruption"]), []).append(100 * record["accuracy"])
    clean = {record["model"]: 100 * record["clean_accuracy"] for record in records}
    values = np.array(
        [[clean[m], *(np.mean(found.get((m, each), [np.nan])) for each in corruptions)] for m in shown]
    )

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        _percentages(ax, values)
        ax.set_yticks(range(len(shown)), [wrapped(models[m], 44, 2) for m in shown])
        ax.set_xticks(range(len(corruptions) + 1), ["clean", *corruptions], rotation=60, ha="right")

    left = len(models) - len(shown)
    caption = (
        "Accuracy in % on clean examples and under every natural corruption, the mean over its severities"
        + (f"; {left} more models are in the table only." if left else ".")
    )
    return Drawing(
        "corruptions", "Accuracy under natural corruptions", caption, paint, 9.0, 2.2 + 0.4 * len(shown)
    )


def _percentages(ax: Axes, values: Array) -> None:
    """A map of percentages, each written into its field; a field without one has a dash."""
    ax.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            ink = "white" if value < 60 else "black"
            text = MISSING if np.isnan(value) else f"{value:.0f}"
            ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)


# --- transfers between all models ---


def transfer_drawing(grids: Sequence[TransferGrid]) -> Drawing:
    """The accuracy of every model on images made on every model, as maps of colours, one per grid.

    Args:
        grids: of one study, at least one.
    """
    shown = grids[:MOST_PANELS]
    widest = max(len(grid["models"]) for grid in shown)
    names = max(len(name) for grid in shown for name in grid["models"])

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(shown), squeeze=False)
        for ax, grid in zip(axes[:, 0], shown, strict=True):
            rows = [[np.nan if v is None else 100 * v for v in row] for row in grid["accuracy"]]
            _percentages(ax, np.array(rows))
            labels = [wrapped(name, 44, 2) for name in grid["models"]]
            ax.set_yticks(range(len(labels)), labels)
            ax.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
            ax.set_ylabel("made on")
            ax.set_xlabel("judged on")
            ax.set_title(
                f"{grid['attack']}, {grid['threat']} {epsilon_text(grid['epsilon'])}, seed {grid['seed']}"
            )

    left = len(grids) - len(shown)
    caption = (
        "Accuracy in % of the model below on images made on the model at the left; on the diagonal the "
        "attack sees the model itself" + (f"; {left} more grids are in the tables only." if left else ".")
    )
    height = len(shown) * (1.2 + 0.4 * widest + 0.06 * min(names, 44))
    return Drawing("transfers", "Images made on other models", caption, paint, 7.0, height)


# --- accuracy against the time of the decision ---


def _exit_curves(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    """The accuracy of a decision forced after each time step, if some model may decide before the last."""
    early = [row for row in records if row["mean_exit"] is not None and row["mean_exit"] < row["steps"]]
    timed = [row for row in records if len(row["accuracy_by_step"]) > 1 and not _is_ann(row)]
    facets = atlas.facets(timed)
    if not early or not facets:
        return []
    shown = facets[:MOST_PANELS]
    columns = min(len(shown), 3 if len(shown) <= 9 else 4)
    lines = math.ceil(len(shown) / columns)

    def paint(figure: Figure) -> None:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, facet in zip(axes.flat, shown, strict=False):
            _draw_exits(ax, facet)
            ax.set_title(wrapped(facet.title, 110 // columns, 2))
        _finish(figure, axes, len(shown))

    caption = (
        "Share of clean test images that the model classifies correctly if a decision is forced after each "
        "time step; decisions taken earlier are kept. The large mark shows the mean time of the decision"
        + _seeds_note(records).replace(", and bands reach from the lowest end to the highest", "")
        + "."
        + _left(facets)
    )
    height = (3.1 if columns < 4 else 2.4) * lines + 0.5
    return [Drawing("exits", "Accuracy against exit time", caption, paint, _width(columns), height)]


def _draw_exits(ax: Axes, facet: _Facet) -> None:
    for name, found, style in facet.shown():
        groups: dict[int, dict[str, Record]] = {}
        for row in found:
            groups.setdefault(len(row["accuracy_by_step"]), {})[row["model"]] = row
        for steps, models in groups.items():
            rows, size = list(models.values()), {"markersize": 2.5, "linewidth": 1.4}
            accuracy = 100 * np.mean([row["accuracy_by_step"] for row in rows], 0)
            ax.plot(range(1, steps + 1), accuracy, label=name, **{**style, **size})
            exits = [row["mean_exit"] for row in rows if row["mean_exit"] is not None]
            if exits and style["marker"]:
                clean = 100 * np.mean([row["clean_accuracy"] for row in rows])
                ax.plot([np.mean(exits)], [clean], **{**style, "markersize": 7, "linestyle": "none"})
    ax.set_ylim(-3, 103)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("time steps")


# --- encoder x decoder ---


def _heat_maps(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    places: dict[str, list[Record]] = {}
    for record in records:
        places.setdefault(atlas.place(record), []).append(record)
    names = file_names("heatmap", places)
    return [_heat_map(atlas, names[place], place, rows) for place, rows in places.items()]


@dataclass(frozen=True)
class _Map:
    """Numbers and the text of each field, `[rows, columns]`."""

    title: str
    values: Array
    texts: list[list[str]]


def _heat_map(atlas: _Atlas, name: str, place: str, records: Sequence[Record]) -> Drawing:
    epsilon = telling(records)
    codes = list(dict.fromkeys(map(atlas.code, records)))
    decoders = list(dict.fromkeys(map(atlas.decoder, records)))
    turned = len(decoders) > len(codes) and max(map(len, decoders)) > 12  # long names go on the long side
    down, across = (decoders, codes) if turned else (codes, decoders)
    names = (atlas.decoder, atlas.code) if turned else (atlas.code, atlas.decoder)
    models = list({record["model"]: record for record in records}.values())
    worst = [r for r in records if r["attack"] == WORST_CASE and r["epsilon"] == epsilon]
    maps = [_map("clean accuracy [%]", models, names, down, across, "clean_accuracy")]
    if worst:
        title = f"worst case, epsilon {epsilon_text(epsilon)} [%]"
        maps.append(_map(title, worst, names, down, across, ROBUST))
    cell = 10.5 / (len(maps) * len(across) + 2)
    left, below = (
        [wrapped(name, 34, 2) for name in down],
        [wrapped(n, max(8, int(11 * cell))) for n in across],
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
        for ax, each in zip(axes, maps, strict=True):
            _draw_map(ax, each)
            ax.set_xticks(range(len(across)), below, rotation=0 if cell > 0.6 else 90)
        axes[0].set_yticks(range(len(down)), left)

    caption = "Accuracy of each encoder with each decoder, as the mean over seeds where there are several"
    if worst:
        caption += "; the worst case is shown at the epsilon at which the models differ most"
    for verdict, words in (
        (DOUBTFUL, "a question mark marks doubtful numbers"),
        (PRELIMINARY, "a tilde marks preliminary numbers"),
    ):
        caption += f"; {words}" if any(record["verdict"] == verdict for record in worst) else ""
    width = min(10.5, 1.8 + len(maps) * max(2.4, 1.5 * len(across)))
    room = 0.16 * max(text.count("\n") for text in below) if cell > 0.6 else 1.2
    height = 1.0 + room + len(down) * (0.4 if not any(text.count("\n") for text in left) else 0.46)
    return Drawing(name, f"Encoder and decoder: {place}", f"{caption}.", paint, width, height)


def telling(records: Iterable[Record]) -> float:
    """The epsilon at which worst cases differ most between models; on equality, the one nearest the middle.

    Args:
        records: the records under one threat; if none of them is a worst case, the result is 0.
    """
    worst: dict[float, list[float]] = {}
    for record in records:
        if record["attack"] == WORST_CASE and _shown(record) and _numbers([record["robust_accuracy"]] * 3):
            worst.setdefault(record["epsilon"], []).append(record["robust_accuracy"])
    centre = middle(worst)
    return max(worst, key=lambda e: (max(worst[e]) - min(worst[e]), -abs(e - centre)), default=0.0)


def _map(
    title: str,
    rows: Iterable[Record],
    names: tuple[Callable[[Record], str], Callable[[Record], str]],
    down: Sequence[str],
    across: Sequence[str],
    field: str,
) -> _Map:
    """Means in per cent; NaN where there is no model or every number is withheld."""
    found: dict[tuple[str, str], list[float]] = {}
    verdicts: dict[tuple[str, str], set[str | None]] = {}
    for row in rows:
        place = (names[0](row), names[1](row))
        value: float | None = row[field]  # type: ignore[literal-required]
        verdict = row["verdict"] if field == ROBUST else None
        verdicts.setdefault(place, set()).add(verdict)
        if value is not None and verdict != WITHHELD:
            found.setdefault(place, []).append(100 * value)
    values = np.full((len(down), len(across)), np.nan)
    texts = [[number(None)] * len(across) for _ in down]
    for i, first in enumerate(down):
        for j, second in enumerate(across):
            seen = verdicts.get((first, second), set())
            if (first, second) in found:
                values[i, j] = np.mean(found[first, second])
                texts[i][j] = number(float(values[i, j])) + _mark(seen)
            elif WITHHELD in seen:
                texts[i][j] = WITHHELD
    return _Map(title, values, texts)


def _mark(verdicts: set[str | None]) -> str:
    """The mark of a mean over numbers with these verdicts."""
    if verdicts & {DOUBTFUL, WITHHELD}:
        return MARKS[DOUBTFUL]
    return MARKS[PRELIMINARY] if PRELIMINARY in verdicts else ""


def _draw_map(ax: Axes, drawn: _Map) -> None:
    shown = np.ma.masked_invalid(drawn.values)
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=115, aspect="auto", interpolation="none")
    for (i, j), value in np.ndenumerate(drawn.values):
        dark = bool(value > 65)
        ax.text(j, i, drawn.texts[i][j], ha="center", va="center", color="white" if dark else "#222222")
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title(drawn.title)
