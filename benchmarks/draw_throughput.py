"""Draws what `throughput.py` and `evaluation_cost.py` measured.

python benchmarks/draw_throughput.py THROUGHPUT.json EVALUATION.json --out FIGURE.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GROWING = ("steps", "batch", "width")
SERIES = {"spikingjelly": "#b5562b", "compiled": "#1f5fa8", "floor": "#8a8a8a"}
FRAMES = {"spikingjelly": "#b5562b", "snntorch": "#d9a441", "norse": "#6f9a5b"}


def ratios(axes: Axes, cases: Mapping[str, Any]) -> None:
    """Times that a gradient or a training step takes in other frameworks, by case."""
    names = [name for name in cases if name.split(",")[0] not in GROWING]
    for place, (framework, colour) in enumerate(FRAMES.items()):
        pair = f"{framework} / compiled"
        known = [
            (i, cases[name]["ratios"][pair]) for i, name in enumerate(names) if pair in cases[name]["ratios"]
        ]
        at = [i + 0.27 * (place - 1) for i, _ in known]
        medians = [ratio["median"] for _, ratio in known]
        ends = [
            [ratio["median"] - ratio["low"] for _, ratio in known],
            [ratio["high"] - ratio["median"] for _, ratio in known],
        ]
        axes.barh(at, medians, 0.25, xerr=ends, color=colour, label=framework, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlabel("processor time, times ours with compiled loops")
    axes.legend(frameon=False)


def growth(axes: Axes, cases: Mapping[str, Any], size: str) -> None:
    """Processor time against one size, both on logarithmic axes."""
    found = {int(name.split(", ")[1]): case for name, case in cases.items() if name.startswith(f"{size}, ")}
    for way, colour in SERIES.items():
        axes.plot(
            list(found),
            [case["milliseconds"][way]["median"] for case in found.values()],
            "o-",
            color=colour,
            label=way,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(found), [str(value) for value in found])
    axes.set_xlabel({"steps": "time steps", "batch": "batch", "width": "channels of the first layer"}[size])
    axes.set_ylabel("ms per gradient")


def bars(axes: Axes, seconds: Mapping[str, float], label: str) -> None:
    """Seconds by name."""
    axes.barh(list(seconds), list(seconds.values()), 0.6, color=SERIES["compiled"])
    axes.invert_yaxis()
    axes.set_xlabel(label)


def figure(throughput: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Figure:
    """All panels."""
    matplotlib.rcParams.update({"svg.hashsalt": "throughput", "font.size": 8})
    drawn = Figure(figsize=(10, 10), layout="constrained")
    parts = drawn.subplot_mosaic([["ratios"] * 3, [*GROWING], ["evaluation", "evaluation", "audit"]])
    cases = throughput["cases"]
    ratios(parts["ratios"], cases)
    for size in GROWING:
        growth(parts[size], cases, size)
    parts["steps"].legend(frameon=False)
    taken = {name: row["seconds"] for name, row in evaluation["evaluations"].items()}
    what = f"processor seconds: PGD-{evaluation['steps']}, five budgets, {evaluation['examples']} images"
    bars(parts["evaluation"], taken, what)
    bars(parts["audit"], evaluation["audit"], "seconds of an audit's diagnostics")
    for axes in parts.values():
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("throughput", type=Path)
    options.add_argument("evaluation", type=Path)
    options.add_argument("--out", type=Path, required=True)
    chosen = options.parse_args()
    both = (json.loads(path.read_text()) for path in (chosen.throughput, chosen.evaluation))
    figure(*both).savefig(chosen.out, metadata={"Date": None} if chosen.out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
