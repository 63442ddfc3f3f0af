"""Evaluation, suites and tables treat every column of an outcome as its field declares."""

from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
import torch

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.search import Result
from spikeproof.evaluation.columns import Column, columns, declared, joined, stored, subset
from spikeproof.evaluation.distances import Nearest
from spikeproof.evaluation.outcomes import Attacked, Clean, Untouched
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.run.parquet import TABLE, read_columns, table
from spikeproof.keys import Key
from spikeproof.threats import Linf

KEY, THREAT = Key.of(3), Linf(0.3)
X = torch.rand(23, 1, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(23) % 2
W = torch.randn(9, 2, generator=torch.Generator().manual_seed(1))


def model(images, key=None):
    return images.flatten(1) @ W


CLEAN = evaluate_clean(model, X, Y, KEY)
UNSTORED = ("right_in_views", "right_clean_in_views", "losses", "x_adv")
ALONE = {"draws", "nested"}  # one value for all examples


def same(a, b):
    return torch.equal(a.nan_to_num(7) if a.is_floating_point() else a, b.nan_to_num(7).to(a.dtype))


def attacked(attack, **settings):
    return evaluate_attack(model, attack, THREAT, X, Y, CLEAN, KEY, **settings)


def left_alone(model, x, y, key, *, through=None):
    """An attack without forward passes that returns the clean images."""
    none = torch.zeros(len(x), dtype=torch.int64)
    return Result(x, none > 0, x.new_zeros(0, len(x)), none, none, none.to(x.dtype), none - 1)


@pytest.mark.parametrize("outcome", [Clean, Attacked, Nearest])
def test_every_field_of_an_outcome_that_is_not_one_value_for_all_is_a_column(outcome):
    assert [f.name for f in fields(outcome) if f.name not in ALONE] == list(columns(outcome))
    assert all(column.meaning for column in columns(outcome).values())


def test_before_any_attack_an_outcome_is_that_of_an_attack_that_does_nothing():
    before, after = Attacked.before(Untouched(THREAT, X, CLEAN)), attacked(left_alone)
    for name in columns(Attacked):
        assert same(getattr(before, name), getattr(after, name)), name


def test_no_column_depends_on_the_size_of_a_batch():
    whole, parts = attacked(PGD(steps=4)(THREAT)), attacked(PGD(steps=4)(THREAT), batch_size=5)
    for name in columns(Attacked):
        assert same(getattr(whole, name), getattr(parts, name)), name


def test_a_subset_of_an_outcome_is_its_rows_and_traces_of_all():
    rows = torch.tensor([4, 0, 9])
    part = subset(CLEAN, rows)
    for name in columns(Clean):
        assert same(getattr(part, name), getattr(CLEAN, name)[rows]), name


def drawn(outcome, seed):
    """The same outcome with other values in every column."""
    generator = torch.Generator().manual_seed(seed)

    def draw(old):
        values = torch.randint(0, 5, old.shape, generator=generator)
        return values.to(old.dtype) if old.dtype != torch.bool else values > 1

    return replace(outcome, **{name: draw(getattr(outcome, name)) for name in columns(Attacked)})


def taken(old, new, better):
    return new if better else old


RULES = {
    "queries": lambda old, new, better: old + new,
    "backward_queries": lambda old, new, better: old + new,
    "outside": lambda old, new, better: old + new,
    "zero_gradients": lambda old, new, better: max(old, new),
    "within": lambda old, new, better: old & new,
    "example": lambda old, new, better: old,
    "label": lambda old, new, better: old,
    "right_clean": lambda old, new, better: old,
}


def test_a_worst_case_takes_every_column_as_counting_example_by_example_does():
    """The rules are written out here a second time, and each attack sees some of the rows."""
    blank, rows = attacked(left_alone), torch.tensor([20, 3, 5, 6, 11, 0, 17, 18])
    first, found = drawn(blank, 0), drawn(subset(replace(blank, losses=blank.x_adv), rows), 1)
    worst = first.worse(found, rows)
    for i in range(len(X)):
        where = (rows == i).nonzero().flatten()
        for name, column in columns(Attacked).items():
            if name == "losses":  # a trace belongs to one attack
                continue
            ours, old = getattr(worst, name)[i], getattr(first, name)[i]
            if not len(where):
                assert same(ours, old), name
                continue
            new = getattr(found, name)[where[0]]
            better = found.right_selection[where[0]] < first.right_selection[i]
            wanted = RULES.get(name, taken)(old, new, better)
            assert same(ours, wanted), (name, column.meaning)


def test_a_table_holds_the_columns_of_one_value_and_reads_back_what_was_written(tmp_path):
    outcome = attacked(PGD(steps=3)(THREAT))
    (tmp_path / TABLE).write_bytes(table(stored(outcome)))
    read = read_columns(tmp_path, "attack")
    assert list(read) == [name for name in columns(Attacked) if name not in UNSTORED]
    for name, column in read.items():
        assert np.array_equal(column, getattr(outcome, name).double().numpy(), equal_nan=True), name


def test_what_an_older_table_lacks_is_read_as_not_measured(tmp_path):
    old = {n: v for n, v in stored(CLEAN).items() if n not in ("voted", "exit")}
    (tmp_path / TABLE).write_bytes(table(old))
    read = read_columns(tmp_path, "clean")
    assert all(np.isnan(read[name]).all() for name in ("voted", "exit"))
    assert len(read["voted"]) == len(X)
    old.pop("right_selection")  # what every table has, is not made up
    (tmp_path / TABLE).write_bytes(table(old))
    assert "right_selection" not in read_columns(tmp_path, "clean")


def test_a_new_column_is_one_field():
    """Beside the field nothing is said: batches give it, and tables hold it."""

    def fewest(parts):
        return torch.cat(list(parts)).clamp(max=1)

    @dataclass(frozen=True)
    class More(Clean):
        again: torch.Tensor = field(
            kw_only=True,
            metadata=declared(Column("the label once more", lambda batch: batch.labels + 1, joined=fewest)),
        )

    class Batch:
        def __init__(self, labels):
            self.labels = self.ids = labels
            self.images = labels[:, None].float()
            self.fresh = self.chosen = CLEAN

    found = More(**joined(More, [Batch(Y[:4]), Batch(Y[4:])]), draws=1)
    assert torch.equal(found.again, torch.ones_like(Y))
    assert list(stored(found))[-1] == "again"
    assert len(subset(found, torch.tensor([1, 2])).again) == 2
