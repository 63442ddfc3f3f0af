"""What tests of studies share."""

import sys

import pytest

DRAWN = {"test_report_page", "test_report_figures"}
"""Tests of the figures themselves."""


@pytest.fixture(scope="module", autouse=True)
def _no_figure_is_drawn_twice(request):
    """Pages have their figures as SVG; the same figures as PDF, whose time goes into fonts, are empty."""
    drawing = sys.modules.get("spikeproof.report.charts.drawing")
    if drawing is None or request.module.__name__.rpartition(".")[2] in DRAWN:
        yield
        return
    saved, patch = drawing._saved, pytest.MonkeyPatch()

    def brief(figure, kind, *rest):
        return b"%PDF" if kind == "pdf" else saved(figure, kind, *rest)

    patch.setattr(drawing, "_saved", brief)
    yield
    patch.undo()
