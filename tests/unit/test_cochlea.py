"""HDF5 files of spikes: what is read, and what is not followed, not claimed and not believed."""

import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikeproof.datasets import SHD, SSC
from spikeproof.datasets.cochlea import read_spikes
from spikeproof.errors import InputError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for source in (SHD, SSC):  # a few examples are all there is
        monkeypatch.setattr(source, "published", {})


def lists(rows, kind):
    """An array of lists of any length."""
    array = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        array[i] = np.array(row, kind)
    return array


def write(path, times=((0.0, 0.5), (1.25,)), units=((0, 699), (350,)), labels=(3, 7), kind=np.float16):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("spikes/times", data=lists(times, kind), dtype=h5py.vlen_dtype(kind))
        file.create_dataset("spikes/units", data=lists(units, np.uint16), dtype=h5py.vlen_dtype(np.uint16))
        file.create_dataset("labels", data=np.array(labels, np.uint16))
    return path


def test_spikes_arrive_in_their_frames(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / "SHD" / f"shd_{part}.h5")
    data = SHD(steps=14, hold_out=0).load(tmp_path)
    assert data.test.images.shape == (2, 14, 1, 700, 1)
    assert data.test.labels.tolist() == [3, 7]
    assert data.test.images[0].nonzero()[:, [0, 2]].tolist() == [[0, 0], [5, 699]]
    assert data.test.images[1].nonzero()[:, [0, 2]].tolist() == [[12, 350]]
    joined = SHD(steps=14, size=2, hold_out=0).load(tmp_path)
    assert joined.test.images.sum((0, 1, 2, 4)).tolist() == [1, 2]
    assert len(SHD.names) == len(set(SHD.names)) == 20


def test_the_authors_validation_part_is_used(tmp_path):
    for i, part in enumerate(("train", "valid", "test")):
        write(tmp_path / f"ssc_{part}.h5", labels=(i, 34), kind=np.float32)
    data = SSC(steps=5, duration=1.4).load(tmp_path)
    assert [p.labels.tolist() for p in (data.train, data.validation, data.test)] == [
        [0, 34],
        [1, 34],
        [2, 34],
    ]
    assert len(data.classes) == len(set(data.classes)) == 35


def external_link(file):
    del file["labels"]
    file["labels"] = h5py.ExternalLink("other.h5", "/labels")


def soft_link(file):
    file["elsewhere"] = file["labels"][:]
    del file["labels"]
    file["labels"] = h5py.SoftLink("/elsewhere")


def external_storage(file):
    del file["labels"]
    file.create_dataset("labels", (2,), "u2", external=[("/etc/passwd", 0, 4)])


def virtual(file):
    del file["labels"]
    layout = h5py.VirtualLayout((2,), "u2")
    layout[:] = h5py.VirtualSource("other.h5", "labels", (2,))
    file.create_virtual_dataset("labels", layout)


def huge(file):
    del file["labels"]
    file.create_dataset("labels", (1 << 40,), "u2", chunks=(1 << 20,), compression="gzip")


def huge_chunks(file):
    del file["labels"]
    file.create_dataset("labels", (2,), "u2", chunks=(1 << 28,), maxshape=(None,), compression="gzip")


def huge_entries(file):
    del file["labels"]
    file.create_dataset("labels", (2,), "V1000000000")


def replaced(name, data, dtype=None):
    def change(file):
        del file[name]
        file.create_dataset(name, data=data, dtype=dtype)

    change.__name__ = name.replace("/", "_")
    return change


HOSTILE = {
    external_link: "ExternalLink, which is not followed",
    soft_link: "SoftLink, which is not followed",
    external_storage: "not a list within the file",
    virtual: "not a list within the file",
    huge: "1099511627776 entries",
    huge_chunks: "chunks of 268435456",
    huge_entries: "V1000000000",
    replaced("labels", [1.5, 2]): "float64",
    replaced("labels", [1, 2, 3]): "3 labels",
    replaced("labels", [[1, 2]]): "not a list",
    replaced("spikes/times", np.zeros(2)): "times float64",
    replaced("spikes/times", lists([[-1.0, 0], [1]], float), h5py.vlen_dtype(float)): "times -1.0",
    replaced("spikes/times", lists([[np.nan, 0], [1]], float), h5py.vlen_dtype(float)): "times nan",
    replaced("spikes/times", lists([[1e30, 0], [1]], float), h5py.vlen_dtype(float)): "1e+30",
    replaced("spikes/times", lists([[1.0], [1]], float), h5py.vlen_dtype(float)): "(1,) and units (2,)",
}


@pytest.mark.parametrize("change", HOSTILE, ids=[f"{i}-{c.__name__}" for i, c in enumerate(HOSTILE)])
def test_hostile_files_are_refused_and_take_no_memory(tmp_path, change):
    path = write(tmp_path / "hostile.h5")
    with h5py.File(path, "a") as file:
        change(file)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"hostile\.h5") as caught:
        list(read_spikes(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert HOSTILE[change] in str(caught.value)
    assert peak < 8 << 20


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" + bytes(100)])
def test_files_that_are_no_hdf5_are_refused_by_name(tmp_path, content):
    (tmp_path / "other.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"other\.h5"):
        list(read_spikes(tmp_path / "other.h5"))


def test_half_a_file_is_refused(tmp_path):
    path = write(tmp_path / "half.h5")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"half\.h5"):
        list(read_spikes(path))


def test_units_and_labels_outside_are_refused(tmp_path):
    write(tmp_path / "shd_train.h5")
    write(tmp_path / "shd_test.h5", units=((0, 700), (1,)))
    with pytest.raises(InputError, match="row 0 to 700 of 700"):
        SHD(steps=2).load(tmp_path)
    write(tmp_path / "shd_test.h5", labels=(0, 20))
    with pytest.raises(InputError, match="label 20"):
        SHD(steps=2).load(tmp_path)


def test_without_h5py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install 'spikeproof\[hdf5\]'"):
        list(read_spikes(Path("any.h5")))
