"""Headline numbers are counted again from the tables of cells: honest ones agree, and changed ones do not."""

import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.nearest.linearised import DeepFool
from spikeproof.decoders import Count, FirstSpike
from spikeproof.encoders import Bernoulli, Latency
from spikeproof.errors import DamagedError
from spikeproof.evaluation.columns import stored
from spikeproof.evaluation.distances import evaluate_distances
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.run.parquet import table
from spikeproof.experiments.run.queue import imports
from spikeproof.experiments.run.queue.imports import import_cells
from spikeproof.experiments.run.queue.recount import contradictions
from spikeproof.experiments.run.store import Store, as_json
from spikeproof.experiments.study.cells import Cell
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf

SPEC = ModelSpec(Bernoulli(4), MLP((12,)), LIF(), ATan(), Count(), (1, 4, 4), 3)
SPECS = {3: SPEC, 1: replace(SPEC, encoder=Latency(4), decoder=FirstSpike())}
"""Number of draws -> a model."""


@pytest.fixture(scope="module", params=SPECS)
def measured(request):
    """Kind of cell -> its numbers and its table, as they lie in a store."""
    model, draws = SPECS[request.param].build(Key.of(0)).eval(), request.param
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(23, 1, 4, 4, generator=generator)
    y = torch.randint(0, 3, (23,), generator=generator)
    clean = evaluate_clean(model, x, y, Key.of(1), draws=draws)
    attacked = evaluate_attack(model, PGD(steps=2), Linf(0.2), x, y, clean, Key.of(1), draws=draws)
    changed = {name.removeprefix("clean_"): value for name, value in clean.metrics().items()}
    nearest = evaluate_distances(model, DeepFool(steps=3), Linf(1.0), x, y, clean, Key.of(1), draws=draws)
    outcomes = {"clean": clean, "attack": attacked, "probe": clean, "distance": nearest}
    numbers = {kind: found.metrics() for kind, found in outcomes.items()} | {"probe": changed}
    return {
        kind: (json.loads(as_json(numbers[kind])), pq.read_table(io.BytesIO(table(stored(found)))))
        for kind, found in outcomes.items()
    }


@pytest.mark.parametrize("kind", ["clean", "attack", "probe", "distance"])
def test_numbers_that_were_measured_follow_from_their_table(measured, kind):
    assert contradictions(kind, *measured[kind]) == []


COUNTED = {
    "clean": ["clean_accuracy", "clean_argmax", "clean_all_draws", "clean_vote"],
    "attack": ["robust_accuracy", "robust_argmax", "robust_all_draws", "robust_vote", "budget_violations"],
    "probe": ["accuracy", "argmax", "all_draws", "vote"],
    "distance": [
        *("counted", "found", "found_low", "found_high", "median_distance", "median_low", "median_high"),
        *("unconfirmed_share", "forward_queries", "backward_queries"),
    ],
}
ALWAYS = ["ci_low", "ci_high", "tie_share", "silent_share", "mean_exit"]


@pytest.mark.parametrize("kind", COUNTED)
def test_a_number_that_was_changed_does_not(measured, kind):
    metrics, rows = measured[kind]
    for name in COUNTED[kind] + (ALWAYS if kind != "distance" else []):
        if metrics[name] is None:
            assert contradictions(kind, {**metrics, name: 0.5}, rows)
            continue
        wrong = contradictions(kind, {**metrics, name: metrics[name] + 0.01}, rows)
        assert [words.partition(" ")[0] for words in wrong] == [name]
        assert contradictions(kind, {**metrics, name: float("nan")}, rows)


def test_images_that_were_found_cannot_be_told_as_none(measured):
    metrics, rows = measured["distance"]
    assert metrics["median_distance"] is not None
    wrong = contradictions("distance", {**metrics, "median_distance": None}, rows)
    assert [words.partition(", and")[0] for words in wrong] == ["median_distance is missing"]
    nowhere = rows.set_column(
        rows.column_names.index("distance"), "distance", pa.array([float("inf")] * len(rows))
    )
    wrong = {words.partition(" ")[0] for words in contradictions("distance", metrics, nowhere)}
    assert {"found", "median_distance"} <= wrong


def test_what_a_cell_or_its_table_lacks_is_not_compared(measured):
    metrics, rows = measured["attack"]
    assert contradictions("attack", {"n": metrics["n"], "robust_vote": None}, rows) == []
    assert contradictions("attack", {**metrics, "tie_share": 0.5}, rows.select(["right"])) == []
    assert contradictions("inspect", metrics, None) == []
    assert (
        contradictions(
            "certify",
            {"certified": 0.5},
            rows.rename_columns(["certified" if name == "tie" else name for name in rows.column_names]),
        )
        != []
    )


def other_machine(root, measured, address=None, **numbers):
    """Write a store with one attack, some of whose numbers are changed."""
    metrics, rows = measured["attack"]
    spec = {"train": "f" * 32, "attack": {"name": "pgd"}, "threat": {"name": "linf"}, "epsilon": 0.2}
    record, file = Cell.of("attack", spec).record(), io.BytesIO()
    record["address"] = address or record["address"]
    told = {**metrics, "gradient_free": False, **numbers}
    pq.write_table(rows, file)
    documents = {"cell.json": record, "metrics.json": told, "provenance.json": {"seconds": 1.0}}
    files = {name: as_json(content) for name, content in documents.items()}
    Store(root).put(record["address"], {**files, "examples.parquet": file.getvalue()})
    plan = {"study": "s", "spec": {}, "plan": [record], "cells": [record["address"]]}
    (root / "study.json").write_bytes(as_json(plan))


def test_an_import_refuses_a_cell_under_the_address_of_another(measured, tmp_path):
    other_machine(tmp_path / "other", measured, address="a" * 32)
    found = import_cells(tmp_path / "here", tmp_path / "other")
    assert not found.copied
    assert [words.endswith("holds a cell that belongs elsewhere") for words in found.damaged] == [True]


def test_a_cell_that_changes_while_it_is_copied_is_not_stored(measured, tmp_path, monkeypatch):
    other_machine(tmp_path / "other", measured)
    read = imports.bytes_of

    def changed(path, most):
        return read(path, most) + b" " * ("cells" in path.parts)

    monkeypatch.setattr(imports, "bytes_of", changed)
    with pytest.raises(DamagedError, match="changed while it was copied"):
        import_cells(tmp_path / "here", tmp_path / "other")
    assert not Store(tmp_path / "here").addresses()


@pytest.mark.parametrize(("accuracy", "copied"), [(None, 1), (0.99, 0)])
def test_an_import_refuses_a_cell_that_contradicts_itself(measured, tmp_path, accuracy, copied):
    other_machine(tmp_path / "other", measured, **({} if accuracy is None else {"robust_accuracy": accuracy}))
    found = import_cells(tmp_path / "here", tmp_path / "other")
    assert (len(found.copied), len(found.damaged)) == (copied, 1 - copied)
    assert accuracy is None or "robust_accuracy is 0.99, and its table gives" in found.damaged[0]
