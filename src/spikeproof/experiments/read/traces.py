"""The evidence behind a robust accuracy: the cost of each attack, when it succeeded, and what it broke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from spikeproof.experiments.read.record import Broke, Effort, Proof
from spikeproof.experiments.run.parquet import Columns
from spikeproof.experiments.run.store import Metrics
from spikeproof.statistics import wilson

__all__ = ["accuracy_by_step", "contributions", "effort", "proof", "suite_members"]

COPIED = (
    "attacked",
    "budget_violations",
    "forward_queries",
    "backward_queries",
    "outside_queries",
    "zero_gradient_share",
    "mean_distance",
    "max_distance",
    "mean_linf",
    "mean_l2",
    "mean_l1",
    "mean_l0",
    "eight_bit_accuracy",
    "accuracy_in_views",
    "clean_accuracy_in_views",
    "silent_success_share",
)
"""Metrics of an attack cell that its record repeats under the same name."""


def is_suite(metrics: Metrics) -> bool:
    """Whether an attack cell holds a suite; the metrics of a single attack list no members.

    Args:
        metrics: the metrics of the cell.
    """
    return metrics.get("members") is not None


def effort(metrics: Metrics, examples: Columns) -> Effort:
    """What an attack computed to reach its robust accuracy, and how far it changed the images.

    Args:
        metrics: the metrics of the attack's cell.
        examples: the columns of the cell, one value per example.
    """
    curve = [] if is_suite(metrics) else accuracy_by_step(examples, metrics.get("draws", 1))
    moved = _number(metrics.get("moved_share"))
    losses = [_number(loss) for loss in metrics.get("losses") or ()]
    steps = examples["fell"][examples["fell"] >= 0] if curve else np.zeros(0)
    evidence = {
        **{name: _number(metrics.get(name)) for name in COPIED},
        "unmoved_share": None if moved is None else 1 - moved,
        "steps": len(losses),
        "fall": curve,
        "median_step_of_fall": float(np.median(steps)) if len(steps) else None,
        "last_step_of_fall": int(steps.max()) if len(steps) else None,
        "loss_by_step": losses,
    }
    if not curve:  # older versions stored 0 here although nothing had been measured
        evidence["silent_success_share"] = None
    return cast(Effort, evidence)


def accuracy_by_step(examples: Columns, draws: int) -> list[tuple[int, float]]:
    """The accuracy of the attacked model against the steps of the attack, one pair for every change of it.

    The first pair is `(-1, accuracy before the attack)`. Steps of later restarts are numbered after those of
    earlier ones. The list is empty if the attack does not record when it succeeded on each example, and for
    a stochastic model, which a single draw may fool by chance.

    Args:
        examples: the columns `right_clean`, `right` and `fell`. The last is the step at which the attack
            first fooled the model on an example: -1 if it never did, -2 if the step is not known.
        draws: forward passes per verdict.

    Example:
        >>> right_clean, right = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, 0.0])
        >>> fell = np.array([3, -1, 0, -1])
        >>> accuracy_by_step({"fell": fell, "right_clean": right_clean, "right": right}, 1)
        [(-1, 0.75), (0, 0.5), (3, 0.25)]
    """
    fell, before, after = (examples.get(name) for name in ("fell", "right_clean", "right"))
    if fell is None or before is None or after is None or draws > 1:
        return []
    before, after = before.astype(float), after.astype(float)
    attacked = before > 0
    if (fell[attacked] < -1).any() or ((fell < 0) & attacked & (after < before)).any():
        return []
    curve = [(-1, float(before.mean()))]
    for step in np.unique(fell[attacked & (fell >= 0)]):
        remaining = before * ~((fell >= 0) & (fell <= step))
        curve.append((int(step), float(remaining.mean())))
    return curve


def suite_members(metrics: Metrics) -> list[Broke]:
    """What each member of a suite broke, in the order in which the members ran; empty for a single attack.

    Args:
        metrics: the metrics of the suite's cell.
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


def contributions(
    clean: Columns,
    attacked: Sequence[Columns],
    chosen: NDArray[np.intp],
    names: Sequence[str],
    metrics: Sequence[Metrics],
) -> list[Broke]:
    """What each attack contributes to the worst case over all of them.

    Args:
        clean: columns of the clean cell.
        attacked: columns of the cell of each attack.
        chosen: for each example the number of the attack whose image counts, from 1; 0 for the clean image.
        names: the names of the attacks.
        metrics: the metrics of their cells.
    """
    tables = [clean, *attacked]
    selection = np.stack([table["right_selection"] for table in tables])
    right = np.stack([table["right"] for table in tables])
    order = np.argsort(selection.mean(1), kind="stable")
    ordered, rows = selection[order].astype(float), list[Broke]()
    counted = np.take_along_axis(right, chosen[None], 0)[0]
    np.put_along_axis(ordered, np.argsort(order)[chosen][None], np.inf, 0)
    # what would count if the attack that counts had not run
    next_best = np.take_along_axis(right, order[ordered.argmin(0)][None], 0)[0]
    counts = chosen == np.arange(1, len(tables))[:, None]
    without = np.where(counts, next_best, counted).mean(1).tolist() if names else []
    alone = right.mean(1).tolist()
    for k, (name, numbers) in enumerate(zip(names, metrics, strict=True), 1):
        rows.append(
            {
                "attack": name,
                "on": int(numbers.get("attacked") or 0),
                "alone": alone[k],
                "broke": float((right[0] - right[k])[counts[k - 1]].sum() / right.shape[1]),
                "left": None,
                "without": without[k - 1],
                "gradient_free": bool(numbers["gradient_free"]),
                "forward_queries": int(numbers.get("forward_queries") or 0),
                "backward_queries": int(numbers.get("backward_queries") or 0),
            }
        )
    return rows


def proof(name: str, metrics: Metrics) -> Proof:
    """The certified accuracy with its confidence interval, or the reason why the certificate does not apply.

    Args:
        name: the name of the certificate.
        metrics: the metrics of its cell.
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
