import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from spikeproof.command.cli import cli
from spikeproof.experiments.read import labels as naming
from spikeproof.experiments.read import results

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench


def row(attack, epsilon, accuracy, gradient_free=False):
    return {
        "attack": attack,
        "threat": "linf",
        "epsilon": epsilon,
        "robust_accuracy": accuracy,
        "gradient_free": gradient_free,
        "warnings": [],
    }


def test_accuracy_that_rises_with_epsilon_is_a_warning_where_it_rose():
    rows = [row("pgd", 0.3, 0.25), row("pgd", 0.2, 0.3), row("pgd", 0.1, 0.12), row("fgsm", 0.2, 0.1)]
    results._warn_rising(rows)
    assert [r["warnings"] for r in rows] == [
        ["accuracy rises with epsilon: 12.0% at 0.1 -> 25.0% at 0.3"],
        ["accuracy rises with epsilon: 12.0% at 0.1 -> 30.0% at 0.2"],
        [],
        [],
    ]


def test_options_are_named_only_where_they_tell_members_apart():
    latency = {"name": "latency", "steps": 4, "backward": {"name": "time-shift"}}
    members = [
        latency,
        {**latency, "steps": 8},
        {"name": "direct", "steps": 8},
        {"name": "reversed", "code": latency},
        {"name": "reversed", "code": {**latency, "name": "early-burst"}},
        {"name": "pgd", "surrogate": None},
        {"name": "pgd", "surrogate": {"name": "triangle", "width": 1.0}},
        {"name": "mlp", "hidden": [4]},
        {"name": "mlp", "hidden": [4, 4]},
    ]
    assert list(naming.labels(members).values()) == [
        "latency(steps=4)",
        "latency(steps=8)",
        "direct",
        "reversed(latency)",
        "reversed(early-burst)",
        "pgd",
        "pgd(surrogate=triangle)",
        "mlp(hidden=4)",
        "mlp(hidden=4-4)",
    ]


def test_a_code_without_steps_takes_one_and_one_around_another_takes_its_steps():
    assert results._steps({"name": "spike-times", "early": 0.1, "backward": {"name": "x"}}) == 1
    assert results._steps({"name": "reversed", "code": {"name": "latency", "steps": 7}}) == 7
    assert results._steps({"name": "fused", "codes": [{"name": "direct", "steps": 3}]}) == 3


@pytest.fixture
def lacking(tmp_path):
    """A study in which one attack failed at 0.1 for the first model, one is missing at 0.2 for the second."""
    bench = Bench(tmp_path)
    for encoder in ("latency", "direct"):
        train = bench.model(encoder)
        for epsilon in (0.1, 0.2):
            bench.attack(train, "pgd", epsilon, 0.5)
            bench.attack(train, "square", epsilon, 0.4 if encoder == "latency" else 0.6, gradient_free=True)
    return bench.finish()


def lose(directory, encoder, attack, epsilon, error=None):
    """Delete a cell of a study as if it had failed, or had not been computed if there is no error."""
    plan = json.loads((directory / "study.json").read_bytes())["plan"]
    trains = {c["address"]: c["spec"]["model"]["encoder"]["name"] for c in plan if c["kind"] == "train"}
    [cell] = [
        c
        for c in plan
        if c["kind"] == "attack"
        and (trains[c["spec"]["train"]], c["spec"]["attack"]["name"], c["spec"]["epsilon"])
        == (encoder, attack, epsilon)
    ]
    for path in (directory / "cells" / cell["address"]).iterdir():
        path.unlink()
    (directory / "cells" / cell["address"]).rmdir()
    if error:
        (directory / "failures").mkdir(exist_ok=True)
        note = {"kind": "attack", "spec": cell["spec"], "error": error, "trace": ""}
        (directory / "failures" / f"{cell['address']}.json").write_text(json.dumps(note))


def worst(directory):
    rows = results.records(directory)
    return {(row["encoder"], row["epsilon"]): row for row in rows if row["attack"] == results.WORST_CASE}


def test_a_worst_case_is_that_of_the_attacks_that_ran_and_names_the_one_that_did_not(lacking):
    whole = worst(lacking)
    assert [row["missing"] for row in whole.values()] == [[]] * 4
    lose(lacking, "latency", "square", 0.1, "InputError: no luck with three classes")
    found = worst(lacking)
    assert list(found) == list(whole)
    row = found["latency", 0.1]
    assert whole["latency", 0.1]["robust_accuracy"] == 0.4
    assert row["robust_accuracy"] == 0.5  # of pgd alone, an upper bound of the same quantity
    assert row["missing"] == ["square"]
    assert row["verdict"] == "doubtful"
    [reason] = [text for text in row["warnings"] if text.startswith("evidence missing")]
    assert "square at 0.1" in reason
    assert "no luck with three classes" in reason
    assert [part["attack"] for part in row["broken_by"]] == ["pgd"]
    larger = found["latency", 0.2]  # a smaller change that breaks an image breaks it here too
    assert (larger["missing"], larger["verdict"]) == ([], "doubtful")
    assert larger["robust_accuracy"] == whole["latency", 0.2]["robust_accuracy"]
    assert found["direct", 0.1] == whole["direct", 0.1]


def test_an_attack_that_is_not_computed_yet_is_named_as_well(lacking):
    lose(lacking, "direct", "pgd", 0.2)
    row = worst(lacking)["direct", 0.2]
    assert (row["robust_accuracy"], row["missing"], row["verdict"]) == (0.6, ["pgd"], "doubtful")
    assert any("`spikeproof run` computes it" in text for text in row["warnings"])
    assert worst(lacking)["direct", 0.1]["missing"] == []


def test_there_is_no_worst_case_where_every_attack_is_missing(lacking):
    for attack in ("pgd", "square"):
        lose(lacking, "direct", attack, 0.1, "ValueError: no luck")
    assert ("direct", 0.1) not in worst(lacking)
    assert worst(lacking)["direct", 0.2]["verdict"] == "doubtful"


def test_every_table_names_the_missing_attack_beside_the_number(lacking):
    lose(lacking, "latency", "square", 0.1, "InputError: no luck")
    output = CliRunner().invoke(cli, ["report", str(lacking)]).output
    assert "50.0? without square" in output
    assert output.splitlines()[-1] == "next: the same command again; it tries square again"
    assert "without square</a>" in (lacking / "report.html").read_text()
    assert r"{\scriptsize without square}" in (lacking / "table.tex").read_text()
    assert "missing" in (lacking / "table.csv").read_text().splitlines()[0].split(",")


def test_the_last_line_names_the_next_command(lacking, tmp_path):
    lines = CliRunner().invoke(cli, ["report", str(lacking)]).output.splitlines()
    assert lines[-1].startswith(f"next: `spikeproof audit {lacking}`")
    bench = Bench(tmp_path / "clean")
    bench.model("latency")
    lines = CliRunner().invoke(cli, ["report", str(bench.finish())]).output.splitlines()
    assert "add a suite and budgets" in lines[-1]
