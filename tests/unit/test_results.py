from spikeproof.experiments.read import labels as naming
from spikeproof.experiments.read import results


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
