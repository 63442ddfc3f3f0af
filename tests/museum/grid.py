"""The laws of masking: a spoilt gradient makes no model look more robust, or its number is not supported.

`python tests/museum/exhibits.py` measures every cell under the standard suite; tests look at a few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from faults import GRID, REMEMBERING, Answers, nearest_of

from spikeproof.auditing.assess import suite_evidence
from spikeproof.auditing.checks import SUPPORTED, Verdict, audit
from spikeproof.auditing.diagnostics import diagnose
from spikeproof.auditing.evidence import Evidence
from spikeproof.evaluation.asking.callables import answering
from spikeproof.evaluation.asking.leaks import LeakError
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.keys import Key
from spikeproof.report.tables import MISSING
from spikeproof.statistics import wilson
from spikeproof.threats import Linf

KEY = Key.of(0)
POINTS = 0.05
"""So much more may a supported number be than that of the plain model."""
DIAGNOSED = 48
MANY = 400
"""The verdict is that on as many images: a cell has few, and that alone should make no number doubtful."""


class Cell(NamedTuple):
    """One fault at one strength.

    Args:
        fault: with its strength.
        plain: robust accuracy of the plain model; None where there is none of the same answers.
        faulty: of the faulty one, as its suite has it.
        verdict: on that.
    """

    fault: str
    plain: float | None
    faulty: float
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """Whether the number is not supported, or near that of the plain model."""
        near = self.plain is not None and self.faulty <= self.plain + POINTS
        return near or self.verdict.verdict != SUPPORTED


def judged(model, x, y, epsilon=0.1, level="standard") -> tuple[float, Verdict]:
    """A model's robust accuracy under a suite, and the verdict on it."""
    seen = diagnose(model, x[:DIAGNOSED], y[:DIAGNOSED], KEY.fold("probe"))
    try:
        clean = evaluate_clean(answering(model), x, y, KEY)
    except LeakError:
        nothing = float("nan")
        evidence = Evidence(
            accuracy=nothing,
            interval=wilson(0, len(x)),
            n=len(x),
            clean_accuracy=nothing,
            classes=10,
            epsilon=epsilon,
            diagnostics=seen,
        )
        return nothing, audit(evidence)
    metrics = evaluate_suite(
        answering(model), level, Linf(epsilon), x, y, clean, KEY.fold("attack")
    ).metrics()
    accuracy = metrics["robust_accuracy"]
    evidence = Evidence(
        accuracy=accuracy,
        interval=wilson(accuracy * MANY, MANY),
        n=MANY,
        clean_accuracy=clean.metrics()["clean_accuracy"],
        classes=10,
        epsilon=epsilon,
        attacks=suite_evidence(metrics),
        diagnostics=seen,
        suites=[level],
    )
    return accuracy, audit(evidence)


def cells(model, other, train, x, y) -> Iterator[Cell]:
    """Every fault at every strength, on one model.

    Args:
        model: sound.
        other: a weaker one, for ensembles.
        train: images from which a purifier takes its answers.
        x: test images.
        y: their labels.
    """
    known: dict[int, float] = {}
    for name, (fault, strengths) in GRID.items():
        for strength in strengths:
            spoilt = fault(model, strength, other) if name == "detached member" else fault(model, strength)
            place = id(spoilt.plain) if spoilt.plain is model else id(spoilt)
            if place not in known:
                known[place] = judged(spoilt.plain, x, y)[0]
            yield Cell(f"{name} {strength:g}", known[place], *judged(spoilt.faulty, x, y))
    purified = nearest_of(train)
    yield Cell("nearest training image", None, *judged(Answers(lambda z: model(purified(z)), model), x, y))
    for name, remembering in REMEMBERING.items():
        yield Cell(name, None, *judged(remembering(model), x, y))


def table(rows) -> list[str]:
    """Cells in Markdown."""
    lines = [
        "| fault, strength | plain % | with the fault % | verdict | why |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        plain = MISSING if row.plain is None else f"{100 * row.plain:.1f}"
        faulty = MISSING if row.faulty != row.faulty else f"{100 * row.faulty:.1f}"
        names = ", ".join(dict.fromkeys(f.check for f in row.verdict.findings)) or "nothing was raised"
        broken = "" if row.holds else " **the law is broken**"
        lines.append(f"| {row.fault} | {plain} | {faulty} | {row.verdict.verdict}{broken} | {names} |")
    return lines
