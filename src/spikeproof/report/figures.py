"""Figures: curves, heat maps and spike rasters, drawn without global state and always to the same bytes."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spikeproof.experiments.record import ProbeRecord, Record
from spikeproof.experiments.results import WORST_CASE
from spikeproof.report.exhibits import ANALOGUE, Exhibit, middle
from spikeproof.report.tables import epsilon_text, number, varying

__all__ = ["Drawing", "drawings", "exhibit_drawing", "file_names", "inline", "probe_drawing", "telling"]

Array = NDArray[Any]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, told apart by people with any colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
GREY = "#555555"
STYLE: Any = {
    "axes.edgecolor": "#8a8a8a",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "spikeproof",
    "text.parse_math": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn when it is asked for.

    Args:
        name: of its files, without ending; also the prefix of its ids in a page.
        title: what it shows.
        caption: how to read it.
        paint: draws on an empty figure.
        width, height: in inches.
        dpi: of images that have to be resampled.
    """

    name: str
    title: str
    caption: str
    paint: Callable[[Figure], None] = dataclasses.field(repr=False)
    width: float
    height: float
    dpi: int = 150

    def files(self) -> dict[str, bytes]:
        """The figure as `svg`, whose text stays text, and as `pdf`."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(self.width, self.height), layout="constrained", facecolor="white")
            self.paint(figure)
            svg = _saved(figure, "svg", self.dpi, {"Date": None, "Creator": "spikeproof"})
            figure.set_layout_engine("none")  # it stands where the first file put it
            pdf = _saved(figure, "pdf", self.dpi, {"CreationDate": None, "Creator": "spikeproof"})
        return {"svg": svg, "pdf": pdf}


def _saved(figure: Figure, kind: str, dpi: int, metadata: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def inline(svg: bytes, name: str) -> str:
    """An SVG file as part of a page: ids made unique by a prefix, nothing that names another place.

    Args:
        svg: the file.
        name: the prefix.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)


def drawings(records: Sequence[Record]) -> list[Drawing]:
    """Curves in the worst case and per attack, then heat maps; as many as the records can fill.

    Args:
        records: of one study.
    """
    attacked = [record for record in records if record["attack"] != "none"]
    atlas = _Atlas(records)
    return [
        *_curves(atlas, attacked),
        *_attack_curves(atlas, attacked),
        *_heat_maps(atlas, records),
        *_exit_curves(atlas, records),
    ]


@dataclass(frozen=True)
class _Panel:
    """Models that differ in their code only, under one threat; ReLU networks stand beside them."""

    place: str
    decoder: str
    rows: tuple[Record, ...]
    reference: tuple[Record, ...]

    @property
    def title(self) -> str:
        return " · ".join(part for part in (self.place, self.decoder) if part)


