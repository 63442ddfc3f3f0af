"""What moved between two studies, as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from spikeproof.experiments.read.gathered.across_seeds import CLEAN
from spikeproof.experiments.read.gathered.differences import Difference, Differences

__all__ = ["diff_page"]

STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8885; vertical-align: middle; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.moved { font-weight: 600; }
.wide { overflow-x: auto; }
svg { display: block; }
line, circle { stroke: currentColor; fill: currentColor; }
line.zero { opacity: .35; }
"""

WIDTH, HEIGHT = 180, 20
"""Size of the picture of one difference, in pixels."""


HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>What moved</title>
"""

COLUMNS = """\
<thead><tr><th>model</th><th>budget</th><th class="n">first, %</th><th class="n">second, %</th>
<th class="n">difference, points</th><th>95 % interval</th><th class="n">p, corrected</th><th>how</th>
</tr></thead>
"""

CLOSING = """\
<p>P-values are corrected for all numbers of this table (Holm). Under attack, numbers are worst cases over the
attacks of each side, which are upper bounds of robust accuracy.</p>
"""


def diff_page(found: Differences) -> str:
    """The page.

    Args:
        found: what `differences` returned.
    """
    rows = sorted(found["differences"], key=lambda row: (not row["moved"], row["adjusted"] or 0.0))
    reach = max((abs(end or 0.0) for row in rows for end in (row["low"], row["high"])), default=0.0) or 1.0
    sides = f"from the first, {escape(found['first'])}, to the second, {escape(found['second'])}"
    parts = [
        f"{HEAD}<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>What moved</h1>",
        f"<p>{found['moved']} of {len(rows)} numbers moved beyond their uncertainty, {sides}.</p>",
        f'<div class="wide"><table>\n{COLUMNS}<tbody>',
        *(_row(row, reach) for row in rows),
        f"</tbody>\n</table></div>\n{CLOSING}",
        *_lacking("first", found["only_first"]),
        *_lacking("second", found["only_second"]),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _lacking(side: str, names: Sequence[str]) -> list[str]:
    """The numbers that only one side has."""
    items = "".join(f"<li>{escape(name)}</li>" for name in names)
    return [f"<h2>Only in the {side} ({len(names)})</h2>\n<ul>{items}</ul>"] if names else []


def _row(row: Difference, reach: float) -> str:
    budget = "clean" if row["threat"] == CLEAN else f"{row['threat']} {row['epsilon']:.4g}"
    adjusted = "" if row["adjusted"] is None else f"{row['adjusted']:.2g}"
    cells = [
        f"<td>{escape(row['label'])}{' (by name)' if row['by_name'] else ''}</td>",
        f"<td>{escape(budget)}</td>",
        f'<td class="n">{escape(_value(row["first"], row["first_verdict"]))}</td>',
        f'<td class="n">{escape(_value(row["second"], row["second_verdict"]))}</td>',
        f'<td class="n">{_points(row["difference"])}</td>',
        f"<td>{_picture(row, reach)}</td>",
        f'<td class="n">{adjusted}</td>',
        f"<td>{escape(row['how'])}</td>",
    ]
    return f'<tr class="{"moved" if row["moved"] else "same"}">{"".join(cells)}</tr>'


def _value(value: float | None, verdict: str | None) -> str:
    shown = "" if value is None else f"{100 * value:.1f}"
    return " ".join(word for word in (shown, verdict or "") if word)


def _points(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f}"


def _picture(row: Difference, reach: float) -> str:
    """The interval of a difference as a line with a dot, and zero as a fainter line across."""
    if row["difference"] is None or row["low"] is None or row["high"] is None:
        return ""
    low, middle, high = (
        4 + (WIDTH - 8) * (min(max(value / reach, -1.0), 1.0) + 1) / 2
        for value in (row["low"], row["difference"], row["high"])
    )
    half = HEIGHT / 2
    words = f"{_points(row['difference'])} points, from {_points(row['low'])} to {_points(row['high'])}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{words}"><title>{words}</title>'
        f'<line class="zero" x1="{WIDTH / 2}" y1="0" x2="{WIDTH / 2}" y2="{HEIGHT}"/>'
        f'<line x1="{low:.1f}" y1="{half}" x2="{high:.1f}" y2="{half}" stroke-width="2"/>'
        f'<circle cx="{middle:.1f}" cy="{half}" r="3.5"/></svg>'
    )
