"""Pictures: one image before and after an attack, with the input spikes of the network for both."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spikeproof.report.charts.drawing import Drawing, Style
from spikeproof.report.charts.exhibits import Array, Exhibit
from spikeproof.report.tables import epsilon_text

__all__ = ["exhibit_drawing"]

KEPT, NEW, GONE = "#1a1a1a", "#D55E00", "#9ecbe8"
SHARP_ROWS = 400
"""Rasters up to this number of rows are stored pixel by pixel; taller rasters are resampled for display."""


def exhibit_drawing(name: str, exhibit: Exhibit, dpi: int = 200) -> Drawing:
    """The clean image, the attacked image, their difference, and the input of the network for both.

    Args:
        name: name of the file.
        exhibit: the example to draw.
        dpi: resolution of rasters with more rows than fit on a screen.
    """
    record = exhibit.record
    title = f"{record['encoder']}: test image {exhibit.example}, class {exhibit.label}"
    outcome = (
        "The attack succeeded" if exhibit.succeeded else "No example is stored on which an attack succeeded"
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
        return "a class that was not stored"
    return "with a tie" if prediction < 0 else f"class {prediction}"


def _input_words(exhibit: Exhibit) -> str:
    if not exhibit.spiking:
        return "The input of the network is analog: values, or weighted spikes."
    before, after = exhibit.input > 0, exhibit.attacked_input > 0
    kept, new, gone = (int(s.sum()) for s in (before & after, after & ~before, before & ~after))
    return (
        f"Input spikes: {kept + gone} before the attack and {kept + new} after it; {kept} stayed (black), "
        f"{new} are new (orange), and {gone} are gone (pale blue)."
    )


def _draw_exhibit(figure: Figure, exhibit: Exhibit) -> None:
    if min(exhibit.image.shape[1:]) < 2:  # channels over time, which make no image
        before, after = figure.subplots(1, 2, sharey=True)
        _draw_inputs(figure, before, after, exhibit)
        return
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
    how: Style = {
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
    for ax, title in ((left, "input of the image"), (right, "input of the attacked image")):
        ax.set_title(title)
        ax.set_xlabel("time step")
        ax.set_xticks(_few(before.shape[1]))
        ax.grid(False)
    left.set_ylabel("pixel" if min(exhibit.image.shape[1:]) > 1 else "channel")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))


def _factor(difference: Array) -> float:
    """A round factor by which the difference is amplified, so that its largest value is clearly visible."""
    largest = float(np.abs(difference).max(initial=0.0))
    if not 0 < largest < math.inf:
        return 1.0
    fitting = [factor for factor in (1, 2, 5, 10, 20, 50, 100, 200) if factor * largest <= 0.501]
    return fitting[-1] if fitting else 0.5


def _picture(image: Array) -> Array:
    """An image `[C, H, W]` for display: in colour for three channels, otherwise as their mean."""
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(0)


def _raster(values: Array) -> Array:
    """`[T, C, H, W]` -> `[pixels, T]`."""
    return values.reshape(len(values), -1).T


def _coloured(before: Array, after: Array) -> Array:
    """Spikes as colours `[pixels, T, 3]`, one colour each for spikes that stayed, are new, or are gone."""
    colours = np.ones((*before.shape, 3))
    was, is_ = before > 0, after > 0
    for mask, colour in ((was & is_, KEPT), (is_ & ~was, NEW), (was & ~is_, GONE)):
        colours[mask] = mpl.colors.to_rgb(colour)
    return colours


def _few(steps: int) -> list[int]:
    """At most six time steps to label."""
    stride = math.ceil(steps / 6)
    return list(range(0, steps, stride))
