"""Figures of the evidence: which attack broke which images and when, whether losses settled, and proofs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spikeproof.auditing.checks import DOUBTFUL, MARKS, PRELIMINARY, WITHHELD
from spikeproof.experiments.read.record import Record
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
from spikeproof.report.charts.figures import telling
from spikeproof.report.tables import attacked, epsilon_text, label, varying, without_seed

__all__ = ["evidence_drawings"]

MOST_MODELS = 12
"""Largest number of models in one figure, which shows the most robust; the tables hold all of them."""

MOST_BARS = 30
MOST_ATTACKS = 9


def evidence_drawings(records: Sequence[Record]) -> list[Drawing]:
    """Figures of what each attack and suite member broke, of steps, losses and proofs, if they are recorded.

    Args:
        records: the records of one study.
    """
    threats = list(dict.fromkeys(record["threat"] for record in attacked(records)))
    names = {kind: file_names(kind, threats) for kind in ("broke", "suite", "fall", "loss", "bounds")}
    found: list[Drawing | None] = []
    for threat in threats:
        axes = varying(records) or ["encoder"]
        numbers = _Numbers.of([r for r in records if r["threat"] == threat], axes, threat, len(threats) > 1)
        if numbers.worst:
            found += [draw(numbers, names[kind][threat]) for kind, draw in _FIGURES.items()]
    return [drawing for drawing in found if drawing is not None]


@dataclass(frozen=True)
class _Numbers:
    """The worst cases of one threat at one epsilon (`telling`), and the attacks behind them."""

    records: Sequence[Record]
    worst: Sequence[Record]  # one seed of each model
    axes: Sequence[str]
    place: str  # threat and epsilon in words
    epsilon: float
    seeds: int

    @classmethod
    def of(cls, records: Sequence[Record], axes: Sequence[str], threat: str, named: bool) -> _Numbers:
        epsilon = telling(records)
        axes = without_seed(axes) or ["encoder"]
        worst: dict[str, Record] = {}
        for row in records:
            if row["attack"] == WORST_CASE and row["epsilon"] == epsilon and row["verdict"] != WITHHELD:
                worst.setdefault(label(row, axes), row)
        place = f"{threat + ' ' if named else 'epsilon '}{epsilon_text(epsilon)}"
        seeds = len({row["seed"] for row in records})
        return cls(records, list(worst.values()), axes, place, epsilon, seeds)

    def name(self, record: Record, width: int, lines: int = 2) -> str:
        return wrapped(label(record, self.axes), width, lines)

    def leading(self, most: int) -> list[Record]:
        """The most robust models, in the order of the study."""
        ranked = sorted(self.worst, key=lambda row: -row["robust_accuracy"])[:most]
        kept = {row["model"] for row in ranked}
        return [row for row in self.worst if row["model"] in kept]

    def attacks(self, worst: Record) -> list[Record]:
        """The attacks that were run on the model of a worst case, at its budget."""
        return self._attacks[worst["model"]]

    @cached_property
    def _attacks(self) -> Mapping[str, list[Record]]:
        """The attacks at this budget by the models that they were run on."""
        found = defaultdict[str, list[Record]](list)
        for row in self.records:
            if row["epsilon"] == self.epsilon and row["attack"] != WORST_CASE:
                found[row["model"]].append(row)
        return found

    def note(self, shown: int) -> str:
        """A sentence on the models and seeds that a figure leaves out."""
        left = len(self.worst) - shown
        words = (
            f" The figure shows the {shown} most robust of {len(self.worst)} models; the tables hold all."
            if left > 0
            else ""
        )
        return words + (" Only the first seed of each model is shown." if self.seeds > 1 else "")


def _style(i: int) -> Style:
    n = len(COLOURS)
    return {"color": COLOURS[i % n], "linestyle": DASHES[i // n % len(DASHES)]}


# --- who broke what ---


@dataclass(frozen=True)
class _Bar:
    """One model: how its test images divide into errors, images broken by each attack, and the rest."""

    name: str
    clean: float
    parts: Sequence[tuple[str, float]]
    left: float
    proved: float
    verdict: str | None


def _broke(numbers: _Numbers, name: str) -> Drawing | None:
    shown = numbers.leading(MOST_BARS)
    bars = [
        _Bar(
            numbers.name(row, 44),
            row["clean_accuracy"],
            [(part["attack"], part["broke"]) for part in row["broken_by"]],
            row["robust_accuracy"],
            row["certified"] or 0.0,
            row["verdict"],
        )
        for row in shown
    ]
    if not any(len(bar.parts) > 1 for bar in bars):
        return None
    caption = (
        f"All test images of each model at {numbers.place}. Each image that attacks broke counts for one "
        "of them: the attack under which accuracy on the image is lowest or, among equals, the one that is "
        "strongest on all images. A short bar therefore does not mean that an attack broke few images: "
        "other attacks may have broken the same ones." + _proved(bars) + numbers.note(len(shown))
    )
    return _bar_drawing(name, f"Which attack broke what, {numbers.place}", caption, bars)


def _suite(numbers: _Numbers, name: str) -> Drawing | None:
    bars, shown = [], numbers.leading(MOST_BARS)
    for row in shown:
        suites = [each for each in numbers.attacks(row) if each["broken_by"]]
        for each in suites:
            title = numbers.name(row, 44) + (f" · {each['attack']}" if len(suites) > 1 else "")
            parts = [(part["attack"], part["broke"]) for part in each["broken_by"]]
            clean, left = row["clean_accuracy"], each["robust_accuracy"]
            bars.append(_Bar(title, clean, parts, left, row["certified"] or 0.0, None))
    if not bars:
        return None
    caption = (
        f"The images that each member of the suite broke, at {numbers.place}. Members run one after the "
        "other, each on the images that the model still classifies correctly after the members before it, "
        "so their order matters." + _proved(bars) + numbers.note(len(shown))
    )
    return _bar_drawing(name, f"What each member of the suite broke, {numbers.place}", caption, bars)


def _proved(bars: Sequence[_Bar]) -> str:
    return " Hatched images are proved robust to every attack." if any(bar.proved > 0 for bar in bars) else ""


def _bar_drawing(name: str, title: str, caption: str, bars: Sequence[_Bar]) -> Drawing:
    totals: dict[str, float] = {}
    for bar in bars:
        for attack, share in bar.parts:
            totals[attack] = totals.get(attack, 0.0) + max(share, 0.0)
    ranked = [attack for attack in sorted(totals, key=lambda a: -totals[a]) if totals[attack] > 0]
    named = [attack for attack in totals if attack in ranked[:MOST_ATTACKS]]
    if any(bar.verdict == PRELIMINARY for bar in bars):
        caption += " A tilde marks a preliminary number: the attacks searched less than a standard suite."
    if any(bar.verdict == DOUBTFUL for bar in bars):
        caption += " A question mark marks a doubtful number: a stronger attack may break more images."

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        for rank, bar in enumerate(bars):
            _draw_bar(ax, rank, bar, named)
        ax.set_yticks(range(len(bars)), [bar.name for bar in bars])
        ax.set_ylim(len(bars) - 0.5, -0.5)
        ax.set_xlim(0, 100)
        ax.set_xlabel("test images [%]")
        ax.grid(False, axis="y")
        ax.set_axisbelow(True)
        legend(figure, [ax], [WRONG, *named, OTHERS, "proved", STANDS])

    return Drawing(name, title, caption, paint, 10.5, 1.3 + 0.36 * len(bars))


WRONG, OTHERS, STANDS = "wrong without an attack", "other attacks", "not broken, not proved"


def _draw_bar(ax: Axes, rank: int, bar: _Bar, named: Sequence[str]) -> None:
    others = sum(share for attack, share in bar.parts if attack not in named)
    pieces: list[tuple[str, float, Style]] = [(WRONG, 1 - bar.clean, {"color": "#b5b5b5"})]
    shares = dict(bar.parts)
    for i, attack in enumerate(named):
        hatch = ("", "///", "...")[i // len(COLOURS) % 3]
        style: Style = {
            "color": COLOURS[i % len(COLOURS)],
            "hatch": hatch,
            "edgecolor": "white",
            "linewidth": 0.0,
        }
        pieces.append((attack, shares.get(attack, 0.0), style))
    pieces.append((OTHERS, others, {"color": "#6d6d6d"}))
    held = min(bar.proved, bar.left)
    outline: Style = {"facecolor": "#f3f6f9", "edgecolor": "#8a8a8a", "linewidth": 0.6}
    pieces += [
        ("proved", held, {**outline, "hatch": "xxxx"}),
        (STANDS, bar.left - held, outline),
    ]
    start = 0.0
    for text, share, style in pieces:
        width = 100 * max(share, 0.0)
        if width > 0:
            ax.barh(rank, width, left=start, height=0.72, label=text, **style)
        start += width
    middle = 100 - 50 * bar.left
    if bar.left > 0.06:
        text = f"{100 * bar.left:.1f}" + MARKS.get(bar.verdict or "", "")
        patch = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        ax.text(middle, rank, text, ha="center", va="center", fontsize=8, bbox=patch)


# --- panels, one per model ---


def _panels(
    numbers: _Numbers,
    name: str,
    title: str,
    caption: str,
    draw: Callable[[Axes, Record], None],
    x: str,
    y: str,
) -> Drawing:
    shown = numbers.leading(MOST_MODELS)
    columns = min(len(shown), 3 if len(shown) <= 9 else 4)
    lines = math.ceil(len(shown) / columns)

    def paint(figure: Figure) -> None:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, row in zip(axes.flat, shown, strict=False):
            draw(ax, row)
            ax.set_title(numbers.name(row, 100 // columns))
            ax.set_xlabel(x)
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_ylabel(y)
        legend(figure, axes.flat)

    width, height = 10.5 if columns > 1 else 6.5, (2.8 if columns < 4 else 2.4) * lines + 0.6
    return Drawing(name, title, caption + numbers.note(len(shown)), paint, width, height)


def _fall(numbers: _Numbers, name: str) -> Drawing | None:
    """The accuracy after each step of each attack."""
    shown = [row for worst in numbers.leading(MOST_MODELS) for row in numbers.attacks(worst)]
    telling_ = [row for row in shown if row["effort"] and row["effort"]["fall"]]
    if not telling_:
        return None
    styles = {attack: i for i, attack in enumerate(dict.fromkeys(row["attack"] for row in shown))}
    silent = len(telling_) < len(shown)
    longest = max(row["effort"]["steps"] for row in telling_ if row["effort"])

    def draw(ax: Axes, worst: Record) -> None:
        for row in numbers.attacks(worst):
            i, effort = styles[row["attack"]], row["effort"]
            end: Style = {
                "marker": MARKERS[i % len(MARKERS)],
                "markersize": 5,
                "color": COLOURS[i % len(COLOURS)],
            }
            if effort and effort["fall"]:
                steps = [step + 1 for step, _ in effort["fall"]] + [effort["steps"]]
                accuracy = [100 * value for _, value in effort["fall"]]
                line = {**_style(i), "linewidth": 1.3, "label": row["attack"]}
                ax.step(steps, [*accuracy, accuracy[-1]], where="post", **line)
                ax.plot([effort["steps"]], [100 * row["robust_accuracy"]], linestyle="none", **end)
            else:
                place = [longest * 1.3], [100 * row["robust_accuracy"]]
                ax.plot(*place, linestyle="none", markerfacecolor="white", label=row["attack"], **end)
        ax.set_xscale("symlog", linthresh=1, linscale=0.35)
        ticks = [0, *(10**k for k in range(int(math.log10(max(longest, 1))) + 1))]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_xlim(0, max(longest, 1) * 1.6)
        ax.set_ylim(-3, 103)

    caption = (
        f"The share of images that the model still classified correctly after each step of each attack, at "
        f"{numbers.place}. Step 0 is before the attack, and the steps of restarts are numbered on. The mark "
        "is the robust accuracy under the attack. A line that still falls at its end belongs to an attack "
        "that was stopped too early."
    )
    if silent:
        caption += (
            " Open marks have no line: suites and searches over spike patterns do not record the step at "
            "which an image fell, and the accuracy of a stochastic model falls and rises again between "
            "steps."
        )
    title = f"Accuracy against the steps of each attack, {numbers.place}"
    return _panels(numbers, name, title, caption, draw, "steps of the attack", "accuracy [%]")


def _loss(numbers: _Numbers, name: str) -> Drawing | None:
    """The share of its total gain that an attack had reached after each share of its steps."""
    shown = [row for worst in numbers.leading(MOST_MODELS) for row in numbers.attacks(worst)]
    climbing = [row for row in shown if not row["gradient_free"] and len(_gain(row)) > 3]
    if not climbing:
        return None
    styles = {attack: i for i, attack in enumerate(dict.fromkeys(row["attack"] for row in climbing))}

    def draw(ax: Axes, worst: Record) -> None:
        for row in numbers.attacks(worst):
            gain = _gain(row) if row["attack"] in styles else []
            if len(gain) > 3:
                x = np.linspace(0, 100, len(gain))
                style = {**_style(styles[row["attack"]]), "linewidth": 1.3}
                ax.plot(x, 100 * np.array(gain), label=row["attack"], **style)
        ax.plot([75, 75, 100], [0, 90, 90], color=GREY, linewidth=0.8, linestyle=":")
        ax.set_xlim(0, 100)
        ax.set_ylim(-3, 103)

    caption = (
        "The best mean objective so far, between the value at which each gradient attack began (0) and the "
        f"value at which it ended (100), at {numbers.place}. An attack whose line enters the dotted corner "
        "from below made more than a tenth of its gain in the last quarter of its steps; with more steps "
        "it would have gained more."
    )
    title = f"Did the attacks settle? Gain against steps, {numbers.place}"
    return _panels(numbers, name, title, caption, draw, "steps [% of all]", "gain [%]")


def _gain(row: Record) -> list[float]:
    losses = [loss for loss in row["effort"]["loss_by_step"] if loss is not None] if row["effort"] else []
    if not losses:
        return []
    best = np.maximum.accumulate(np.array(losses, dtype=float))
    rise = best[-1] - best[0]
    return [] if not rise > 0 or not math.isfinite(rise) else list((best - best[0]) / rise)


def _bounds(numbers: _Numbers, name: str) -> Drawing | None:
    """The certified accuracy as a lower bound, and the robust accuracy under attack as an upper bound."""
    if not any(row["certified"] is not None for row in numbers.records):
        return None

    def draw(ax: Axes, worst: Record) -> None:
        rows = [
            row
            for row in numbers.records
            if row["model"] == worst["model"] and row["attack"] == WORST_CASE and row["verdict"] != WITHHELD
        ]
        rows.sort(key=lambda row: row["epsilon"])
        clean = [worst["clean_accuracy"], worst["clean_ci_low"], worst["clean_ci_high"]]
        upper = [clean, *([row["robust_accuracy"], row["ci_low"], row["ci_high"]] for row in rows)]
        epsilons = [0.0, *(row["epsilon"] for row in rows)]
        x, top = np.arange(len(epsilons)), 100 * np.array(upper, dtype=float).T
        ax.fill_between(x, top[1], top[2], color=COLOURS[1], alpha=0.12, linewidth=0)
        ax.plot(x, top[0], color=COLOURS[1], marker="v", markersize=4, label="under attack (upper bound)")
        proved = [(0, *clean)]
        for i, row in enumerate(rows, 1):
            if row["certified"] is not None:
                ends = (row["certified_low"] or 0.0, row["certified_high"] or 0.0)
                proved.append((i, row["certified"], *ends))
        where, share, low, high = np.array(proved, dtype=float).T
        ax.fill_between(where, 100 * low, 100 * high, color=COLOURS[0], alpha=0.12, linewidth=0)
        style: Style = {"color": COLOURS[0], "marker": "^", "markersize": 4, "linestyle": "--"}
        ax.plot(where, 100 * share, label="proved (lower bound)", **style)
        ax.set_xticks(x, [epsilon_text(epsilon) for epsilon in epsilons])
        ax.set_ylim(-3, 103)

    caption = (
        "The true robust accuracy lies between the share of images that a certificate proves robust and "
        "the accuracy under attack; where in between is unknown. Bands are 95 % intervals for the choice "
        "of test images; the axis of epsilons is not to scale."
    )
    title = f"Between proof and attack{': ' + numbers.records[0]['threat']}"
    return _panels(numbers, name, title, caption, draw, "epsilon", "accuracy [%]")


_FIGURES: dict[str, Callable[[_Numbers, str], Drawing | None]] = {
    "broke": _broke,
    "suite": _suite,
    "bounds": _bounds,
    "fall": _fall,
    "loss": _loss,
}
