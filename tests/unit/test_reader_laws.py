"""Laws of every reader of data, over generated files of an independent writer.

`pytest tests/unit/test_reader_laws.py --cases 100` tries a hundred times as many.
"""

import gzip
import io
import pickle
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import written

from spikeproof.datasets.audio import read_wav
from spikeproof.datasets.cameras import read_aedat2, read_aedat3, read_bin, read_gestures
from spikeproof.datasets.cifar import CIFAR10, unpickled
from spikeproof.datasets.cochlea import read_spikes
from spikeproof.datasets.images import _read_idx
from spikeproof.datasets.intake.clock import DISORDER, clocked
from spikeproof.errors import InputError
from spikeproof.tensorfiles import dump, parse


def tried(read, content):
    """What a reader gives, or None and its message."""
    try:
        return read(content), ""
    except InputError as error:
        return None, str(error)


CAMERAS = {
    "40 bits": (written.forty_bits, read_bin, 34, 23),
    "AEDAT 2": (written.aedat2, read_aedat2, 128, 32),
    "AEDAT 3": (written.aedat3, read_aedat3, 128, 31),
}


def recording(chance, pixels, count):
    """Events of up to a second, in order of time."""
    time = np.sort(chance.integers(0, 1_000_000, count))
    rest = (chance.integers(0, high, count) for high in (2, pixels, pixels))
    return list(zip(time.tolist(), *(column.tolist() for column in rest), strict=True))


def table(events):
    columns = (events.time, events.channel, events.row, events.column)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def moved(events, start, bits):
    """The same recording, begun at another time of a clock of so many bits."""
    return [((t + start) % (1 << bits), *place) for t, *place in events]


@pytest.mark.parametrize("form", CAMERAS)
def test_recordings_are_read_event_by_event_as_written(form, tmp_path, cases):
    write, read, pixels, _ = CAMERAS[form]
    chance = np.random.default_rng(1)
    for _ in range(60 * cases):
        events = recording(chance, pixels, int(chance.integers(1, 150)))
        found = table(read(written.put(tmp_path / "file", write(events))))
        start = events[0][0] if form == "AEDAT 2" else 0  # counted from the first event
        assert found == [(t - start, *place) for t, *place in events]


@pytest.mark.parametrize("form", CAMERAS)
def test_a_clock_that_wraps_changes_nothing_but_where_it_began(form, tmp_path, cases):
    write, read, pixels, bits = CAMERAS[form]
    chance = np.random.default_rng(2)
    path = tmp_path / "file"
    for _ in range(60 * cases):
        events = recording(chance, pixels, int(chance.integers(2, 150)))
        span = events[-1][0] - events[0][0]
        start = (1 << bits) - events[0][0] - int(chance.integers(0, span + 1))
        content = write(moved(events, start, bits))
        found = table(read(written.put(path, content)))
        assert [(t - found[0][0], *place) for t, *place in found] == [
            (t - events[0][0], *place) for t, *place in events
        ]


@pytest.mark.parametrize("form", ["40 bits", "AEDAT 2"])
def test_a_left_over_event_is_named_and_changes_nothing(form, tmp_path, cases):
    write, read, pixels, bits = CAMERAS[form]
    chance = np.random.default_rng(3)
    path = tmp_path / "file"
    for _ in range(60 * cases):
        events = recording(chance, pixels, int(chance.integers(20, 150)))
        begin = int(chance.integers(0, 1_000_000))
        events = moved(events, begin, bits)
        stray = (int(chance.integers(events[-1][0] + 2_000_000, (1 << (bits - 1)))), 0, 1, 1)
        found = read(written.put(path, write([stray, *events])))
        assert "left-over events" in found.remark
        start = events[0][0] if form == "AEDAT 2" else 0
        assert table(found) == [(t - start, *place) for t, *place in events]
        assert read(written.put(path, write(events))).remark == ""


