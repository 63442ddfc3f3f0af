"""The data of a page: every number once, as columns of a JSON document that the scripts of the page read."""

from __future__ import annotations

import base64
import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from spikeproof.auditing.checks import DOUBTFUL, PRELIMINARY, WITHHELD
from spikeproof.errors import InputError
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.gathered.across_seeds import SeedComparison, SeedMean, Trainings
from spikeproof.experiments.read.ranking import Ranking, most_separating
from spikeproof.experiments.read.record import Record, SpikeRecord, value_of, values_of
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.read.trained import Curve, training_curves
from spikeproof.experiments.read.worst import WorstCase, columns_of
from spikeproof.experiments.run.parquet import Columns
from spikeproof.plainfiles import bytes_of
from spikeproof.report import tables
from spikeproof.report.charts.exhibits import Array, Exhibit, first_of
from spikeproof.report.provenance import Sources

__all__ = ["Limits", "as_script", "embedded"]

Point = TypeVar("Point")

Json = dict[str, Any]  # a JSON document, whose values are of many types

DIGITS = 5
"""Decimals of shares in a page; the tables beside it have all."""

MOST_EXAMPLES = 600
"""Attacked examples in a page, those behind worst cases first."""

MOST_TRACED, MOST_POTENTIALS = 100, 6
"""Analyses whose traces a page shows, and neurons of a layer whose potentials it draws."""

MOST_PAIRS, MOST_CURVES = 2_000, 300
"""Pairs of architectures, and trainings with their epochs, in a page."""

MOST_STEPS = 200
"""Points of a curve over the steps of an attack; longer ones are thinned."""


@dataclass(frozen=True)
class Limits:
    """How much a page embeds.

    Args:
        rows: largest number of numbers, worst cases before single attacks.
        curves: whether each attack has its curve over steps.
        examples: largest size of attacked examples in bytes; `MOST_EXAMPLES` is their largest number.
        confusions: largest number of confusion matrices.
    """

    rows: int
    curves: bool
    examples: int
    confusions: int


