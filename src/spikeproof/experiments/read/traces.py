"""From stored attacks to the evidence behind a number: what they cost, when examples fell, who broke what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from spikeproof.experiments.read.record import Broke, Effort, Proof
from spikeproof.experiments.run.parquet import Columns
from spikeproof.experiments.run.store import Metrics
from spikeproof.statistics import wilson

__all__ = ["effort", "fall", "members", "proof", "shares"]

COPIED = (
    "attacked",
    "budget_violations",
    "forward_queries",
    "backward_queries",
    "zero_gradient_share",
    "mean_distance",
    "max_distance",
    "mean_linf",
    "mean_l2",
    "mean_l1",
    "mean_l0",
    "eight_bit_accuracy",
    "silent_success_share",
)


def is_suite(metrics: Metrics) -> bool:
    """Whether the numbers of an attack cell are of a suite, which has members.

    Args:
        metrics: of the cell.
    """
    return metrics.get("members") is not None


def effort(metrics: Metrics, examples: Columns) -> Effort:
    """What an attack did for its number.

    Args:
        metrics: of its cell.
        examples: the columns of its cell, one value per example.
    """
    curve = [] if is_suite(metrics) else fall(examples, metrics.get("draws", 1))
    moved = _number(metrics.get("moved_share"))
    losses = [_number(loss) for loss in metrics.get("losses") or ()]
    steps = examples["fell"][examples["fell"] >= 0] if curve else np.zeros(0)
    found = {
        **{name: _number(metrics.get(name)) for name in COPIED},
        "unmoved_share": None if moved is None else 1 - moved,
        "steps": len(losses),
        "fall": curve,
        "median_step_of_fall": float(np.median(steps)) if len(steps) else None,
        "last_step_of_fall": int(steps.max()) if len(steps) else None,
        "loss_by_step": losses,
    }
    if not curve:  # also where an older version wrote 0 for what nobody had noted
        found["silent_success_share"] = None
    return cast(Effort, found)


def fall(examples: Columns, draws: int) -> list[tuple[int, float]]:
    """Accuracy against the steps of an attack, as the steps after which it changed.

    Begins with `(-1, accuracy before the attack)`; restarts count on. Empty where the attack does not tell
    when examples fell, and for stochastic models, which one lucky draw fools for a moment.

    Args:
        examples: with `fell`, the row of the attack's trace at which an example first fooled the model, -1
            for none and -2 where that is not known, `right_clean` and `right`.
        draws: per verdict.

    Example:
        >>> right_clean, right = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, 0.0])
        >>> fall({"fell": np.array([3, -1, 0, -1]), "right_clean": right_clean, "right": right}, 1)
        [(-1, 0.75), (0, 0.5), (3, 0.25)]
    """
    fell, before, after = (examples.get(name) for name in ("fell", "right_clean", "right"))
    if fell is None or before is None or after is None or draws > 1:
        return []
    before, after = before.astype(float), after.astype(float)
    standing = before > 0
    if (fell[standing] < -1).any() or ((fell < 0) & standing & (after < before)).any():
        return []
    curve = [(-1, float(before.mean()))]
    for step in np.unique(fell[standing & (fell >= 0)]):
        left = before * ~((fell >= 0) & (fell <= step))
        curve.append((int(step), float(left.mean())))
    return curve


def members(metrics: Metrics) -> list[Broke]:
    """What each member of a suite broke, in their order; empty for an attack that is none.

    Args:
        metrics: of its cell.
    """
    n, rows = metrics["n"], list[Broke]()
    for member in metrics.get("members", ()):
        evidence = member.get("evidence", {})
        rows.append(
            {
                "attack": member["name"],
                "on": member["attacked"],
                "alone": None,
                "broke": member["broke"] / n,
                "left": member["left"],
                "without": None,
                "gradient_free": member["gradient_free"],
                "forward_queries": evidence.get("forward_queries", 0),
                "backward_queries": evidence.get("backward_queries", 0),
            }
        )
    return rows


def shares(
    clean: Columns,
    found: Sequence[Columns],
    chosen: NDArray[np.intp],
    names: Sequence[str],
    metrics: Sequence[Metrics],
) -> list[Broke]:
    """What each attack adds to a worst case.

    Args:
        clean: columns of the clean cell.
        found: columns of each attack.
        chosen: per example whose image counts, 0 for the image as it is.
        names: of the attacks.
        metrics: of their cells.
    """
    tables = [clean, *found]
    selection = np.stack([table["right_selection"] for table in tables])
    right = np.stack([table["right"] for table in tables])
    rows: list[Broke] = []
    for k, (name, numbers) in enumerate(zip(names, metrics, strict=True), 1):
        others = [i for i in range(len(tables)) if i != k]
        order = sorted(others, key=lambda i: float(selection[i].mean()))
        best = np.array(order)[selection[order].argmin(0)]
        without = np.take_along_axis(right, best[None], 0)[0]
        rows.append(
            {
                "attack": name,
                "on": int(numbers.get("attacked") or 0),
                "alone": float(right[k].mean()),
                "broke": float((right[0] - right[k])[chosen == k].sum() / right.shape[1]),
                "left": None,
                "without": float(without.mean()),
                "gradient_free": bool(numbers["gradient_free"]),
                "forward_queries": int(numbers.get("forward_queries") or 0),
                "backward_queries": int(numbers.get("backward_queries") or 0),
            }
        )
    return rows


def proof(name: str, metrics: Metrics) -> Proof:
    """What a certificate proves, with the interval for the choice of images, or why it does not apply.

    Args:
        name: of the certificate.
        metrics: of its cell.
    """
    share, n = metrics["certified"], metrics["n"]
    low, high = (None, None) if share is None else wilson(share * n, n)
    return {
        "certificate": name,
        "subject": metrics["subject"],
        "certified": share,
        "ci_low": low,
        "ci_high": high,
        "reason": metrics.get("reason"),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else value
