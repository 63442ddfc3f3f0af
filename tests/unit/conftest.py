"""What tests of studies share."""

import sys
from contextlib import contextmanager

import pytest

from spikeproof.attacks.answers import foundlevels
from spikeproof.auditing import slopes

BRIEFLY = {
    "analyse_cells", "certify_cells", "comparisons", "corruption_cells", "exit_studies", "probe_cells",
    "repairs", "seeds", "show", "suite_cells", "sweep_studies", "transfer_grid", "transfer_studies", "upkeep",
}  # fmt: skip
"""The studies of tests/unit/test_NAME.py, in which diagnostics of models are not what is tested."""

DRAWN = {"test_report_page"}
"""Tests of the figures themselves, which ask for `brief_pdfs` where they look at no PDF."""

LAID_OUT = {"test_report_figures"}
"""Tests of what stands where in a figure."""


@pytest.fixture(scope="module", autouse=True)
def _no_figure_is_drawn_twice(request):
    """Pages have their figures as SVG; the same figures as PDF, whose time goes into fonts, are empty.

    Where no test looks at a figure, its parts may overlap: to lay them out takes a drawing of its own.
    """
    drawing = sys.modules.get("spikeproof.report.charts.drawing")
    if drawing is None or request.module.__name__.rpartition(".")[2] in DRAWN:
        yield
        return
    with _brief(drawing) as patch:
        if request.module.__name__.rpartition(".")[2] not in LAID_OUT:
            figure = drawing.Figure
            patch.setattr(drawing, "Figure", lambda **options: figure(**{**options, "layout": None}))
        yield


@pytest.fixture
def brief_pdfs():
    """Figures as PDF are empty in this test."""
    with _brief(sys.modules["spikeproof.report.charts.drawing"]):
        yield


@pytest.fixture(scope="module", autouse=True)
def _diagnosed_briefly(request):
    """Gradients and levels of a model are examined along a quarter of the directions and lines."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".test_")[2] in BRIEFLY:
            patch.setattr(slopes, "DIRECTIONS", slopes.DIRECTIONS // 4)
            patch.setattr(foundlevels, "LINES", foundlevels.LINES // 4)
        yield


@contextmanager
def _brief(drawing):
    saved = drawing._saved

    def brief(figure, kind, *rest):
        return b"%PDF" if kind == "pdf" else saved(figure, kind, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_saved", brief)
        yield patch
