"""Event files written byte by byte from their formats' definitions, and broken and hostile ones."""

import struct
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeproof.datasets import CIFAR10DVS, NMNIST, DVS128Gesture
from spikeproof.datasets.cameras import read_aedat2, read_aedat3, read_bin, read_gestures
from spikeproof.errors import InputError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for source in (NMNIST, DVS128Gesture, CIFAR10DVS):  # a few examples are all there is
        monkeypatch.setattr(source, "published", {})


def forty_bits(*events):
    """Column 8 bits, row 8, polarity 1, microseconds 23."""
    return b"".join((x << 32 | y << 24 | p << 23 | t).to_bytes(5, "big") for t, p, y, x in events)


def aedat2(*events, header=b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"):
    """Address and time, 32 bits each; `events` are time, bit 0, bits 1 to 7, bits 8 to 14."""
    return header + b"".join(struct.pack(">II", b << 8 | a << 1 | bit, t) for t, bit, a, b in events)


def packet(events, kind=1, size=8, turns=0, capacity=None, number=None):
    """`events` are time, polarity, row, column and whether they are valid."""
    count = len(events)
    head = struct.pack(
        "<HHIIIIII", kind, 1, size, 4, turns, capacity or count, count if number is None else number, count
    )
    return head + b"".join(struct.pack("<II", x << 17 | y << 2 | p << 1 | v, t) for t, p, y, x, v in events)


HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
BIN, TWO = forty_bits((5, 1, 3, 2), (9, 0, 33, 0)), aedat2((7, 0, 1, 2), (9, 1, 3, 4))
THREE = HEADER + packet([(5, 1, 3, 2, 1)])


def table(events):
    return list(
        zip(*(a.tolist() for a in (events.time, events.channel, events.row, events.column)), strict=True)
    )


def test_events_of_forty_bits_are_decoded(tmp_path):
    (tmp_path / "a.bin").write_bytes(forty_bits((5, 1, 3, 2), (0x7FFFFF, 0, 33, 31)))
    assert table(read_bin(tmp_path / "a.bin")) == [(5, 1, 3, 2), (0x7FFFFF, 0, 33, 31)]


def test_an_event_in_row_240_adds_a_turn_of_the_clock(tmp_path):
    (tmp_path / "a.bin").write_bytes(forty_bits((5, 1, 3, 2), (8191, 0, 240, 0), (7, 0, 1, 1)))
    assert table(read_bin(tmp_path / "a.bin")) == [(5, 1, 3, 2), (7 + 8192, 0, 1, 1)]


def test_aedat2_is_big_end_first_and_its_bit_0_is_off(tmp_path):
    (tmp_path / "a.aedat").write_bytes(
        aedat2((1000, 0, 1, 2), (1004, 1, 127, 0)) + struct.pack(">II", 1 << 15, 2000)
    )
    assert table(read_aedat2(tmp_path / "a.aedat")) == [(0, 1, 126, 125), (4, 0, 0, 127)]


def test_aedat3_packets_of_polarity_events_are_read_and_other_packets_skipped(tmp_path):
    content = HEADER + packet([(5, 1, 3, 2, 1), (6, 0, 127, 126, 0), (7, 0, 127, 126, 1)])
    content += packet([(1, 1, 1, 1, 1)], kind=0) + packet([(3, 0, 0, 0, 1)], turns=1)
    (tmp_path / "a.aedat").write_bytes(content)
    expected = [(5, 1, 3, 2), (7, 0, 127, 126), (3 + (1 << 31), 0, 0, 0)]
    assert table(read_aedat3(tmp_path / "a.aedat")) == expected


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (read_bin, b"", "0 bytes"),
        (read_bin, BIN[:-1], "9 bytes, no whole number"),
        (read_aedat2, b"", "beginning with b''"),
        (read_aedat2, TWO[:-1], "no whole number"),
        (read_aedat2, TWO[:12], "0 bytes of data"),
        (read_aedat2, THREE, "instead of #!AER-DAT2.0"),
        (read_aedat2, aedat2() + struct.pack(">II", 1 << 31, 5), "no events of pixels"),
        (read_aedat3, b"", "beginning with b''"),
        (read_aedat3, TWO, "instead of #!AER-DAT3.1"),
        (read_aedat3, HEADER, "no polarity events"),
        (read_aedat3, THREE[:-1], "packet of 1 events"),
        (read_aedat3, HEADER + bytes(20), "20 bytes where a packet"),
        (read_aedat3, HEADER + packet([], number=0xFFFFFFFF, capacity=0xFFFFFFFF), "packet of 4294967295"),
        (read_aedat3, HEADER + packet([], number=5, capacity=4), "room for 4"),
        (read_aedat3, HEADER + packet([(1, 1, 1, 1, 1)], size=1), "events of 1 bytes"),
        (read_aedat3, HEADER + packet([(1 << 31, 1, 1, 1, 1)]), "before time 0"),
    ],
)
def test_broken_files_are_refused_and_take_no_memory(tmp_path, read, content, words):
    path = tmp_path / "broken.aedat"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"broken\.aedat") as caught:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words in str(caught.value)
    assert peak < 8 << 20


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=90), st.sampled_from([(read_bin, b""), (read_aedat2, TWO), (read_aedat3, HEADER)]))
def test_any_bytes_are_events_or_a_refusal(tmp_path_factory, content, form):
    read, start = form
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(start + content)
    with suppress(InputError):
        assert (np.diff(read(path).time) >= 0).all()


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spikeproof.datasets.recordings.LARGEST", 8)
    (tmp_path / "large.bin").write_bytes(BIN)
    with pytest.raises(InputError, match="more than 8 bytes"):
        read_bin(tmp_path / "large.bin")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_n_mnist_in_its_folders(tmp_path):
    for digit in range(10):
        for part in ("Train", "Test"):
            write(tmp_path / "NMNIST" / part / str(digit) / "00001.bin", forty_bits((5, 1, 3, digit)))
    data = NMNIST(steps=2, hold_out=0.2).load(tmp_path)
    assert data.test.images.shape == (10, 2, 2, 34, 34)
    assert data.test.labels.tolist() == list(range(10))
    for digit in range(10):
        assert data.test.images[digit].nonzero().tolist() == [[0, 1, 3, digit]]
    assert (len(data.train), len(data.validation)) == (8, 2)
    write(tmp_path / "NMNIST" / "Test" / "3" / "00001.bin", forty_bits((5, 1, 34, 0)))
    with pytest.raises(InputError, match="row 34 to 34 of 34"):
        NMNIST(steps=2).load(tmp_path)