def as_script(document: Json) -> str:
    """A JSON document for the inside of a `script` element: no text in it can end the element.

    Example:
        >>> as_script({"name": "</script>"})
        '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def embedded(
    opened: Opened,
    records: Sequence[Record],
    origin: Sources,
    ranked: Sequence[Ranking],
    spikes: Sequence[SpikeRecord],
    trainings: Trainings,
    limits: Limits,
) -> Json:
    """The document that a page embeds.

    Args:
        opened: the study, in whose directory relative paths in the records start.
        records: the headline numbers of the study, with relative paths.
        origin: where they come from.
        ranked: the order of the models at every budget.
        spikes: what an attack does to the spikes of each layer, with relative paths.
        trainings: what several seeds show together.
        limits: how much fits.
    """
    axes = tables.varying(records) or ["encoder"]
    models = tables.headlines(records)
    places = {row.model["model"]: place for place, row in enumerate(models)}
    budgets = tables.budgets(records)
    attacked = tables.attacked(records)
    ordered = sorted(attacked, key=lambda row: row["attack"] != WORST_CASE)
    kept = ordered[: limits.rows]
    withheld = {_place(row) for row in attacked if row["verdict"] == WITHHELD}
    texts = _Texts()
    trained = {Path(row.model["train_cell"]).name: place for place, row in enumerate(models)}
    curves = [each for each in training_curves(opened) if each.address in trained and each.epochs]
    top = most_separating(ranked)
    costs = {record["model"]: record for record in spikes}
    return {
        "study": origin.plan["study"],
        "axes": axes,
        "shared": _shared(records),
        "budgets": [[*budget, tables.epsilon_text(budget.epsilon)] for budget in budgets],
        "first": budgets.index(tables.Budget(top.threat, top.epsilon)) if top else None,
        "worst": WORST_CASE,
        "withheld": WITHHELD,
        "models": [_model(row.model, axes, costs.get(row.model["model"])) for row in models],
        "rows": _rows(kept, withheld, places, budgets, texts),
        "curves": limits.curves,
        "efforts": _efforts(kept, withheld) if limits.curves else {},
        "rowsLeftOut": len(attacked) - len(kept),
        "seeds": _seeds(trainings.means, models, axes, budgets),
        "across": [_across(row, budgets) for row in trainings.compared[:MOST_PAIRS]],
        "acrossLeftOut": len(trainings.compared[MOST_PAIRS:]),
        "trainings": [_training(each, trained[each.address]) for each in curves[:MOST_CURVES]],
        "trainingsLeftOut": len(curves[MOST_CURVES:]),
        "confusions": _confusions(opened, kept, attacked, limits.confusions),
        "examples": _examples(opened.directory, kept, limits.examples),
        "layers": _layers(opened.directory, spikes, places),
        "cells": _cells(origin, {Path(row["cell"]).name for row in kept}, limits.rows),
        "commands": [_command(text) for text in origin.environments],
        "texts": texts.all,
    }


def _shared(records: Sequence[Record]) -> dict[str, str]:
    """The parts that all models have, by which a report can be compared with another study."""
    values = {axis: {*map(str, values_of(records, axis))} for axis in tables.ARCHITECTURE}
    return {axis: next(iter(found)) for axis, found in values.items() if len(found) == 1}


_Place = tuple[str, tables.Budget]


def _place(row: Record) -> _Place:
    """The model and the budget of a number."""
    return row["model"], tables.budget_of(row)


@dataclass
class _Texts:
    """Texts by number, each once."""

    all: list[str] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.all)
            self.all.append(text)
        return self._known[text]


def _short(value: float | None, digits: int = DIGITS) -> float | None:
    """A number with few decimals; None if it is missing or not finite."""
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def _model(record: Record, axes: Sequence[str], cost: SpikeRecord | None) -> Json:
    row: Mapping[str, object] = {**record}
    return {
        "name": tables.label(record, axes),
        "axes": [str(row[axis]) for axis in axes],
        "n": record["n"],
        "clean": _short(record["clean_accuracy"]),
        "low": _short(record["clean_ci_low"]),
        "high": _short(record["clean_ci_high"]),
        "ties": _short(record["tie_share"]),
        "silent": _short(record["silent_share"]),
        "spikes": _short(record["spikes_per_inference"], 2),
        "exit": _short(record["mean_exit"], 3),
        "energy": None if cost is None else _short(cost["cost"]["picojoules"] / 1000, 4),
        "train": Path(record["train_cell"]).name,
        "cell": Path(record["clean_cell"]).name,
    }


def _rows(
    kept: Sequence[Record],
    withheld: Set[_Place],
    places: Mapping[str, int],
    budgets: Sequence[tables.Budget],
    texts: _Texts,
) -> Json:
    """The numbers as columns; texts are named by their number.

    Accuracies are null where the worst case is withheld, also those of the single attacks behind it.
    """
    numbered = {budget: place for place, budget in enumerate(budgets)}
    hidden = [_place(row) in withheld for row in kept]
    verdicts = [WITHHELD if hide else row["verdict"] or "" for row, hide in zip(kept, hidden, strict=True)]

    def shares(name: str) -> list[float | None]:
        found = [value_of(row, name) for row in kept]
        return [None if hide else _short(_number(value)) for value, hide in zip(found, hidden, strict=True)]

    def text_numbers(lists: Iterable[Iterable[str]]) -> list[list[int]]:
        return [[texts.number(text) for text in each] for each in lists]

    return {
        "model": [places[row["model"]] for row in kept],
        "budget": [numbered[tables.budget_of(row)] for row in kept],
        "attack": [texts.number(row["attack"]) for row in kept],
        "accuracy": shares("robust_accuracy"),
        "low": shares("ci_low"),
        "high": shares("ci_high"),
        "n": [row["n"] for row in kept],
        "verdict": [texts.number(verdict) for verdict in verdicts],
        "certified": [_short(row["certified"]) for row in kept],
        "certifiedLow": [_short(row["certified_low"]) for row in kept],
        "certifiedHigh": [_short(row["certified_high"]) for row in kept],
        "exit": [_short(row["adversarial_mean_exit"], 3) for row in kept],
        "ties": [_short(row["adversarial_tie_share"]) for row in kept],
        "warnings": text_numbers(row["warnings"] for row in kept),
        "missing": text_numbers(row["missing"] for row in kept),
        "cell": [Path(row["cell"]).name for row in kept],
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _efforts(kept: Sequence[Record], withheld: Set[_Place]) -> dict[int, Json]:
    """Row -> the evidence of the attack, with its curves over steps."""
    found = {}
    for place, row in enumerate(kept):
        if (effort := row["effort"]) is None or _place(row) in withheld:
            continue
        losses = [*enumerate(effort["loss_by_step"])]
        found[place] = {
            "attacked": effort["attacked"],
            "forward": effort["forward_queries"],
            "backward": effort["backward_queries"],
            "zero": _short(effort["zero_gradient_share"]),
            "distance": _short(effort["mean_distance"]),
            "steps": effort["steps"],
            "fall": [[step, _short(share)] for step, share in _thinned(effort["fall"])],
            "loss": [[step, _short(loss, 4)] for step, loss in _thinned(losses)],
        }
    return found


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_STEPS` of the points, the first and the last among them."""
    if len(points) <= MOST_STEPS:
        return list(points)
    return [points[place] for place in np.linspace(0, len(points) - 1, MOST_STEPS).astype(int)]


