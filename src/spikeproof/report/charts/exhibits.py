"""Exhibits: one image for each encoder, its adversarial version, and the input spikes of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from spikeproof.experiments.read.record import Record
from spikeproof.experiments.run.parquet import TABLE
from spikeproof.plainfiles import bytes_of
from spikeproof.report.tables import attacks_of

__all__ = ["Array", "Exhibit", "exhibits", "first_of", "middle"]

ANALOGUE = ("relu", "softplus")
"""The neurons of networks that do not spike."""

Array = NDArray[Any]  # an array of numbers of any type, or of panels


@dataclass(frozen=True)
class Exhibit:
    """One attacked example.

    Args:
        record: the record of the attack that made it.
        example: the index of the example in the test part.
        label: the class of the example.
        before: the model's answer to the clean image; -1 for a tie, None if it is unknown.
        after: the model's answer to the attacked image; -1 for a tie.
        succeeded: whether the attack turned a right answer into a wrong one, in every draw.
        image: the clean image in [0, 1]; for events, their sum over time.
        attacked: the attacked image.
        input: the input of the network for the clean image: spikes, or values for an analog encoder.
        attacked_input: the input of the network for the attacked image.

    Shapes:
        image, attacked: `[C, H, W]`; input, attacked_input: `[T, C, H, W]`.
    """

    record: Record
    example: int
    label: int
    before: int | None
    after: int
    succeeded: bool
    image: Array
    attacked: Array
    input: Array
    attacked_input: Array

    @property
    def spiking(self) -> bool:
        """Whether the input of the network consists of spikes."""
        return bool(self.input.dtype == np.uint8)


def exhibits(records: Sequence[Record], directory: Path) -> dict[str, Exhibit | None]:
    """An exhibit for every encoder, or None where no attack stored its images.

    The choice prefers, in this order, successful attacks, gradient attacks, a middle epsilon, the attack that
    leaves the lowest robust accuracy, and a wrong answer rather than a tie.

    Args:
        records: the records of one study.
        directory: the directory from which relative paths in the records start.
    """
    chosen: dict[str, Exhibit | None] = {}
    for code in _codes(records):
        candidates = [record for record in attacks_of(records) if record["encoder"] == code]
        chosen[code] = _choose(candidates, directory)
    return chosen


def _codes(records: Sequence[Record]) -> Iterable[str]:
    """The encoders of spiking networks, or of ANNs if there are no spiking networks."""
    spiking = [record for record in records if record["neuron"] not in ANALOGUE]
    return dict.fromkeys(record["encoder"] for record in spiking or records)


def _choose(candidates: Sequence[Record], directory: Path) -> Exhibit | None:
    centre = middle(record["epsilon"] for record in candidates)
    ranked = sorted(
        candidates,
        key=lambda r: (
            r["neuron"] in ANALOGUE,
            r["gradient_free"],
            abs(r["epsilon"] - centre),
            r["robust_accuracy"],
        ),
    )
    fallback = None
    for record in ranked:
        best = first_of(record, directory)
        if best is not None and best.succeeded:
            return best
        fallback = fallback or best
    return fallback


def first_of(record: Record, directory: Path) -> Exhibit | None:
    """The example to show of one attack: a success rather than a failure, a wrong answer rather than a tie.

    Args:
        record: the record of the attack.
        directory: the directory from which relative paths in the record start.

    Returns:
        The example, or None if the cell stored none.
    """
    kept = _of_cell(record, directory)
    return max(kept, key=lambda exhibit: (exhibit.succeeded, exhibit.after >= 0), default=None)


def middle(epsilons: Iterable[float]) -> float:
    """The middle epsilon of a list, the smaller one of two; 0 for an empty list.

    Example:
        >>> middle([0.3, 0.1, 0.2]), middle([])
        (0.2, 0.0)
    """
    ordered = sorted(set(epsilons))
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


def _of_cell(record: Record, directory: Path) -> Iterator[Exhibit]:
    """Every example that an attack cell stored; none if its files are missing or do not fit."""
    try:
        arrays = load(bytes_of(directory / record["cell"] / "arrays.safetensors"))
        _check_shapes(arrays)
        outcomes = _rows(directory / record["cell"])
        clean = _rows(directory / record["clean_cell"])
        for index, example in enumerate(arrays["example"].tolist()):
            outcome = outcomes[example]
            yield Exhibit(
                record,
                example,
                int(outcome["label"]),
                int(clean[example]["prediction"]) if example in clean else None,
                int(outcome["prediction"]),
                outcome["right_clean"] == 1 and outcome["right"] == 0,
                *_pictures(arrays["x"][index], arrays["x_adv"][index]),
                *(arrays[name][index] for name in ("spikes", "spikes_adv")),
            )
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError):
        return


def _check_shapes(arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that are not images and spikes of the same examples.

    Raises:
        ValueError: the shapes do not fit each other, or a value is not finite.
    """
    x, spikes = arrays["x"], arrays["spikes"]
    alike = arrays["x_adv"].shape == x.shape and arrays["spikes_adv"].shape == spikes.shape
    if not (alike and x.ndim in (4, 5) and spikes.ndim == 5 and 0 not in (*x.shape, *spikes.shape)):
        raise ValueError("the arrays are not images and spikes")
    if not len(x) == len(spikes) == arrays["example"].size == len(arrays["example"]):
        raise ValueError("the arrays differ in their numbers of examples")
    if not all(np.isfinite(arrays[name]).all() for name in ("x", "x_adv", "spikes", "spikes_adv")):
        raise ValueError("the arrays hold values that are not finite")


def _pictures(x: Array, attacked: Array) -> tuple[Array, Array]:
    """Both images for display: images unchanged, events `[T, C, H, W]` as their scaled sum over time."""
    if x.ndim == 3:
        return x, attacked
    seen, changed = (events.astype(np.float32).sum(0) for events in (x, attacked))
    most = max(1.0, float(seen.max()), float(changed.max()))
    return seen / most, changed / most


def _rows(cell: Path) -> dict[int, dict[str, Any]]:
    names = ["example", "label", "right_clean", "right", "prediction"]
    table = pq.ParquetFile(cell / TABLE).read(use_threads=False)
    present = [name for name in names if name in table.column_names]
    return {row["example"]: row for row in table.select(present).to_pylist()}