class _Atlas:
    """Names and colours of the codes of a study, the same in every figure."""

    def __init__(self, records: Sequence[Record]) -> None:
        spiking = [record for record in records if not _is_ann(record)]
        twins = [record for record in records if _is_ann(record)]
        self.twin_axes = varying(twins, ("encoder",))
        axes = varying(records, ("dataset", "network", "threat"))
        self.place_axes = [
            axis for axis in ("dataset", "network", "threat") if axis in axes or axis == "network"
        ]
        self.part_axes = varying(spiking or records, ("neuron", "surrogate", "rule"))
        codes = dict.fromkeys(record["encoder"] for record in spiking)
        self.styles: dict[str, dict[str, Any]] = {}
        for i, code in enumerate(codes):
            n = len(COLOURS)
            self.styles[code] = {
                "color": COLOURS[i % n],
                "marker": MARKERS[i % n],
                "linestyle": DASHES[i // n % len(DASHES)],
            }
        for i, code in enumerate(dict.fromkeys(map(self.code, twins))):
            self.styles[code] = {
                "color": GREY,
                "marker": MARKERS[i % len(MARKERS)],
                "linestyle": (0, (4, 2)),
                "markerfacecolor": "white",
            }

    def code(self, record: Record) -> str:
        if not _is_ann(record):
            return record["encoder"]
        unit = "ReLU" if record["neuron"] == "relu" else record["neuron"]
        return f"{unit} network" + (f", {record['encoder']}" if self.twin_axes else "")

    def place(self, record: Record) -> str:
        return " · ".join(str(record[axis]) for axis in self.place_axes)

    def decoder(self, record: Record) -> str:
        names = [record["decoder"], *(record[axis] for axis in self.part_axes)]  # type: ignore[literal-required]
        return " · ".join(map(str, names))

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


def _is_ann(record: Record) -> bool:
    return record["neuron"] in ANALOGUE


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "all"


def file_names(prefix: str, places: Iterable[str]) -> dict[str, str]:
    """A file name of its own for every place."""
    names: dict[str, str] = {}
    for place in places:
        name = f"{prefix}-{_slug(place)}"
        while name in names.values():
            name += "-2"
        names[place] = name
    return names


# --- accuracy against epsilon ---


def _curves(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    panels = [panel for panel in atlas.panels(records) if _has(panel, WORST_CASE)]
    if not panels:
        return []
    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    lines = math.ceil(len(panels) / columns)
    caption = (
        "Share of test images still answered correctly when every attack of the study was tried on each, "
        "against the size epsilon of the allowed change; at 0 the images are as they are. "
        "Bands are 95 % intervals" + _seeds_note(records) + "."
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, panel in zip(axes.flat, panels, strict=False):
            _draw_curves(ax, atlas, panel, WORST_CASE, title=panel.title)
            ax.set_xlabel("epsilon" + _scale_note(panel))
        _finish(figure, axes, len(panels))

    height = 3.1 * lines + 0.5
    return [Drawing("curves", "Robust accuracy in the worst case", caption, paint, 10.5, height)]


def _attack_curves(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    places: dict[str, list[_Panel]] = {}
    for panel in atlas.panels(records):
        places.setdefault(panel.place, []).append(panel)
    names = file_names("attacks", places)
    return [_attack_figure(atlas, names[place], place, panels) for place, panels in places.items()]


def _attack_figure(atlas: _Atlas, name: str, place: str, panels: Sequence[_Panel]) -> Drawing:
    rows = [record for panel in panels for record in (*panel.rows, *panel.reference)]
    attacks = list(dict.fromkeys(record["attack"] for record in rows if record["attack"] != WORST_CASE))
    columns = min(len(attacks), 4)
    blocks = [attacks[i : i + columns] for i in range(0, len(attacks), columns)]
    cells = [(panel, block) for panel in panels for block in blocks]

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(cells), columns, squeeze=False, sharey=True, sharex=False)
        for line, (panel, block) in zip(axes, cells, strict=True):
            for ax, attack in zip(line, block, strict=False):
                _draw_curves(ax, atlas, panel, attack, title=attack, band=False, small=True)
            for ax in line[len(block) :]:
                ax.set_visible(False)
            line[0].set_ylabel((panel.decoder or panel.place) + "\naccuracy [%]")
        for ax in axes[-1]:
            ax.set_xlabel("epsilon" + _scale_note(panels[-1]))
        _finish(figure, axes, axes.size, label=False)

    caption = (
        "Each attack alone, one row of panels per decoder. Every attack may also leave an image as it is."
    )
    height = 2.1 * len(cells) + 0.6
    return Drawing(name, f"Each attack alone: {place}", caption, paint, 10.5, height)


def _has(panel: _Panel, attack: str) -> bool:
    return any(record["attack"] == attack for record in (*panel.rows, *panel.reference))


def _draw_curves(
    ax: Axes, atlas: _Atlas, panel: _Panel, attack: str, *, title: str, band: bool = True, small: bool = False
) -> None:
    ticks = _ticks(panel)
    groups: dict[str, list[Record]] = {}
    for record in (*panel.rows, *panel.reference):
        groups.setdefault(atlas.code(record), []).append(record)
    for code, rows in groups.items():
        points = _points(rows, attack)
        if len(points) > 1:
            x = [ticks[epsilon] for epsilon in points]
            accuracy, low, high = (100 * np.array(column) for column in zip(*points.values(), strict=True))
            style = {
                **atlas.styles[code],
                "markersize": 2.5 if small else 4,
                "linewidth": 1.1 if small else 1.6,
            }
            ax.plot(x, accuracy, label=code, **style)
            if band:
                ax.fill_between(x, low, high, color=style["color"], alpha=0.1, linewidth=0)
    if not ax.lines:
        ax.text(0.5, 0.5, "not finished", transform=ax.transAxes, ha="center", color=GREY)
    ax.set_title(title)
    ax.set_ylim(-3, 103)
    ax.set_yticks(range(0, 101, 25))
    ax.set_xticks(list(ticks.values()), list(map(epsilon_text, ticks)), rotation=45 if small else 0)


def _points(rows: Sequence[Record], attack: str) -> dict[float, tuple[float, float, float]]:
    """Epsilon -> mean accuracy over models, and the ends of the widest interval; 0 is without attack."""
    found: dict[float, list[tuple[float, float, float]]] = {0.0: []}
    for model in {row["model"]: row for row in rows}.values():
        found[0.0].append((model["clean_accuracy"], model["clean_ci_low"], model["clean_ci_high"]))
    for row in rows:
        if row["attack"] == attack:
            values = (row["robust_accuracy"], row["ci_low"], row["ci_high"])
            found.setdefault(row["epsilon"], []).append(values)
    points = {}
    for epsilon, triples in sorted(found.items()):
        whole = [_numbers(triple) for triple in triples if _numbers(triple)]
        if whole:
            accuracy, low, high = zip(*whole, strict=True)
            points[epsilon] = (sum(accuracy) / len(accuracy), min(low), max(high))
    return points


def _numbers(triple: Iterable[float | None]) -> tuple[float, ...]:
    """Three numbers, or nothing when one of them is missing or not finite."""
    numbers = tuple(value for value in triple if value is not None and math.isfinite(value))
    return numbers if len(numbers) == 3 else ()


def _epsilons(panel: _Panel) -> list[float]:
    return sorted({0.0, *(record["epsilon"] for record in (*panel.rows, *panel.reference))})


def _to_scale(epsilons: Sequence[float]) -> bool:
    """Whether labels at their true places would not overlap."""
    gaps = np.diff(epsilons)
    return bool(len(gaps) == 0 or gaps.min() >= 0.08 * (epsilons[-1] - epsilons[0]))


def _ticks(panel: _Panel) -> dict[float, float]:
    """Where each epsilon stands on the axis."""
    epsilons = _epsilons(panel)
    return {epsilon: epsilon if _to_scale(epsilons) else float(i) for i, epsilon in enumerate(epsilons)}


def _scale_note(panel: _Panel) -> str:
    return "" if _to_scale(_epsilons(panel)) else " (not to scale)"


def _seeds_note(records: Sequence[Record]) -> str:
    seeds = len({record["seed"] for record in records})
    return f", lines the mean over {seeds} seeds and bands from the lowest end to the highest" * (seeds > 1)


def _finish(figure: Figure, axes: Array, used: int, label: bool = True) -> None:
    for ax in axes.flat[used:]:
        ax.set_visible(False)
    if label:
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy [%]")
    handles: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 7)
        )


# --- probes of timing ---


def probe_drawing(records: Sequence[ProbeRecord], names: Sequence[str]) -> Drawing:
    """Accuracy of every model as it is and under every probe.

    Args:
        records: at least one.
        names: what each record's model is called.
    """
    models = dict(zip((record["model"] for record in records), names, strict=True))
    labels = [(model, models[model]) for model in list(models)[:MOST_MODELS]]
    probes = list(dict.fromkeys(record["probe"] for record in records))
    found = {(record["model"], record["probe"]): record for record in records}

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        ranks = range(len(labels))
        clean = {record["model"]: 100 * record["clean_accuracy"] for record in records}
        ax.plot([clean[m] for m, _ in labels], ranks, "|", color=GREY, markersize=13, label="as they are")
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
        handles, texts = ax.get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=min(len(texts), 6))

    left = len(models) - len(labels)
    caption = (
        "Share of unchanged test images answered correctly when a probe changes the spikes between code and "
        "network. A model that loses nothing by a shuffle that keeps counts does not use spike timing. "
        "Bars are 95 % intervals" + (f"; {left} more models stand in the table only." if left else ".")
    )
    return Drawing("probes", "Accuracy under probes of timing", caption, paint, 9.0, 1.4 + 0.45 * len(labels))


