"""CIFAR files written byte by byte; hostile ones run nothing and claim no memory."""

import hashlib
import io
import os
import pickle
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch

from spikeproof.datasets import CIFAR10, CIFAR100, locate
from spikeproof.datasets.cifar import unpickled
from spikeproof.errors import InputError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for source in (CIFAR10, CIFAR100):  # a few examples are all there is
        monkeypatch.setattr(source, "published", {})
    for name in ("CIFAR10", "CIFAR100"):
        monkeypatch.setenv(f"SPIKEPROOF_MIRROR_{name}", "http://127.0.0.1:9/")


def pixels(count, first=0):
    return bytes((7 * i + first) % 256 for i in range(count * 3072))


def binary_folder(folder, label_bytes=1, files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")):
    """Two records in each file: labels, then 1,024 bytes each of red, green and blue."""
    folder.mkdir(parents=True)
    for n, name in enumerate(files):
        records = b"".join(
            bytes([3] * (label_bytes - 1) + [(n + k) % 10]) + pixels(1, n + k) for k in range(2)
        )
        (folder / f"{name}.bin").write_bytes(records)
    return folder


def python2_pickle(count, labels, data, key=b"labels"):
    """A batch by the letter of pickle protocol 2, with the 8-bit text of Python 2, as published."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01J" + struct.pack("<i", count) + b"M\x00\x0c\x86" + dtype + b"\x89" + text(data) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key) + listed + b"u."


def python_folder(folder, dump=None):
    folder.mkdir(parents=True)
    for n, name in enumerate((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")):
        data, labels = pixels(1, n) + pixels(1, n + 1), [n % 10, (n + 1) % 10]
        content = dump(data, labels) if dump else python2_pickle(2, labels, data)
        (folder / name).write_bytes(content)
    return folder


def python3_dump(protocol):
    def dump(data, labels):
        array = np.frombuffer(data, np.uint8).reshape(2, 3072)
        return pickle.dumps({"data": array.copy(), "labels": labels, "filenames": ["a", "b"]}, protocol)

    return dump


def test_binary_records_are_red_green_blue_row_by_row(tmp_path):
    data = CIFAR10(hold_out=4).load(binary_folder(tmp_path / "cifar-10-batches-bin").parent)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 4, 2)
    assert data.test.labels.tolist() == [5, 6]
    assert data.test.images.shape == (2, 3, 32, 32)
    for channel, row, column in ((0, 0, 0), (1, 2, 3), (2, 31, 31)):
        place = 1024 * channel + 32 * row + column
        assert data.test.images[1, channel, row, column] * 255 == pytest.approx((7 * place + 6) % 256)
    for image, label, n in zip(data.train.images, data.train.labels, data.train.ids.tolist(), strict=True):
        assert label == n // 2 + n % 2
        assert (image[0, 0, 0] * 255).round() == n // 2 + n % 2


@pytest.mark.parametrize("protocol", [None, 2, 4, 5])
def test_batches_of_every_python_are_the_binary_version(tmp_path, protocol):
    binary = CIFAR10(2).load(binary_folder(tmp_path / "binary"))
    folder = python_folder(tmp_path / "cifar-10-batches-py", protocol and python3_dump(protocol))
    batches = CIFAR10(2).load(folder.parent)
    assert batches.sha256 == binary.sha256
    assert torch.equal(batches.train.images, binary.train.images)
    assert batches.origin == str(folder) == locate(CIFAR10, tmp_path)


def test_the_python_archive_is_read_as_it_is(tmp_path):
    folder = python_folder(tmp_path / "cifar-10-batches-py")
    expected = CIFAR10(2).load(folder).sha256
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    assert CIFAR10(2).load(tmp_path / "packed").sha256 == expected
    whole = (tmp_path / "packed" / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "packed" / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="broken archive"):
        CIFAR10(2).load(tmp_path / "packed")


def test_hundred_classes_are_the_fine_ones(tmp_path):
    folder = binary_folder(tmp_path / "cifar-100-binary", 2, ("train", "test"))
    data = CIFAR100(0).load(tmp_path)
    assert data.test.labels.tolist() == [1, 2]
    assert (len(data.classes), len(set(data.classes))) == (100, 100)
    assert list(data.classes) == sorted(data.classes)
    assert data.origin == str(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes, no whole number of records"),
        (b"\x00" * 3072, "3072 bytes"),
        (b"\x0a" + b"\x00" * 3072, "label 10"),
    ],
)
def test_bad_binary_files_are_refused(tmp_path, content, words):
    folder = binary_folder(tmp_path / "d")
    (folder / "test_batch.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"test_batch\.bin") as caught:
        CIFAR10(2).load(folder)
    assert words in str(caught.value)


class Command:
    def __reduce__(self):
        return os.system, ("echo run > executed",)


class Evaluation:
    def __reduce__(self):
        return eval, ("open('executed', 'w')",)


def deep(n):
    """A tuple of itself twice, n times over, as the key of a dictionary."""
    return b"\x80\x02}K\x01" + b"2\x86" * n + b"K\x00s."


GOOD = python2_pickle(2, [1, 2], pixels(2))
HOSTILE = {
    "a command": (pickle.dumps({"data": Command(), "labels": []}), "system"),
    "an expression": (pickle.dumps(Evaluation()), "eval"),
    "objects": (pickle.dumps({"data": np.array([None, {}], object), "labels": []}), "'O8'"),
    "numbers of another type": (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]}), "'f8'"),
    "a changed function": (b"\x80\x02cnumpy\ndtype\nN}\x86b.", "changes a function"),
    "an attribute of a function": (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "dtype.__init__"),
    "many numbered values": (b"\x80\x02Nr\xff\xff\xff\x7f.", "more values than it has bytes"),
    "tuples of tuples": (deep(60), "more than 24 tuples"),
    "a huge shape": (GOOD.replace(struct.pack("<i", 2) + b"M", struct.pack("<i", 1 << 30) + b"M"), "reshape"),
    "a huge claim of bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.", "not read further"),
    "half a file": (GOOD[: len(GOOD) // 2], "not read further"),
    "nothing": (b"", "not read further"),
    "no dictionary": (pickle.dumps([1]), "pickled list"),
    "no array": (pickle.dumps({"data": b"abc", "labels": [1]}), "no 'data'"),
    "another width": (pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [1, 2]}), "no 'data'"),
    "too few labels": (python2_pickle(2, [1], pixels(2)), "no 'labels'"),
    "labels under another name": (python2_pickle(2, [1, 2], pixels(2), b"fine_labels"), "no 'labels'"),
    "labels that are none": (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1.5]}), "no 'l"),
    "labels below zero": (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}), "no 'l"),
    "labels of no class": (python2_pickle(2, [1, 77], pixels(2)), "label 77"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_pickle_of_other_objects_is_refused_before_any_code_of_it_runs(tmp_path, monkeypatch, case):
    content, words = HOSTILE[case]
    folder = python_folder(tmp_path / "d")
    (folder / "data_batch_3").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    with pytest.raises(InputError, match="data_batch_3") as caught:
        CIFAR10(2).load(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words in str(caught.value)
    assert not (tmp_path / "executed").exists()
    assert peak < 32 << 20


def test_reading_leaves_no_trace_in_the_reader(tmp_path):
    before = unpickled(GOOD, tmp_path)
    with pytest.raises(InputError):
        unpickled(HOSTILE["a changed function"][0], tmp_path)
    after = unpickled(GOOD, tmp_path)
    assert np.array_equal(before["data"], after["data"])


def test_a_bomb_in_the_archive_is_read_only_as_far_as_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr("spikeproof.datasets.cifar.LARGEST", 1 << 20)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = 8 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(InputError, match="more than 1048576 bytes"):
        CIFAR10().load(tmp_path)


def test_missing_archives_are_named_with_their_folders_and_the_mirror(tmp_path):
    with pytest.raises(InputError) as caught:
        CIFAR10().load(tmp_path)
    for words in ("cifar-10-batches-py", "cifar-10-batches-bin", "--data", "SPIKEPROOF_MIRROR_CIFAR10"):
        assert words in str(caught.value)
    assert "not found" in locate(CIFAR100)
    with pytest.raises(InputError, match="hold_out=-1"):
        CIFAR10(-1)
    with pytest.raises(InputError, match="more training images than it holds out"):
        CIFAR10(10).load(python_folder(tmp_path / "few"))


def test_checksums_are_sha256():
    assert {len(c.checksum) for c in (CIFAR10, CIFAR100)} == {len(hashlib.sha256().hexdigest())}