def test_pooled_pixels_add_up(tmp_path):
    for part in ("Train", "Test"):
        events = [(t, 0, 33, column) for t, column in enumerate((0, 16, 17, 33))]
        write(tmp_path / part / "0" / "1.bin", forty_bits(*events))
    data = NMNIST(steps=1, size=2, hold_out=0).load(tmp_path)
    assert data.test.images[0, 0, 0].tolist() == [[0, 0], [2, 2]]
    with pytest.raises(InputError, match="size=35"):
        NMNIST(size=35)


CSV = "class,startTime_usec,endTime_usec\n"


def gestures(folder, train=CSV + "1,10,20\n11,20,30\n"):
    for part, person, rows in (
        ("train", "user01_fluorescent", train),
        ("test", "user24_led", CSV + "2,5,25\n"),
    ):
        write(folder / f"trials_to_{part}.txt", f"{person}.aedat\n".encode())
        write(folder / f"{person}_labels.csv", rows.encode())
        events = [(t, t % 2, t, 2 * t, 1) for t in range(4, 32)]
        write(folder / f"{person}.aedat", HEADER + packet(events))
    return folder


def test_gestures_are_cut_out_by_their_labels(tmp_path):
    gestures(tmp_path / "DvsGesture")
    data = DVS128Gesture(steps=5, size=None, hold_out=0).load(tmp_path)
    assert data.train.labels.sort().values.tolist() == [0, 10]
    assert data.test.labels.tolist() == [1]
    first = data.train.images[(data.train.labels == 0).nonzero().item()]
    assert sorted(first.nonzero()[:, 1:].tolist()) == sorted([t % 2, t, 2 * t] for t in range(10, 20))
    assert data.train.images.sum((1, 2, 3, 4)).tolist() == [10, 10]
    assert data.test.images.sum() == 20
    pooled = DVS128Gesture(steps=5, size=32, hold_out=0).load(tmp_path)
    assert torch.equal(
        pooled.test.images, data.test.images.unflatten(4, (32, 4)).sum(5).unflatten(3, (32, 4)).sum(4)
    )


@pytest.mark.parametrize(
    "rows", ["", "1,2\n", "0,1,2\n", "12,1,2\n", "1,5,5\n", "1,-5,5\n", "1,1e3,5000\n", f"1,1,{10**40}\n"]
)
def test_bad_labels_are_refused(tmp_path, rows):
    gestures(tmp_path / "d", CSV + rows)
    with pytest.raises(InputError, match=r"_labels\.csv"):
        read_gestures(tmp_path / "d" / "user01_fluorescent_labels.csv")


def test_lists_do_not_lead_out_of_the_folder(tmp_path):
    folder = gestures(tmp_path / "d")
    write(folder / "trials_to_test.txt", b"../../outside.aedat\n")
    assert DVS128Gesture().recordings(folder)[-1].path == folder / "outside.aedat"
    with pytest.raises(InputError, match=r"outside\.aedat"):
        DVS128Gesture().load(folder)


def test_cifar10_dvs_by_the_numbers_of_its_files(tmp_path):
    for name in CIFAR10DVS.names:
        for i in range(20):
            write(tmp_path / name / f"cifar10_{name}_{i}.aedat", aedat2((7, 0, i, 2)))
    data = CIFAR10DVS(steps=1, size=None, hold_out=0.1).load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (162, 18, 20)
    assert data.test.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert data.test.images[0].nonzero().tolist() == [[0, 1, 127 - 18, 125]]
    assert data.test.images[1].nonzero().tolist() == [[0, 1, 127 - 19, 125]]