MOST_MODELS = 40
"""Models in the figure of probes."""


# --- accuracy against the time of the decision ---


def _exit_curves(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    """Accuracy if time were up after each step, where any model may decide before the last one."""
    early = [row for row in records if row["mean_exit"] is not None and row["mean_exit"] < row["steps"]]
    panels = [
        panel
        for panel in atlas.panels([row for row in records if len(row["accuracy_by_step"]) > 1])
        if panel.rows
    ]
    if not early or not panels:
        return []
    columns = min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)

    def paint(figure: Figure) -> None:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, panel in zip(axes.flat, panels, strict=False):
            _draw_exits(ax, atlas, panel)
        _finish(figure, axes, len(panels))

    caption = (
        "Share of unchanged test images answered correctly if time were up after each step; decisions taken "
        "before stay as they are. The large mark stands at the mean time of the decision"
        + _seeds_note(records).replace(" and bands from the lowest end to the highest", "")
        + "."
    )
    return [Drawing("exits", "Accuracy over exit time", caption, paint, 10.5, 3.1 * lines + 0.5)]


def _draw_exits(ax: Axes, atlas: _Atlas, panel: _Panel) -> None:
    groups: dict[tuple[str, int], dict[str, Record]] = {}
    for row in panel.rows:
        key = (atlas.code(row), len(row["accuracy_by_step"]))
        groups.setdefault(key, {})[row["model"]] = row
    for (code, steps), models in groups.items():
        rows = list(models.values())
        style = {**atlas.styles[code], "markersize": 2.5, "linewidth": 1.4}
        accuracy = 100 * np.mean([row["accuracy_by_step"] for row in rows], 0)
        ax.plot(range(1, steps + 1), accuracy, label=code, **style)
        exits = [row["mean_exit"] for row in rows if row["mean_exit"] is not None]
        if exits:
            clean = 100 * np.mean([row["clean_accuracy"] for row in rows])
            ax.plot([np.mean(exits)], [clean], **{**style, "markersize": 7, "linestyle": "none"})
    ax.set_title(panel.title)
    ax.set_ylim(-3, 103)
    ax.set_xlabel("time steps")


