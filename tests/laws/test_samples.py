"""A sample of a part is a seeded beginning of one order, in which every class keeps its share."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import ClassProportional, First, Sample, Split
from spikeproof.errors import InputError

SAMPLES = [ClassProportional(), ClassProportional(seed=3), First()]


def part(labels):
    labels = torch.as_tensor(labels)
    ids = 100 + torch.arange(len(labels))
    return Split(ids.float().view(-1, 1, 1, 1), labels, ids)


def test_every_member_is_under_the_law():
    missing = set(PARTS[Sample].values()) - {type(sample) for sample in SAMPLES}
    assert not missing, f"no row for {missing}"


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), n=st.integers(0, 60))
def test_a_sample_holds_whole_examples_and_begins_every_larger_one(sample, labels, n):
    n = min(n, len(labels))
    whole, some = sample(part(labels), len(labels)), sample(part(labels), n)
    assert torch.equal(whole.ids[:n], some.ids)
    assert whole.ids.unique().numel() == len(labels)
    assert torch.equal(some.labels, torch.tensor(labels)[some.ids - 100])
    assert torch.equal(some.images.flatten().long(), some.ids)
    assert torch.equal(some.ids, sample(part(labels), n).ids)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), seed=st.integers(0, 5), data=st.data())
def test_every_class_keeps_its_share_to_within_one(labels, seed, data):
    n = data.draw(st.integers(0, len(labels)))
    counts = np.bincount(labels, minlength=5)
    found = np.bincount(
        np.array(labels)[ClassProportional(seed=seed).order(np.array(labels))[:n]], minlength=5
    )
    # the r-th of m stands at (r + 1/2) / m, so a class has at most one more or less than its share
    assert (np.abs(found - n * counts / len(labels)) <= 1 + 5 / 2).all()
    if len(set(labels)) == 1 or (counts[counts > 0] == counts[counts > 0][0]).all():
        assert (np.abs(found - n * counts / len(labels)) < 1).all()


def test_a_file_in_the_order_of_classes_gives_a_sample_of_all_of_them():
    labels = np.repeat(np.arange(10), 30)
    assert set(labels[First().order(labels)[:30]]) == {0}
    assert (np.bincount(labels[ClassProportional().order(labels)[:30]]) == 3).all()
    assert set(labels[ClassProportional().order(labels)[:10]]) == set(range(10))


def test_another_seed_is_another_sample():
    labels = np.repeat(np.arange(4), 25)
    assert not np.array_equal(
        ClassProportional().order(labels)[:20], ClassProportional(seed=1).order(labels)[:20]
    )


def test_a_sample_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="At most 3"):
        ClassProportional()(part([0, 1, 2]), 4)


def test_the_digest_tells_which_examples_and_in_which_order():
    labels = [0, 1, 2, 0]
    assert First()(part(labels), 3).sha256 != First()(part(labels), 4).sha256
    assert First()(part(labels), 4).sha256 != ClassProportional()(part(labels), 4).sha256
