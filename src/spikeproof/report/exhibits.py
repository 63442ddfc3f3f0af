"""Exhibits: for each code one image, what an attack made of it, and the input spikes of both."""

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
from spikeproof.plainfiles import bytes_of
from spikeproof.report.tables import attacks_of

__all__ = ["Exhibit", "exhibits", "middle"]

ANALOGUE = ("relu", "softplus")
"""The neurons of networks that do not spike."""

Array = NDArray[Any]  # of numbers of any type, or of panels


@dataclass(frozen=True)
class Exhibit:
    """One attacked example.

    Args:
        record: the attack that made it.
        example: its number in the test part.
        label: the class it belongs to.
        before: the model's answer to the image as it is; -1 for a tie, None when unknown.
        after: the answer to the attacked image; -1 for a tie.
        succeeded: whether the attack turned a right answer into a wrong one, in every draw.
        image: as it is, in [0, 1]; for events their sum over time.
        attacked: what the attack made of it.
        input: what the network sees of the image: spikes, or values for an analog code.
        attacked_input: what it sees of the attacked image.

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
        """Whether the network sees spikes."""
        return bool(self.input.dtype == np.uint8)


def exhibits(records: Sequence[Record], directory: Path) -> dict[str, Exhibit | None]:
    """An exhibit for every code, or None where no attack left its images.

    Preferred are, in this order: examples that an attack turned, attacks by gradient, a middle epsilon, the
    attack that hurts most, and a wrong answer rather than a tie.

    Args:
        records: of one study.
        directory: what relative paths in the records start from.
    """
    chosen: dict[str, Exhibit | None] = {}
    for code in _codes(records):
        candidates = [record for record in attacks_of(records) if record["encoder"] == code]
        chosen[code] = _choose(candidates, directory)
    return chosen


def _codes(records: Sequence[Record]) -> Iterable[str]:
    """The codes of spiking networks; those of ANNs only where there is no other."""
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
        kept = list(_of_cell(record, directory))
        best = max(kept, key=lambda exhibit: (exhibit.succeeded, exhibit.after >= 0), default=None)
        if best is not None and best.succeeded:
            return best
        fallback = fallback or best
    return fallback


def middle(epsilons: Iterable[float]) -> float:
    """The epsilon in the middle of a list, the smaller one of two; 0 where there is none.

    Example:
        >>> middle([0.3, 0.1, 0.2]), middle([])
        (0.2, 0.0)
    """
    ordered = sorted(set(epsilons))
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


def _of_cell(record: Record, directory: Path) -> Iterator[Exhibit]:
    """Every example that an attack cell kept; none where its files are missing or do not fit."""
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
    """Refuse arrays that are no pictures and spikes of the same examples.

    Raises:
        ValueError: they are something else.
    """
    x, spikes = arrays["x"], arrays["spikes"]
    alike = arrays["x_adv"].shape == x.shape and arrays["spikes_adv"].shape == spikes.shape
    if not (alike and x.ndim in (4, 5) and spikes.ndim == 5 and 0 not in (*x.shape, *spikes.shape)):
        raise ValueError("no pictures and spikes")
    if not len(x) == len(spikes) == arrays["example"].size == len(arrays["example"]):
        raise ValueError("other numbers of examples")
    if not all(np.isfinite(arrays[name]).all() for name in ("x", "x_adv", "spikes", "spikes_adv")):
        raise ValueError("no numbers")


def _pictures(x: Array, attacked: Array) -> tuple[Array, Array]:
    """What there is to look at: images as they are; of events `[T, C, H, W]` their sum over time, scaled."""
    if x.ndim == 3:
        return x, attacked
    seen, changed = (events.astype(np.float32).sum(0) for events in (x, attacked))
    most = max(1.0, float(seen.max()), float(changed.max()))
    return seen / most, changed / most


def _rows(cell: Path) -> dict[int, dict[str, Any]]:
    names = ["example", "label", "right_clean", "right", "prediction"]
    table = pq.read_table(cell / "examples.parquet")
    present = [name for name in names if name in table.column_names]
    return {row["example"]: row for row in table.select(present).to_pylist()}