def _seeds(
    means: Sequence[SeedMean],
    models: Sequence[tables.Headline],
    axes: Sequence[str],
    budgets: Sequence[tables.Budget],
) -> list[Json]:
    """Means over trainings, with their intervals, by architecture."""
    named = {tables.architecture(row.model): row.model for row in reversed(models)}
    found = dict[tuple[object, ...], Json]()
    for row in means:
        place = tables.architecture(row)
        label = tables.label(named[place], tables.without_seed(axes)) or ALL
        blank = {"name": label, "trainings": len(row["seeds"]), "n": row["n"], "clean": [None], "worst": []}
        ends = [row[name] for name in ("low", "high", "training_low", "training_high", "lowest", "highest")]
        mark = DOUBTFUL if row["doubtful"] else PRELIMINARY if row["preliminary"] else ""
        low, high, *others = map(_short, ends)
        numbers = [_short(row["mean"]), low, high, mark, *others]
        budget = tables.Budget(row["threat"], row["epsilon"])
        if budget in budgets:
            found.setdefault(place, blank)["worst"].append([budgets.index(budget), *numbers])
        else:
            found.setdefault(place, blank)["clean"] = numbers
    return [*found.values()]


ALL = "all trainings"
"""The name of an architecture in a study that has no other."""


def _across(row: SeedComparison, budgets: Sequence[tables.Budget]) -> Json:
    """Two architectures over their trainings; the number of their budget is -1 for clean accuracies."""
    budget = tables.Budget(row["threat"], row["epsilon"])
    return {
        "b": budgets.index(budget) if budget in budgets else -1,
        **{name: row[name] for name in ("part", "first", "second", "others", "seeds", "n", "agreeing")},
        "difference": _short(row["difference"]),
        "low": _short(row["ci_low"]),
        "high": _short(row["ci_high"]),
        "p": float(f"{row['adjusted']:.3g}"),
        "shown": row["shown"],
    }


def _training(found: Curve, model: int) -> Json:
    """The epochs of a training: number, loss, validation accuracy, seconds and processor seconds of each."""
    return {
        "model": model,
        "parameters": found.parameters,
        "overfitted": found.overfitted,
        "epochs": [
            [epoch.number, *(_short(value) for value in epoch[1:])] for epoch in _thinned(found.epochs)
        ],
    }


def _confusions(
    opened: Opened, kept: Sequence[Record], attacked: Sequence[Record], most: int
) -> dict[int, list[list[list[int]]]]:
    """Row of a worst case -> triples of a class, an answer and how often, clean and attacked.

    The answer to a clean image comes from the clean cell; the answer to an attacked image belongs to the
    attack that counts for it. A tie is the answer -1.
    """
    cells = defaultdict[_Place, list[str]](list)
    for row in attacked:
        if row["attack"] != WORST_CASE:
            cells[_place(row)].append(row["cell"])
    found: dict[int, list[list[list[int]]]] = {}
    for place, row in enumerate(kept):
        if row["attack"] != WORST_CASE or row["verdict"] == WITHHELD:
            continue
        if len(found) >= most:
            break
        try:
            clean = columns_of(opened.cell(row["clean_cell"]))
            attacks = [columns_of(opened.cell(cell)) for cell in cells[_place(row)]]
            found[place] = [
                _counted(clean["label"], clean["prediction"]),
                _counted(clean["label"], _answers(clean, attacks)),
            ]
        except (
            InputError,
            OSError,
            KeyError,
            ValueError,
        ):  # numbers that an audit measured on other examples
            continue
    return found


def _answers(clean: Columns, attacks: Sequence[Columns]) -> Array:
    return WorstCase(clean, attacks).column("prediction")


def _counted(labels: Array, answers: Array) -> list[list[int]]:
    pairs, counts = np.unique(np.stack([labels, answers], 1).astype(int), axis=0, return_counts=True)
    return np.concatenate([pairs, counts[:, None]], 1).tolist()  # type: ignore[no-any-return]


