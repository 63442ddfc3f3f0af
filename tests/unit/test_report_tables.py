import csv
import io
import json
import math
import sys
from pathlib import Path

import pytest

from spikeproof.experiments.read.record import Effort
from spikeproof.report import tables

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import record

HOSTILE = r"<b>50% & more_\alpha{x}$#~^</b>"


def test_a_headline_row_is_a_model_with_its_worst_cases_and_every_warning_once():
    rows = tables.headlines(
        [
            record(attack="pgd", warnings=["w: 1"]),
            record(warnings=["w: 1", "w: 2"]),
            record(model="cells/z", epsilon=0.1),
        ]
    )
    assert [row.model["model"] for row in rows] == ["cells/a", "cells/z"]
    assert rows[0].warnings == ("w: 1", "w: 2")
    assert list(rows[0].worst) == [("linf", 8 / 255)]
    assert list(rows[1].worst) == [("linf", 0.1)]


def test_a_model_whose_attacks_are_not_finished_has_no_worst_case():
    (row,) = tables.headlines([record(attack="pgd")])
    assert row.worst == {}


def test_budgets_are_in_rising_order_and_a_study_without_attacks_has_none():
    rows = [record(epsilon=0.3), record(epsilon=0.1), record(threat="l2", epsilon=1.0), record(epsilon=0.1)]
    assert tables.budgets(rows) == [("l2", 1.0), ("linf", 0.1), ("linf", 0.3)]
    assert tables.budgets([record(attack="none", threat="none", epsilon=0.0)]) == []


@pytest.mark.parametrize(
    ("epsilon", "text"), [(4 / 255, "4/255"), (0.2, "0.2"), (1.0, "1"), (0.031, "0.031"), (math.pi, "3.142")]
)
def test_an_epsilon_is_written_as_people_write_it(epsilon, text):
    assert tables.epsilon_text(epsilon) == text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_number_that_is_none_is_a_dash(value):
    assert tables.percent(value) == tables.number(value) == tables.MISSING


def test_csv_has_every_field_of_every_record_and_survives_hostile_names():
    hostile = 'a,"b"\nc<script>'
    text = tables.to_csv([record(encoder=hostile), record(encoder="=1+1", warnings=["w: 1", "w: 2"])])
    first, second = csv.DictReader(io.StringIO(text))
    assert [name for name in record() if name != "effort"] == list(first)[: len(record()) - 1]
    assert first["encoder"] == hostile
    assert float(first["robust_accuracy"]) == 0.123
    assert float(first["epsilon"]) == 8 / 255
    assert second["encoder"] == "'=1+1"
    assert second["warnings"] == "w: 1; w: 2"


def test_csv_columns_are_unique_and_say_what_the_json_says():
    effort = dict.fromkeys(Effort.__annotations__, 0.25) | {"steps": 40, "fall": [], "loss_by_step": [1.0]}
    row = record(steps=8, effort=effort, n=150)
    lines = list(csv.reader(io.StringIO(tables.to_csv([row]))))
    header, values = lines
    assert len(header) == len(set(header)) == len(values)
    (told,) = csv.DictReader(io.StringIO(tables.to_csv([row])))
    assert (told["steps"], told["attack_steps"]) == ("8", "40")
    for name, value in json.loads(json.dumps(row)).items():
        if name != "effort" and isinstance(value, int | float | str):
            assert told[name] == str(value), name


def test_latex_is_a_booktabs_table_with_numbers_and_escaped_names():
    text = tables.to_latex([record(encoder=HOSTILE), record(model="cells/z", encoder="plain")])
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert {r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"} <= set(body)
    row = next(line for line in body if "more" in line)
    assert r"\textless{}b\textgreater{}50\% \& more\_\textbackslash{}alpha\{x\}\$\#" in row
    assert r"12.3 {\scriptsize {[}7.1, 20.1{]}}" in row
    assert r"90.0 {\scriptsize {[}82.6, 94.5{]}}" in row
    columns = next(line for line in body if "begin" in line).count("r") - 3  # those of begin and tabular
    assert all(line.count(" & ") == body[2].count(" & ") for line in body[2:-2] if line.endswith("\\\\"))
    assert columns > 0
    assert r"linf 8/255" in body[2]
    assert r" & 94.0 / 21.0 & " in row  # by argmax, clean and attacked


def test_latex_leaves_a_dash_where_a_worst_case_is_missing():
    text = tables.to_latex([record(encoder="a", epsilon=0.1), record(encoder="b", model="z", attack="pgd")])
    assert text.count(" & -- & ") + text.count(" & -- ") >= 2


def test_tables_of_no_records_are_empty_tables():
    assert tables.headlines([]) == []
    assert tables.to_csv([]).count("\n") == 1
    assert r"\end{tabular}" in tables.to_latex([])


def test_a_rule_is_named_only_where_nothing_else_tells_models_apart():
    by_network = [record(network="mlp", rule="long"), record(network="convnet", rule="short")]
    assert tables.varying(by_network) == ["network"]
    assert tables.varying([*by_network, record(network="mlp", rule="other")]) == ["network", "rule"]