def test_wrapped_time_stamps_are_unwrapped_as_by_the_definition(cases):
    chance = np.random.default_rng(4)
    refused = 0
    for _ in range(500 * cases):
        parts = [np.sort(chance.integers(0, 10**6, n)) for n in chance.integers(1, 60, chance.integers(1, 4))]
        time = np.concatenate([part + int(chance.integers(0, 5)) * 10**7 for part in parts])
        back = np.flatnonzero(np.diff(time) < -DISORDER)
        found, words = tried(lambda time: clocked(time, Path("file")), time)
        if found is None:
            refused += 1
            if len(back):
                assert f"at event {back[0] + 1}" in words
            else:
                assert f"after event {np.diff(time).argmax()} of {len(time)}" in words
            continue
        assert (np.diff(found.time) >= -DISORDER).all()
        assert np.array_equal(found.time, time[found.kept])
        assert 0 <= len(time) - len(found.time) <= max(len(time) // 100, 1)
        assert ("left-over" in found.remark) == (not found.kept.all())
        assert ("late" in found.remark) == bool((np.diff(found.time) < 0).any())
    assert refused > 50


def test_events_that_come_a_little_late_are_put_in_order(tmp_path):
    events = [(5000 + t, 0, 1, 1) for t in range(0, 100_000, 1000)]
    late = [*events[:50], (52_000, 1, 2, 2), *events[50:]]
    found = read_aedat2(written.put(tmp_path / "late.aedat", written.aedat2(late)))
    assert (np.diff(found.time) >= 0).all()
    assert (found.remark, len(found)) == ("events up to 10 ms late were put in order", 101)
    half = [(t + 500_000, *place) for t, *place in events]
    with pytest.raises(
        InputError, match=r"does not go back: got 5000 microseconds at event 100 after 604000"
    ):
        read_aedat2(written.put(tmp_path / "back.aedat", written.aedat2([*half, *events])))


def small(tmp_path):
    """A small good file for every reader, with what it reads and how much of it is enough."""
    events = [(1000 * t, t % 2, t % 34, 3) for t in range(1, 4)]
    yield "40 bits", written.forty_bits(events), lambda p: table(read_bin(p))
    yield "AEDAT 2", written.aedat2(events), lambda p: table(read_aedat2(p))
    yield "AEDAT 3", written.aedat3(events), lambda p: table(read_aedat3(p))
    yield "WAV", written.wav([1, -2, 3, 4]), lambda p: read_wav(p)[0].tolist()
    yield "IDX", written.idx((2, 3), range(6)), lambda p: _read_idx(p).tolist()
    yield "labels", b"class,startTime_usec,endTime_usec\n1,10,20\n11,30,40\n", read_gestures
    tensors = dump({"w": torch.arange(3.0)}, {"epoch": 1})
    yield "safetensors", tensors, lambda p: [t.tolist() for t in parse(p.read_bytes(), p.name)[0].values()]
    spikes = written.spikes(tmp_path / "s.h5", [[0.1], [0.2, 0.3]], [[1], [2, 3]], [0, 1]).read_bytes()
    yield "HDF5", spikes, lambda p: [(t.tolist(), u.tolist(), n) for t, u, n in read_spikes(p)]


FORMS = ("40 bits", "AEDAT 2", "AEDAT 3", "WAV", "IDX", "labels", "safetensors", "HDF5")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_anywhere_is_refused_by_name_or_a_beginning(form, tmp_path, cases):
    content, read = next((c, r) for name, c, r in small(tmp_path) if name == form)
    whole, path = read(written.put(tmp_path / "cut", content)), tmp_path / "cut"
    places = range(len(content))
    if form == "HDF5":  # 8 kB
        places = np.random.default_rng(5).integers(0, len(content), 40 * cases).tolist()
    for place in places:
        path.write_bytes(content[:place])
        found, words = tried(read, path)
        if found is None:
            assert path.name in words
            continue
        beginning = whole[: len(found)]
        if form == "labels":  # a number that is cut is a number
            found, beginning = found[:-1], beginning[:-1]
        assert found == beginning
        assert form not in ("WAV", "IDX", "safetensors", "HDF5")  # these say how long they are


@pytest.mark.parametrize("form", FORMS)
def test_any_byte_may_be_wrong(form, tmp_path, cases):
    content, read = next((c, r) for name, c, r in small(tmp_path) if name == form)
    path, chance = tmp_path / "harmed", np.random.default_rng(6)
    for _ in range((40 if form == "HDF5" else 250) * cases):
        harmed = bytearray(content)
        for _ in range(int(chance.integers(1, 4))):
            harmed[int(chance.integers(len(content)))] = int(chance.integers(256))
        path.write_bytes(harmed)
        found, words = tried(read, path)
        assert found is not None or path.name in words


@pytest.mark.parametrize("form", FORMS)
def test_hostile_bytes_take_no_memory(form, tmp_path, cases):
    content, read = next((c, r) for name, c, r in small(tmp_path) if name == form)
    path, chance = tmp_path / "hostile", np.random.default_rng(7)
    tracemalloc.start()
    for _ in range((10 if form == "HDF5" else 60) * cases):
        harmed = bytearray(content)
        place = int(chance.integers(len(content)))
        harmed[place : place + 8] = b"\xff" * 8  # a size, if there was one
        path.write_bytes(harmed)
        found, words = tried(read, path)
        assert found is not None or path.name in words
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_any_bytes_are_a_pickle_or_a_refusal(cases):
    good = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1], "filenames": ["a"]}, 2)
    assert unpickled(good, Path("batch"))["labels"] == [1]
    chance = np.random.default_rng(8)
    head = len(good) - 3072
    for _ in range(1000 * cases):
        harmed = bytearray(good)
        for _ in range(int(chance.integers(1, 5))):
            harmed[int(chance.integers(head)) - head // 2] = int(chance.integers(256))
        found, words = tried(lambda content: unpickled(content, Path("batch")), bytes(harmed))
        assert not words or (found is None and "batch" in words)


def test_any_bytes_are_an_archive_or_a_refusal(tmp_path, cases):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in (*CIFAR10.train_files, *CIFAR10.test_files):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = 20
            archive.addfile(member, io.BytesIO(bytes(20)))
    good, chance = file.getvalue(), np.random.default_rng(9)
    for _ in range(150 * cases):
        harmed = bytearray(good)
        start = 512 * int(chance.integers(6)) * 2
        harmed[start + 124 : start + 136] = bytes(chance.integers(48, 56, 12).tolist())  # the size
        harmed[start + 156] = int(chance.choice(list(b"0LKxgS1")))
        harmed[start + 148 : start + 156] = (
            b"%06o\0 " % tarfile.calc_chksums(bytes(harmed[start : start + 512]))[0]
        )
        (tmp_path / CIFAR10.archive).write_bytes(gzip.compress(bytes(harmed), 1))
        with pytest.raises(InputError, match="cifar-10-python"):
            CIFAR10().load(tmp_path)


def test_an_event_that_comes_late_where_the_clock_wraps_belongs_before(tmp_path):
    start = (1 << 32) - 50_000
    events = [((start + t) % (1 << 32), 0, 1, 1) for t in range(0, 100_000, 1000)]
    events[51:51] = [((1 << 32) - 500, 1, 2, 2)]  # after the first event at 0
    found = table(read_aedat2(written.put(tmp_path / "late.aedat", written.aedat2(events))))
    assert found[50] == (49_500, 1, 2, 2)
    assert [t for t, *_ in found] == sorted([*range(0, 100_000, 1000), 49_500])