def _examples(directory: Path, kept: Sequence[Record], most: int) -> dict[str, Json]:
    """Cell of an attack -> one attacked example, as far as they fit; the cells behind worst cases first."""
    found: dict[str, Json] = {}
    size = 0
    for path, row in {row["cell"]: row for row in kept}.items():
        if size >= most or len(found) >= MOST_EXAMPLES:
            break
        exhibit = first_of(row, directory)
        if exhibit is not None:
            found[Path(path).name] = pictured = _example(exhibit)
            size += sum(len(value) for value in pictured.values() if isinstance(value, str))
    return found


def _example(exhibit: Exhibit) -> Json:
    spikes = exhibit.input if exhibit.spiking else None
    return {
        "example": exhibit.example,
        "label": exhibit.label,
        "before": exhibit.before,
        "after": exhibit.after,
        "shape": list(exhibit.image.shape),
        "image": _levels(exhibit.image),
        "attacked": _levels(exhibit.attacked),
        "steps": None if spikes is None else len(spikes),
        "spikes": None if spikes is None else _bits(spikes),
        "attackedSpikes": None if spikes is None else _bits(exhibit.attacked_input),
    }


def _levels(image: Array) -> str:
    return _text(np.round(255 * np.clip(image.astype(float), 0, 1)).astype(np.uint8))


def _bits(spikes: Array) -> str:
    """Spikes [T, ...] as bits, the inputs of one time step after the other."""
    return _text(np.packbits(spikes.reshape(-1) > 0))


def _text(values: Array) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _layers(directory: Path, spikes: Sequence[SpikeRecord], places: Mapping[str, int]) -> list[Json]:
    """What an attack changes in each layer: rates, parts of the distance, and the traces of one image."""
    return [
        {
            "model": places.get(record["model"]),
            "where": f"{record['threat']} {tables.epsilon_text(record['epsilon'])}",
            "layers": [
                [
                    layer["layer"],
                    layer["neurons"],
                    *(_short(layer[name]) for name in ("rate", "attacked_rate", "counts", "times")),
                ]
                for layer in record["layers"]
            ],
            "traces": _traces(directory / record["cell"], len(record["layers"])) if i < MOST_TRACED else [],
        }
        for i, record in enumerate(spikes)
    ]


def _traces(cell: Path, layers: int) -> list[Json]:
    """Spikes of one image in each layer, and the potentials that moved most; nothing if none are stored."""
    try:
        arrays = load(bytes_of(cell / "traces.safetensors"))
        return [_layer_traces(arrays, number) for number in range(layers)]
    except (InputError, SafetensorError, KeyError, ValueError):  # an analysis of an earlier version
        return []


def _layer_traces(arrays: Mapping[str, Array], number: int) -> Json:
    clean, attacked = arrays[f"{number}.spikes"], arrays[f"{number}.attacked_spikes"]
    if clean.ndim != 2 or clean.shape != attacked.shape:
        raise ValueError("the traces are not those of one image")
    potentials = []
    if (before := arrays.get(f"{number}.potential")) is not None:
        after = arrays[f"{number}.attacked_potential"]
        moved = np.abs(after - before).sum(0)
        chosen = np.sort(np.argsort(-moved, kind="stable")[:MOST_POTENTIALS])
        potentials = [
            [
                int(neuron),
                *([_short(value, 3) for value in each[:, neuron].tolist()] for each in (before, after)),
            ]
            for neuron in chosen
        ]
    return {
        "steps": clean.shape[0],
        "neurons": clean.shape[1],
        "spikes": _bits(clean),
        "attackedSpikes": _bits(attacked),
        "potentials": potentials,
    }


def _cells(origin: Sources, wanted: Set[str], most: int) -> dict[str, list[object]]:
    """Cell -> its kind, time of computing, time of its end, number of its environment, and spec."""
    first = [cell for cell in origin.origins if cell.address in wanted]
    others = [cell for cell in origin.origins if cell.address not in wanted]
    return {
        cell.address: [
            cell.kind,
            _short(cell.seconds, 2),
            cell.finished,
            cell.environment,
            cell.spec,
        ]
        for cell in list(chain(first, others))[:most]
    }


def _command(environment: str) -> str:
    """The command line that an environment notes."""
    noted = json.loads(environment).get("command")
    return shlex.join(map(str, noted)) if isinstance(noted, list) else ""