# --- code x decoder ---


def _heat_maps(atlas: _Atlas, records: Sequence[Record]) -> list[Drawing]:
    places: dict[str, list[Record]] = {}
    for record in records:
        places.setdefault(atlas.place(record), []).append(record)
    names = file_names("heatmap", places)
    return [_heat_map(atlas, names[place], place, rows) for place, rows in places.items()]


def _heat_map(atlas: _Atlas, name: str, place: str, records: Sequence[Record]) -> Drawing:
    epsilon = telling(records)
    codes = list(dict.fromkeys(map(atlas.code, records)))
    decoders = list(dict.fromkeys(map(atlas.decoder, records)))
    models = list({record["model"]: record for record in records}.values())
    clean = _grid(atlas, models, codes, decoders, "clean_accuracy")
    worst = [r for r in records if r["attack"] == WORST_CASE and r["epsilon"] == epsilon]
    maps = [("clean accuracy [%]", clean)]
    if worst:
        title = f"worst case, epsilon {epsilon_text(epsilon)} [%]"
        maps.append((title, _grid(atlas, worst, codes, decoders, "robust_accuracy")))

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
        for ax, (title, grid) in zip(axes, maps, strict=True):
            _draw_map(ax, title, grid, codes, decoders)

    caption = "Accuracy of each code with each decoder, the mean over seeds where there are several"
    if worst:
        caption += "; the worst case is shown at the epsilon at which the models differ most"
    width = min(10.5, 1.8 + len(maps) * max(2.4, 1.5 * len(decoders)))
    height = 1.0 + 0.4 * len(codes)
    return Drawing(name, f"Code and decoder: {place}", f"{caption}.", paint, width, height)


