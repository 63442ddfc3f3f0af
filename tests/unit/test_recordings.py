"""Events are binned by time and by count; the cache survives kills, damage and concurrent processes."""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeproof.datasets.recordings import Events, Recording, Recordings, frames
from spikeproof.errors import InputError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def slow_frames(events, shape, steps, by, duration):
    """One event after the other, by the definition in exact arithmetic."""
    result = np.zeros((steps, *shape), int)
    rows = list(
        zip(*(a.tolist() for a in (events.time, events.channel, events.row, events.column)), strict=True)
    )
    if duration is not None:
        rows = [row for row in rows if row[0] < round(duration * 1e6)]
    for i, (t, *place) in enumerate(rows):
        if by == "count":
            step = i * steps // len(rows)
        elif duration is not None:
            step = t * steps // round(duration * 1e6)
        else:
            start, end = rows[0][0], rows[-1][0]
            step = steps - 1 if t == end > start else (t - start) * steps // max(end - start, 1)
        result[(step, *place)] += 1
    return result


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 1), st.integers(0, 2), st.integers(0, 3))),
    st.integers(1, 7),
    st.sampled_from(["time", "count"]),
    st.sampled_from([None, 0.001, 0.003]),
    st.booleans(),
)
def test_frames_are_those_of_the_definition(rows, steps, by, duration, binary):
    rows.sort()
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    events = Events(*columns)
    expected = slow_frames(events, (2, 3, 4), steps, by, duration)
    found = frames(events, (2, 3, 4), steps, by, binary, duration)
    assert np.array_equal(found, np.minimum(expected, 1) if binary else expected)


def test_no_event_is_lost_and_counts_are_even():
    generator = np.random.default_rng(0)
    zero = np.zeros(101, np.int64)
    events = Events(np.sort(generator.integers(0, 10**6, 101)), zero, zero, zero)
    for by in ("time", "count"):
        assert frames(events, (1, 1, 1), 7, by, False, None).sum() == 101
    even = frames(events, (1, 1, 1), 7, "count", False, None).ravel()
    assert even.max() - even.min() <= 1


def test_events_are_put_in_order_and_checked():
    events = Events.sorted(np.array([5, 1, 1]), 0, np.array([0, 1, 2]), 0)
    assert events.time.tolist() == [1, 1, 5]
    assert events.row.tolist() == [1, 2, 0]
    with pytest.raises(InputError, match=r"row 0 to 2 of 2"):
        events.check((1, 2, 1), Path("x"))
    with pytest.raises(InputError, match="-3 microseconds"):
        Events.sorted(np.array([-3]), 0, np.array([0]), 0).check((1, 1, 1), Path("x"))


READ = []


@dataclass(frozen=True)
class Toy(Recordings):
    """Each file is one example: its bytes are the places of events, one per microsecond."""

    folder: ClassVar[str] = "toy"
    names: ClassVar[tuple[str, ...]] = ("a", "b")
    advice: ClassVar[str] = "Make some."
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 1)

    def recordings(self, folder):
        return [
            Recording(p, "test" if "test" in p.name else "train", int(p.stem[-1]) % 2)
            for p in sorted(folder.glob("*.toy"))
        ]

    def examples(self, recording):
        READ.append(recording.path.name)
        content = np.frombuffer(recording.path.read_bytes(), np.uint8).astype(np.int64)
        yield Events.sorted(np.arange(len(content)), 0, content, 0), recording.label


