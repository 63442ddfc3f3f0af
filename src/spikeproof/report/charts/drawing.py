"""Drawings: figures that use no global state and always give the same bytes, with shared names and styles."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "DASHES",
    "GREY",
    "MARKERS",
    "Drawing",
    "Style",
    "file_names",
    "inline",
    "legend",
    "wrapped",
]

Style = dict[str, Any]
"""Keyword arguments of Matplotlib, whose types depend on the artist that they style."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, whose colours people with any colour vision can distinguish."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
GREY = "#555555"
STYLE: Any = {  # Matplotlib has a type with every key that it knows
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
    """A figure that is drawn on request.

    Args:
        name: name of its files, without a suffix; also the prefix of its ids in a page.
        title: what the figure shows.
        caption: how to read the figure.
        paint: function that draws on an empty figure.
        width, height: size in inches.
        dpi: resolution of images that have to be resampled.
    """

    name: str
    title: str
    caption: str
    paint: Callable[[Figure], None] = dataclasses.field(repr=False)
    width: float
    height: float
    dpi: int = 150

    def files(self) -> dict[str, bytes]:
        """The figure as `svg`, in which text remains text, and as `pdf`."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(self.width, self.height), layout="constrained", facecolor="white")
            self.paint(figure)
            svg = _saved(figure, "svg", self.dpi, {"Date": None, "Creator": "spikeproof"})
            figure.set_layout_engine(None)  # keeps the layout of the first file, and saves a draw
            pdf = _saved(figure, "pdf", self.dpi, {"CreationDate": None, "Creator": "spikeproof"})
        return {"svg": svg, "pdf": pdf}


def _saved(figure: Figure, kind: str, dpi: int, metadata: dict[str, str | None]) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def inline(svg: bytes, name: str) -> str:
    """An SVG file as part of a page: ids get a unique prefix; metadata, styles and namespaces are removed.

    Args:
        svg: content of the file.
        name: the prefix.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "all"


def file_names(prefix: str, places: Iterable[str]) -> dict[str, str]:
    """A different file name for every place."""
    names: dict[str, str] = {}
    for place in places:
        name = f"{prefix}-{_slug(place)}"
        while name in names.values():
            name += "-2"
        names[place] = name
    return names


def wrapped(text: str, width: int, lines: int = 3) -> str:
    """A label on a few short lines, truncated if it is longer; tables show it in full.

    Example:
        >>> wrapped("latency · margin-exit(count)", 20).split("\\n")
        ['latency ·', 'margin-exit(count)']
        >>> wrapped("bptt(loss=deep-supervision, epochs=5)", 22).split("\\n")
        ['bptt(', 'loss=deep-supervision,', 'epochs=5)']
        >>> wrapped("a" * 30, 10, 2).split("\\n")
        ['aaaaaaaaaa', 'aaaaaaaaa…']
    """
    rows = _filled([text], width, (r"(?<=· )", r"(?<=[,;] )|(?<=[(+/])", r"(?<=[-_. ])", ""))
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1][: width - 1] + "…"]
    return "\n".join(row.rstrip() for row in rows)


def _filled(texts: list[str], width: int, breaks: tuple[str, ...]) -> list[str]:
    """Rows of at most `width` letters, broken where the first pattern allows it, or else the next one."""
    rows: list[str] = []
    for text in texts:
        if len(text.rstrip()) <= width:
            pieces = [text]
        elif len(breaks) > 1:
            pieces = _filled([part for part in re.split(breaks[0], text) if part], width, breaks[1:])
        else:
            pieces = [text[i : i + width] for i in range(0, len(text), width)]
        for piece in pieces:
            if rows and len(rows[-1] + piece.rstrip()) <= width:
                rows[-1] += piece
            else:
                rows.append(piece)
    return rows


FEW_ROWS = 4
"""Rows of a legend for which a figure has room."""

ROW = 0.19
"""Height of a row of a legend in inches."""


def legend(figure: Figure, axes: Iterable[Axes], order: Sequence[str] = ()) -> None:
    """Add one legend below a figure for all of its panels, with each name once and as many columns as fit.

    A legend of more than a few rows makes the figure higher, so that it takes no room from the panels.

    Args:
        figure: the figure that gets the legend.
        axes: the panels of the figure.
        order: names that come first, in this order.
    """
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    if names:
        texts = [wrapped(name, 60, 1) for name in names]
        room = 15 * figure.get_figwidth()  # width in letters
        columns = max(1, min(int(room // (max(map(len, texts)) + 7)), len(names), 7))
        more = max(0, math.ceil(len(names) / columns) - FEW_ROWS)
        figure.set_figheight(figure.get_figheight() + ROW * more)
        figure.legend([found[name] for name in names], texts, loc="outside lower center", ncols=columns)