def telling(records: Iterable[Record]) -> float:
    """The epsilon at which worst cases differ most between models; in doubt the one nearest to the middle.

    Args:
        records: under one threat; 0 is the answer where none is a worst case.
    """
    worst: dict[float, list[float]] = {}
    for record in records:
        if record["attack"] == WORST_CASE and _numbers([record["robust_accuracy"]] * 3):
            worst.setdefault(record["epsilon"], []).append(record["robust_accuracy"])
    centre = middle(worst)
    return max(worst, key=lambda e: (max(worst[e]) - min(worst[e]), -abs(e - centre)), default=0.0)


def _grid(
    atlas: _Atlas, rows: Iterable[Record], codes: Sequence[str], decoders: Sequence[str], field: str
) -> Array:
    """Means in per cent, `[codes, decoders]`; nan where there is no model."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        value: float | None = row[field]  # type: ignore[literal-required]
        if value is not None:
            found.setdefault((atlas.code(row), atlas.decoder(row)), []).append(100 * value)
    return np.array(
        [
            [np.mean(found[code, decoder]) if (code, decoder) in found else np.nan for decoder in decoders]
            for code in codes
        ]
    )


def _draw_map(ax: Axes, title: str, grid: Array, codes: Sequence[str], decoders: Sequence[str]) -> None:
    ax.imshow(np.ma.masked_invalid(grid), cmap="Blues", vmin=0, vmax=115, aspect="auto", interpolation="none")
    for (i, j), value in np.ndenumerate(grid):
        dark = bool(value > 65)
        ax.text(j, i, number(value), ha="center", va="center", color="white" if dark else "#222222")
    ax.set_xticks(range(len(decoders)), list(decoders))
    ax.set_yticks(range(len(codes)), list(codes))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title(title)


# --- what an attack does to an image and to its spikes ---

KEPT, NEW, GONE = "#1a1a1a", "#D55E00", "#9ecbe8"
SHARP_ROWS = 400
"""Rasters up to so many rows are stored pixel by pixel; taller ones are resampled for the eye."""


def exhibit_drawing(name: str, exhibit: Exhibit, dpi: int = 200) -> Drawing:
    """The image, its attacked version, their difference, and the input of the network for both.

    Args:
        name: of the file.
        exhibit: what to draw.
        dpi: of rasters with more rows than fit on a screen.
    """
    record = exhibit.record
    title = f"{record['encoder']}: test image {exhibit.example}, class {exhibit.label}"
    outcome = (
        "The attack succeeded" if exhibit.succeeded else "No example was found on which an attack succeeded"
    )
    caption = (
        f"{outcome}: the model ({record['network']}, {record['decoder']}, seed {record['seed']}) answers "
        f"{_answer(exhibit.before)} to the image and {_answer(exhibit.after)} to the one attacked by "
        f"{record['attack']} with {record['threat']} epsilon {epsilon_text(record['epsilon'])}. "
        + _input_words(exhibit)
    )
    height = 2.9 if exhibit.input[0].size <= SHARP_ROWS else 3.6
    return Drawing(name, title, caption, lambda figure: _draw_exhibit(figure, exhibit), 10.5, height, dpi)


def _answer(prediction: int | None) -> str:
    if prediction is None:
        return "something that was not stored"
    return "with a tie" if prediction < 0 else f"class {prediction}"


def _input_words(exhibit: Exhibit) -> str:
    if not exhibit.spiking:
        return "The input is analog: values, or spikes with weights."
    before, after = exhibit.input > 0, exhibit.attacked_input > 0
    kept, new, gone = (int(s.sum()) for s in (before & after, after & ~before, before & ~after))
    return (
        f"Input spikes: {kept + gone} before, {kept + new} after; {kept} stayed (black), "
        f"{new} are new (orange), {gone} are gone (pale blue)."
    )


def _draw_exhibit(figure: Figure, exhibit: Exhibit) -> None:
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.15))[0]
    axes = (*left.subplots(1, 3), *right.subplots(1, 2, sharey=True))
    difference = exhibit.attacked - exhibit.image
    factor = _factor(difference)
    shown = np.clip(0.5 + factor * difference, 0, 1)
    pictures = (
        ("image", exhibit.image, "gray"),
        ("attacked", exhibit.attacked, "gray"),
        (f"difference x {factor:g}", shown, "RdBu_r"),
    )
    for ax, (title, picture, cmap) in zip(axes, pictures, strict=False):
        ax.imshow(_picture(picture), cmap=cmap, vmin=0, vmax=1, interpolation="none")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(True)
        ax.set_title(title)
    _draw_inputs(figure, axes[3], axes[4], exhibit)


def _draw_inputs(figure: Figure, left: Axes, right: Axes, exhibit: Exhibit) -> None:
    before, after = _raster(exhibit.input), _raster(exhibit.attacked_input)
    how: dict[str, Any] = {
        "aspect": "auto",
        "interpolation": "none" if len(before) <= SHARP_ROWS else "nearest",
    }
    if exhibit.spiking:
        left.imshow(_coloured(before, before), **how)
        right.imshow(_coloured(before, after), **how)
    else:
        top = max(1.0, float(np.nanmax(before)), float(np.nanmax(after)))
        left.imshow(before, cmap="viridis", vmin=0, vmax=top, **how)
        drawn = right.imshow(after, cmap="viridis", vmin=0, vmax=top, **how)
        figure.colorbar(drawn, ax=right, shrink=0.8)
    for ax, title in ((left, "input of the image"), (right, "input of the attacked")):
        ax.set_title(title)
        ax.set_xlabel("time step")
        ax.set_xticks(_few(before.shape[1]))
        ax.grid(False)
    left.set_ylabel("pixel")


def _factor(difference: Array) -> float:
    """A round factor that makes the largest difference well visible."""
    largest = float(np.abs(difference).max(initial=0.0))
    if not 0 < largest < math.inf:
        return 1.0
    fitting = [factor for factor in (1, 2, 5, 10, 20, 50, 100, 200) if factor * largest <= 0.501]
    return fitting[-1] if fitting else 0.5


def _picture(image: Array) -> Array:
    """`[C, H, W]` as something to look at: colour for three channels, else their mean."""
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(0)


def _raster(values: Array) -> Array:
    """`[T, C, H, W]` -> `[pixels, T]`."""
    return values.reshape(len(values), -1).T


def _coloured(before: Array, after: Array) -> Array:
    """Spikes as colours `[pixels, T, 3]`: those that stayed, that are new, that are gone."""
    colours = np.ones((*before.shape, 3))
    was, is_ = before > 0, after > 0
    for mask, colour in ((was & is_, KEPT), (is_ & ~was, NEW), (was & ~is_, GONE)):
        colours[mask] = mpl.colors.to_rgb(colour)
    return colours


def _few(steps: int) -> list[int]:
    """At most six time steps to label."""
    stride = math.ceil(steps / 6)
    return list(range(0, steps, stride))
