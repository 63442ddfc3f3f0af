"""Laws of examples that are nearly the same: they count as one in intervals, and no others do."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import spikeproof as sp
import spikeproof.experiments.run.compute as compute
from spikeproof.auditing.assess import assess
from spikeproof.auditing.signoff import audit
from spikeproof.command.cli import cli
from spikeproof.datasets.intake import copies
from spikeproof.datasets.intake.copies import FEW, NEARLY, effective, groups_of
from spikeproof.keys import Key
from spikeproof.statistics import wilson

sys.path.insert(0, str(Path(__file__).parent))
from shortened import brief_suites

WIDTH = 8


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    with brief_suites({"steps": 5, "restarts": 1, "refine": 5, "queries": 20}, compute):
        yield


def images(count, seed=0):
    return Key.of(seed).uniform((count, 1, WIDTH, WIDTH))


def by_hand(x, reach):
    """The same groups from every pair of examples, by ever smaller numbers of a group."""
    flat = x.flatten(1).double()
    near = (flat[:, None] - flat[None]).abs().amax(2) <= reach
    group = torch.arange(len(x))
    for _ in range(len(x)):
        group = torch.where(near, group[None], len(x)).amin(1)
    return group


def partition(groups):
    return {frozenset((groups == each).nonzero().flatten().tolist()) for each in groups.unique()}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 25), st.sampled_from([0.3, 1.0, 3.0]))
def test_groups_are_those_of_every_pair(seed, originals, count, noise):
    key = Key.of(seed)
    source = images(originals, seed)
    which = (key.fold("which").uniform((count,)) * originals).long()
    x = source[which] + noise * NEARLY * (key.fold("noise").uniform((count, 1, WIDTH, WIDTH)) - 0.5)
    reach = NEARLY * min(1.0, float(x.max() - x.min()))
    assert partition(groups_of(x)) == partition(by_hand(x, reach))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    again = torch.empty_like(order)
    again[order] = groups_of(x[order])
    assert partition(again) == partition(groups_of(x))


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_copies_with_noise_are_one_example_at_whatever_contrast(scale):
    x, noise = images(5).repeat(4, 1, 1, 1), images(20, seed=1) - 0.5
    assert effective(groups_of(scale * (x + 0.9 * NEARLY * noise))) == 5
    assert effective(groups_of(scale * images(20))) == 20


def test_points_of_few_values_and_events_are_the_same_only_where_they_are_equal():
    points = Key.of(0).uniform((3000, 4))
    assert effective(groups_of(points)) == 3000
    assert effective(groups_of(torch.cat([points, points]))) == 3000
    events = torch.zeros(3, FEW)
    events[:, 0] = torch.tensor([400.0, 401.0, 400.0])
    for dtype in (torch.float32, torch.float64, torch.float16, torch.int16, torch.uint8):
        smaller = events / 2 if dtype == torch.uint8 else events
        assert groups_of(smaller.to(dtype)).tolist() == [0, 0 if dtype == torch.uint8 else 1, 0]
    assert groups_of(images(3).to(torch.bfloat16)).tolist() == [0, 1, 2]


def test_values_of_whole_numbers_are_compared_for_equality_alone(monkeypatch):
    """Parts of sparse recordings all have nearly the same mean, so that every pair would be compared."""
    events = (images(40) < 0.1).float()
    wanted = partition(by_hand(torch.cat([events, events[:5]]), NEARLY))
    monkeypatch.setattr(copies, "_nearly_equal", lambda *_: pytest.fail("values are compared"))
    assert partition(groups_of(torch.cat([events, events[:5]]))) == wanted


def test_of_sparse_pictures_few_values_tell_most_pairs_apart(monkeypatch):
    """Their parts have nearly the same means, and all values of all pairs are too many to compare."""
    key, pairs, within = Key.of(3), [], copies._within
    x = (key.uniform((60, 1, 64, 64)) < 0.004) * key.fold("grey").uniform((60, 1, 64, 64))
    x = torch.cat([x, x[:4] + 1e-4])

    def counted(some, first, second, reach):
        pairs.append((some.shape[1], len(first)))
        return within(some, first, second, reach)

    monkeypatch.setattr(copies, "_within", counted)
    assert effective(groups_of(x)) == 64**2 // (56 + 4 * 4)
    (few, many), (whole, left) = pairs
    assert 8 * few < whole
    assert left < many / 2


@pytest.mark.parametrize("data", [sp.Digits(), sp.YinYang()], ids=lambda each: type(each).__name__)
def test_no_two_examples_of_the_data_that_come_along_are_nearly_the_same(data):
    test = data.load(None).test.images
    assert effective(groups_of(test)) == len(test)


def test_examples_in_unequal_groups_are_worth_what_the_variance_of_their_mean_says():
    sizes = torch.tensor([5, 1, 1, 3])
    groups = torch.arange(4).repeat_interleave(sizes)
    draws = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    variance = draws.repeat_interleave(sizes, 0).mean(0).var()
    assert 1 / variance.item() == pytest.approx(100 / 36, rel=0.05)
    assert effective(groups) == 100 // 36


def test_an_audit_counts_copies_with_noise_as_one():
    x = images(10)
    y = x.flatten(1)[:, :3].argmax(1)
    many, labels = x.repeat(8, 1, 1, 1) + 1e-4 * images(80, seed=1), y.repeat(8)
    model, threat = (lambda z: z.flatten(1)[:, :3]), sp.Linf(0.1)
    found = audit(model, many.clamp(0, 1), labels, threat, suite="quick")
    (assessed,) = assess(model, [sp.PGD(steps=5)], [threat], many.clamp(0, 1), labels, Key.of(0), classes=3)
    for interval, accuracy, verdict in (
        (found.interval, found.accuracy, found.verdict),
        (assessed.evidence.interval, assessed.accuracy, assessed.verdict),
    ):
        assert interval == pytest.approx(wilson(10 * accuracy, 10))
        assert "too few examples" in {finding.check for finding in verdict.findings}
    assert "the 80 examples are worth 10" in " ".join(found.reasons)


PROGRAM = "def make_model():\n    return lambda x: x.flatten(1)[:, :3]\n"
STUDY = """
name: copies
data: {{image-arrays: {{path: "{0}/data.npz"}}}}
models: [{{model: {{foreign: {{make: "{0}/net.py:make_model"}}}}}}]
suite: quick
epsilons: [0.1]
examples: {1}
sample: first
"""


@pytest.mark.parametrize("copies", [1, 8])
def test_a_study_counts_copies_with_noise_as_one(tmp_path, copies):
    x = images(10)
    test = (x.repeat(copies, 1, 1, 1) + 1e-4 * images(10 * copies, seed=1)).clamp(0, 1)
    arrays = {"x_train": images(30, seed=2), "x_test": test}
    arrays |= {name.replace("x", "y"): each.flatten(1)[:, :3].argmax(1) for name, each in arrays.items()}
    np.savez(tmp_path / "data.npz", **{name: each.numpy() for name, each in arrays.items()})
    (tmp_path / "net.py").write_text(PROGRAM)
    (tmp_path / "study.yaml").write_text(STUDY.format(tmp_path, len(test)))
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["run", str(tmp_path / "study.yaml"), "--out", str(out), "--workers", "1"])
    assert done.exit_code == 0, done.output
    rows = json.loads(CliRunner().invoke(cli, ["show", str(out), "--json"]).stdout)
    for row in rows:
        assert row["n"] == len(test)
        assert [row["ci_low"], row["ci_high"]] == pytest.approx(wilson(10 * row["robust_accuracy"], 10))
        ends = [row["clean_ci_low"], row["clean_ci_high"]]
        assert ends == pytest.approx(wilson(10 * row["clean_accuracy"], 10))
    (worst,) = (row for row in rows if row["attack"] == "worst-case")
    assert any("too few examples" in words for words in worst["warnings"])
    assert (copies > 1) == any("are worth 10" in words for words in worst["warnings"])