def toy_files(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(10):
        (folder / f"train{i}.toy").write_bytes(bytes([i % 8, (i * 3) % 8]))
    (folder / "test1.toy").write_bytes(bytes([7] * 300))
    return folder


def test_recordings_are_split_into_disjoint_parts_with_ids_and_a_digest(tmp_path):
    root = toy_files(tmp_path / "toy").parent
    data = Toy(steps=2, hold_out=0.2).load(root)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 1)
    ids = torch.cat([data.train.ids, data.validation.ids])
    assert ids.sort().values.tolist() == list(range(10))
    for part in (data.train, data.validation):
        for image, label, i in zip(part.images, part.labels, part.ids.tolist(), strict=True):
            assert label == i % 2
            assert image[:, 0, :, 0].nonzero().tolist() == [[0, i % 8], [1, (i * 3) % 8]]
    assert data.train.images.dtype == torch.uint8
    assert data.sha256 == Toy(steps=2, hold_out=0).load(root).sha256
    assert data.sha256 != Toy(steps=3).load(root).sha256


def test_counts_beyond_a_byte_are_kept(tmp_path):
    data = Toy(steps=1).load(toy_files(tmp_path))
    assert data.test.images.dtype == torch.int16
    assert data.test.images.max() == 300
    (tmp_path / "train0.toy").write_bytes(bytes(40_000))
    with pytest.raises(InputError, match="32767"):
        Toy(steps=1).load(tmp_path)


def kept(tmp_path):
    return sorted((tmp_path / "cache/spikeproof/data/frames").glob("*"))


def test_frames_are_read_once_and_then_taken_from_the_cache(tmp_path):
    root = toy_files(tmp_path / "toy")
    first = Toy(steps=2).load(root)
    READ.clear()
    again = Toy(steps=2, hold_out=0.5).load(root)
    assert READ == []
    assert again.sha256 == first.sha256
    assert len(kept(tmp_path)) == 1
    (root / "train3.toy").write_bytes(bytes([0, 0]))
    assert Toy(steps=2).load(root).sha256 != first.sha256
    assert len(READ) == 11
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("harm", ["cut", "flip", "other", "empty"])
def test_a_damaged_cache_is_made_anew(tmp_path, harm):
    root = toy_files(tmp_path / "toy")
    first = Toy(steps=2).load(root)
    (path,) = kept(tmp_path)
    content = path.read_bytes()
    last = bytes([content[-1] ^ 1])
    harmed = {"cut": content[:-9], "flip": content[:-1] + last, "other": b"\x80\x04N.", "empty": b""}[harm]
    path.write_bytes(harmed)
    READ.clear()
    assert Toy(steps=2).load(root).sha256 == first.sha256
    assert len(READ) == 11
    assert path.read_bytes() == content


def test_a_kill_while_writing_leaves_nothing_that_is_believed(tmp_path, monkeypatch):
    root = toy_files(tmp_path / "toy")

    def killed(arrays, path, note):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.numpy.save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            Toy(steps=2).load(root)
    assert kept(tmp_path) == []
    assert len(Toy(steps=2).load(root).test) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(Toy(steps=2).load(toy_files(tmp_path / "toy")).test) == 1


def load_at_once(root):
    return Toy(steps=2).load(Path(root)).sha256


def test_processes_share_a_cache(tmp_path):
    root = toy_files(tmp_path / "toy")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        digests = pool.map(load_at_once, [str(root)] * 6)
    assert len(set(digests)) == 1
    assert [path.suffix for path in kept(tmp_path)] == [".safetensors"]


def test_missing_recordings_and_a_missing_test_part_are_named_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"Make some\. Then give their directory with --data"):
        Toy().load(tmp_path)
    toy_files(tmp_path)
    (tmp_path / "test1.toy").unlink()
    with pytest.raises(InputError, match="test part"):
        Toy().load(tmp_path)


@pytest.mark.parametrize("options", [{"steps": 0}, {"hold_out": 0.6}, {"duration": 0.0}, {"duration": -1.0}])
def test_steps_duration_and_held_out_share_out_of_range_are_refused_by_name(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Toy(**options)


def test_a_directory_without_read_permission_is_passed_over(tmp_path):
    if os.geteuid() == 0:
        assert Toy().locate(tmp_path) == "not found"
        return
    (tmp_path / "toy").mkdir(mode=0)
    assert Toy().locate(tmp_path) == "not found"
