"""The section on spikes of a report: what an attack does in each layer, and what inference costs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from spikeproof.auditing.checks import WITHHELD
from spikeproof.experiments.read.record import Record, SpikeRecord
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.report import tables
from spikeproof.report.charts.drawing import COLOURS, GREY, MARKERS, Drawing, inline, legend, wrapped

__all__ = ["SpikeSection", "dearest", "pareto_front", "spike_section"]

MOST_ROWS = 400
"""Most layers in the table of the page."""

MOST_PANELS = 8
"""Most models in a figure."""


class SpikeSection(NamedTuple):
    """The section on spikes of a report, and the files beside the page: its figures and `spikes.csv`."""

    markup: Markup
    files: dict[str, bytes]


def spike_section(spikes: Sequence[SpikeRecord], records: Sequence[Record]) -> SpikeSection:
    """The section, with its figures and `spikes.csv` by their names in the output directory.

    Args:
        spikes: the analyses, at least one.
        records: the headline numbers of the study, for the picture of robustness against energy.
    """
    models = tables.varying(spikes) or ["encoder"]
    several = len({record["analysis"] for record in spikes}) > 1
    axes = [*models, "analysis"] if several else models
    drawings = [
        drawing
        for drawing in (_changes(spikes, axes), _windows(spikes, axes), _costs(spikes, records, models))
        if drawing is not None
    ]
    made = {drawing.name: drawing.files() for drawing in drawings}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": tables.percent,
        "number": tables.number,
        "epsilon": tables.epsilon_text,
        "label": lambda record: tables.label(record, axes),
    }
    layers = [(record, layer) for record in spikes for layer in record["layers"]]
    template = environment.from_string(
        files(__package__).joinpath("assets", "spikes.html").read_text("utf-8")
    )
    markup = template.render(
        spikes=spikes[:MOST_ROWS],
        layers=layers[:MOST_ROWS],
        left_out=len(layers[MOST_ROWS:]),
        distances=list(dict.fromkeys(name for _, layer in layers for name in layer["distances"])),
        responses=list(dict.fromkeys(name for _, layer in layers for name in layer["bits"])),
        charts=[(drawing, Markup(inline(made[drawing.name]["svg"], drawing.name))) for drawing in drawings],
    )
    figures = {
        f"figures/{name}.{kind}": content for name, found in made.items() for kind, content in found.items()
    }
    return SpikeSection(Markup(markup), {"spikes.csv": tables.spikes_csv(spikes).encode(), **figures})


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """The points that no other point is at least as good as in every coordinate and better in one.

    Args:
        points: coordinates, of which more is better.

    Example:
        >>> pareto_front([(1, 3), (2, 2), (1, 2), (3, 0)])
        [0, 1, 3]
    """
    front = []
    for i, point in enumerate(points):
        beaten = any(
            all(a >= b for a, b in zip(other, point, strict=True))
            and any(a > b for a, b in zip(other, point, strict=True))
            for other in points
        )
        if not beaten:
            front.append(i)
    return front


def dearest(spikes: Sequence[SpikeRecord], record: SpikeRecord) -> float:
    """The energy of an inference on attacked images, in pJ: the largest that an analysis of the model found.

    Args:
        spikes: the analyses of the study, in which one attack, or a sponge, makes the images of each.
        record: names the model and the budget.
    """
    same = ("model", "threat", "epsilon")
    return max(
        row["attacked_cost"]["picojoules"]
        for row in spikes
        if all({**row}[name] == {**record}[name] for name in same)
    )


def _shown(spikes: Sequence[SpikeRecord], axes: Sequence[str]) -> dict[str, SpikeRecord]:
    """The analysis of every model at its largest budget, by the label of the model."""
    chosen: dict[str, SpikeRecord] = {}
    for record in spikes:
        if not record["layers"]:
            continue
        name = tables.label(record, axes)
        if name not in chosen or record["epsilon"] > chosen[name]["epsilon"]:
            chosen[name] = record
    return dict(list(chosen.items())[:MOST_PANELS])


def _changes(spikes: Sequence[SpikeRecord], axes: Sequence[str]) -> Drawing | None:
    chosen = _shown(spikes, axes)
    if not chosen:
        return None

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(chosen), squeeze=False, sharey=True)[0]
        for ax, (name, record) in zip(panels, chosen.items(), strict=True):
            layers = record["layers"]
            places = range(len(layers))
            counts = [layer["counts"] / layer["rate"] if layer["rate"] else 0.0 for layer in layers]
            times = [layer["times"] / layer["rate"] if layer["rate"] else 0.0 for layer in layers]
            ax.set_axisbelow(True)
            ax.bar(places, counts, color=COLOURS[1], label="spikes added or removed")
            ax.bar(places, times, bottom=counts, color=COLOURS[0], label="spikes moved")
            ax.set_xticks(list(places), [layer["layer"] for layer in layers], rotation=45, ha="right")
            ax.set_title(wrapped(name, 26))
        panels[0].set_ylabel("distance per clean spike")
        legend(figure, panels)

    caption = (
        "Victor-Purpura distance between the spike trains for clean and for attacked images, divided by the "
        "number of clean spikes, at the largest budget. Moving a spike costs q per time step, and adding or "
        "removing one costs 1."
    )
    width = min(12.0, 2.2 + 2.1 * len(chosen))
    return Drawing("spikes-change", "What the attack changes, layer by layer", caption, paint, width, 3.6)


def _windows(spikes: Sequence[SpikeRecord], axes: Sequence[str]) -> Drawing | None:
    chosen = {name: record for name, record in _shown(spikes, axes).items() if record["layers"][0]["windows"]}
    if not chosen:
        return None

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(chosen), squeeze=False, sharey=True)[0]
        for ax, (name, record) in zip(panels, chosen.items(), strict=True):
            for i, layer in enumerate(record["layers"]):
                upto = [window for window in layer["windows"] if window["start"] == 0]
                ends = [window["stop"] for window in upto]
                colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                style = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.1}
                ax.plot(ends, [100 * w["accuracy"] for w in upto], "-", label=layer["layer"], **style)
                ax.plot(ends, [100 * w["attacked"] for w in upto], "--", label="attacked", **style)
            ax.set_title(wrapped(name, 26))
            ax.set_xlabel("time steps read")
        panels[0].set_ylabel("read rightly [%]")
        legend(figure, panels)

    caption = (
        "Share of images whose class a linear read-out finds from the spike counts of a layer up to a time, "
        "by cross-validation; dashed, the same read-outs on the attacked images."
    )
    width = min(12.0, 2.2 + 2.1 * len(chosen))
    return Drawing("spikes-readout", "How early the class can be read", caption, paint, width, 3.6)


def _costs(spikes: Sequence[SpikeRecord], records: Sequence[Record], axes: Sequence[str]) -> Drawing | None:
    """Energy against robust accuracy in the worst case, at the largest budget at which both are known."""
    robust = {
        (record["model"], record["threat"], record["epsilon"]): record["robust_accuracy"]
        for record in records
        if record["attack"] == WORST_CASE and record["verdict"] != WITHHELD
    }
    points: list[tuple[SpikeRecord, float]] = []
    once = list({(row["model"], row["threat"], row["epsilon"]): row for row in spikes}.values())
    for budget in sorted({(record["epsilon"], record["threat"]) for record in spikes}, reverse=True):
        points = [
            (record, found)
            for record in once
            if (record["epsilon"], record["threat"]) == budget
            and (found := robust.get((record["model"], record["threat"], record["epsilon"]))) is not None
        ]
        if len(points) > 1 and any(found > 0 for _, found in points):
            break
    if len(points) < 2:
        return None
    attacked = [dearest(spikes, record) / 1000 for record, _ in points]

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        energy = [record["cost"]["picojoules"] / 1000 for record, _ in points]
        accuracy = [100 * found for _, found in points]
        front = pareto_front(
            [
                (-record["cost"]["picojoules"], -record["cost"]["steps"], record["clean_accuracy"], found)
                for record, found in points
            ]
        )
        for i, (record, _) in enumerate(points):
            ends, height = (energy[i], attacked[i]), (accuracy[i], accuracy[i])
            ax.plot(ends, height, "-|", color=COLOURS[i % len(COLOURS)], linewidth=1.1, markevery=[1])
            ax.plot(
                energy[i],
                accuracy[i],
                MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],  # another shape where colours begin anew
                color=COLOURS[i % len(COLOURS)],
                markersize=4 + record["cost"]["steps"] / 3,
                markeredgecolor="black" if i in front else GREY,
                markeredgewidth=1.6 if i in front else 0.4,
                label=f"{tables.label(record, axes)} (clean {tables.percent(record['clean_accuracy'])} %)",
            )
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        narrow = max(attacked) < 10 * min(energy)  # there may be no power of ten between them
        ax.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if narrow else NullFormatter())
        ax.set_xlabel("energy of an inference [nJ]")
        ax.set_ylabel("robust accuracy [%]")
        legend(figure, [ax])

    where = f"{points[0][0]['threat']} {tables.epsilon_text(points[0][0]['epsilon'])}"
    caption = (
        f"Robust accuracy in the worst case at {where} against the energy of the synaptic operations of a "
        "clean inference; larger marks need more time steps until the decision. A thick outline is the "
        "Pareto front of clean accuracy, robust accuracy, energy and steps. A line leads from each mark to "
        "the energy under attack, the largest of the analyses."
    )
    return Drawing("spikes-energy", "Accuracy, robustness, energy and time", caption, paint, 8.0, 4.6)
