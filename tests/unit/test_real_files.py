"""Readers held against real files, where `SPIKEPROOF_DATA` names a directory that has some."""

import os

import numpy as np
import pytest

from spikeproof.datasets import CIFAR10, NMNIST, SpokenDigits, Subset, locate
from spikeproof.datasets.cameras import read_bin

DATA = os.environ.get("SPIKEPROOF_DATA")


def real(source):
    """Run a test only where the files of a data set are."""
    there = DATA is not None and not locate(source).startswith("not found")
    return pytest.mark.skipif(not there, reason=f"no files of {source.folder}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@real(NMNIST)
def test_real_recordings_are_read_whole_and_in_order():
    files = NMNIST()._find(None)[0][1]
    for recording in files[:: max(1, len(files) // 200)]:
        content = np.frombuffer(recording.path.read_bytes(), np.uint8).reshape(-1, 5).astype(np.int64)
        time = (content[:, 2] & 127) * 65536 + content[:, 3] * 256 + content[:, 4]
        events = read_bin(recording.path)
        assert events.time.tolist() == time.tolist()
        assert events.column.tolist() == content[:, 0].tolist()
        assert events.row.tolist() == content[:, 1].tolist()
        assert events.channel.tolist() == (content[:, 2] >> 7).tolist()
        assert events.remark == ""
        assert 200_000 < events.time[-1] - events.time[0] < 400_000
        assert 0 <= events.row.min() <= events.row.max() < 34


@real(NMNIST)
def test_a_subset_of_real_recordings_says_what_it_is():
    files = NMNIST()._find(None)[0][1]
    sizes = {part: sum(recording.part == part for recording in files) for part in ("train", "test")}
    if sizes == NMNIST.published:
        pytest.skip("these are all of them")
    data = NMNIST(steps=5, size=17, subset=Subset(**sizes)).load()
    assert (len(data.train) + len(data.validation), len(data.test)) == (sizes["train"], sizes["test"])
    assert data.notes == (
        f"n-mnist: {sizes['train']:,} of 60,000 published examples of the train part, "
        f"{sizes['test']:,} of 10,000 published examples of the test part, a subset on purpose",
    )
    assert data.test.images.flatten(1).sum(1).min() > 0


@real(CIFAR10)
def test_real_batches_have_the_published_number():
    data = CIFAR10().load()
    assert data.notes == ()
    assert data.test.labels.bincount().tolist() == [1000] * 10


@real(SpokenDigits)
def test_real_sounds_have_the_published_number():
    assert SpokenDigits().survey() == ()
    recording = SpokenDigits()._find(None)[0][1][0]
    ((events, label),) = SpokenDigits(bands=8).examples(recording)
    assert label == int(recording.path.name[0])
    assert 100_000 < events.time[-1] < 2_500_000
