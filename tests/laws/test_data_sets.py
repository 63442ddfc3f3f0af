"""What every data set must satisfy; a new one adds a row to ROWS, with files in its published layout."""

import io
import itertools
import json
import struct
import zlib

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from spikeproof.catalogue.names import PARTS
from spikeproof.coded import CodedImages
from spikeproof.datasets import (
    CIFAR10,
    CIFAR10DVS,
    CIFAR100,
    MNIST,
    NMNIST,
    SHD,
    SSC,
    DatasetSpec,
    Digits,
    DVS128Gesture,
    Enlarged,
    EventFolder,
    FashionMNIST,
    HuggingFaceImages,
    ImageArrays,
    ImageFolder,
    Randman,
    SpokenDigits,
    YinYang,
    images,
)
from spikeproof.encoders import Latency
from spikeproof.poisoning import BadNets, Poisoned
from spikeproof.specs import build, describe

PARTS_OF_A_SET = ("train", "validation", "test")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def none(folder, draws):
    """Data that need no files."""


def idx(folder, draws):
    for part, count in (("train", 300), ("t10k", 60)):
        pixels, labels = (
            draws.integers(0, 256, (count, 4, 4), np.uint8),
            np.arange(count, dtype=np.uint8) % 10,
        )
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            write(folder / f"{part}-{name}-ubyte", head + array.tobytes())


def cifar(folder, draws, files, coarse=0, classes=10, each=40):
    for name in files:
        labels = np.arange(each * classes // 10) % classes
        records = (bytes([*[3] * coarse, n]) + draws.bytes(3072) for n in labels)
        write(folder / f"{name}.bin", b"".join(records))


def cifar10(folder, draws):
    cifar(folder / "cifar-10-batches-bin", draws, [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"])


def cifar100(folder, draws):
    cifar(folder / "cifar-100-binary", draws, ("train", "test"), 1, 100, 120)


def spikes_of_a_cochlea(folder, draws, name, parts, classes, each, kind):
    for part in parts:
        count = each * classes
        with h5py.File(folder / f"{name}_{part}.h5", "w") as file:
            for field, high, form in (("times", 1.0, kind), ("units", 700, np.uint16)):
                rows = np.empty(count, object)
                for i in range(count):
                    rows[i] = np.sort(draws.random(20) * high).astype(form)
                file.create_dataset(f"spikes/{field}", data=rows, dtype=h5py.vlen_dtype(form))
            file.create_dataset("labels", data=(np.arange(count) % classes).astype(np.uint16))


def shd(folder, draws):
    spikes_of_a_cochlea(folder, draws, "shd", ("train", "test"), 20, 12, np.float16)


def ssc(folder, draws):
    spikes_of_a_cochlea(folder, draws, "ssc", ("train", "valid", "test"), 35, 2, np.float32)


def spoken(folder, draws):
    for digit, who, take in itertools.product(range(10), ("ann", "bob"), (0, 1, 5, 6, 7, 8)):
        data = struct.pack("<800h", *draws.integers(-9999, 9999, 800).tolist())
        head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
        body = head + b"data" + struct.pack("<I", len(data)) + data
        write(
            folder / "recordings" / f"{digit}_{who}_{take}.wav", b"RIFF" + struct.pack("<I", len(body)) + body
        )


def events(draws, side, count=12):
    """Times in microseconds, polarities, rows and columns."""
    time = np.sort(draws.integers(0, 300_000, count))
    return zip(time.tolist(), *(draws.integers(0, n, count).tolist() for n in (2, side, side)), strict=True)


def n_mnist(folder, draws):
    for part, digit, i in itertools.product(("Train", "Test"), range(10), range(12)):
        bits = (x << 32 | y << 24 | p << 23 | t for t, p, y, x in events(draws, 34))
        write(
            folder / "NMNIST" / part / str(digit) / f"{i}.bin", b"".join(b.to_bytes(5, "big") for b in bits)
        )


def gestures(folder, draws):
    people = {"train": [f"user{i:02}_led" for i in range(1, 9)], "test": ["user24_led", "user25_led"]}
    for part, names in people.items():
        write(folder / f"trials_to_{part}.txt", "".join(f"{name}.aedat\n" for name in names).encode())
        for name in names:
            rows = [f"{n},{1000 * n},{1000 * n + 900}" for n in range(1, 12)]
            labels = "\n".join(["class,startTime_usec,endTime_usec", *rows, ""])
            write(folder / f"{name}_labels.csv", labels.encode())
            inside = [
                (1000 * n + t, *draws.integers(0, (2, 128, 128)).tolist())
                for n in range(1, 12)
                for t in range(0, 900, 90)
            ]
            packed = b"".join(struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t) for t, p, y, x in inside)
            count = len(inside)
            head = struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, count, count, count)
            start = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
            write(folder / f"{name}.aedat", start + head + packed)


def cifar10_dvs(folder, draws):
    for name, i in itertools.product(CIFAR10DVS.names, range(20)):
        words = (struct.pack(">II", x << 8 | y << 1 | p, t) for t, p, y, x in events(draws, 128))
        write(folder / name / f"cifar10_{name}_{i}.aedat", b"#!AER-DAT2.0\r\n" + b"".join(words))


def png(pixels):
    """A PNG file of unsigned bytes, `[H, W]` or `[H, W, 3]`, by its definition."""
    height, width = pixels.shape[:2]
    kind = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def pictures(folder, draws):
    for name, i in itertools.product(("bird", "cat", "dog"), range(20)):
        write(folder / "own" / name / f"{i}.png", png(draws.integers(0, 256, (5, 4, 3), np.uint8)))


def numpy_arrays(folder, draws):
    file = io.BytesIO()
    np.savez(
        file,
        x_train=draws.integers(0, 256, (48, 5, 4, 3), np.uint8),
        y_train=np.arange(48) % 3,
        x_test=draws.integers(0, 256, (12, 5, 4, 3), np.uint8),
        y_test=np.arange(12) % 3,
    )
    write(folder / "own.npz", file.getvalue())


def hugging_face(folder, draws):
    names = {"class": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    features = {"image": {"_type": "Image"}, "label": names["class"]}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for part, count in (("train", 48), ("test", 12)):
        images = [
            {"bytes": png(draws.integers(0, 256, (5, 4), np.uint8)), "path": None} for _ in range(count)
        ]
        table = pyarrow.table({"image": images, "label": [i % 3 for i in range(count)]})
        path = folder / "own" / "data" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table.replace_schema_metadata(about), path)


def event_folder(folder, draws):
    kind = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.int8)])
    for name, i in itertools.product(("left", "right"), range(20)):
        rows = np.array([(t, x, y, p) for t, p, y, x in events(draws, 9)], kind)
        file = io.BytesIO()
        np.save(file, rows)
        write(folder / "own" / name / f"{i}.npy", file.getvalue())


# a data set, what writes its files, and the numbers of examples in its parts
ROWS = [
    (Digits(), none, (1257, 180, 360)),
    (YinYang(train=60, validation=30, test=30), none, (60, 30, 30)),
    (Randman(classes=3, units=4, steps=9, examples=40), none, (96, 12, 12)),
    (CodedImages(Digits(), Latency(4)), none, (1257, 180, 360)),
    (Enlarged(Digits(), 2), none, (1257, 180, 360)),
    (Poisoned(Digits(), BadNets(side=2), 0.2, 3), none, (1257, 180, 360)),
    (MNIST(hold_out=100), idx, (200, 100, 60)),
    (FashionMNIST(hold_out=100), idx, (200, 100, 60)),
    (CIFAR10(hold_out=80), cifar10, (120, 80, 40)),
    (CIFAR100(hold_out=600), cifar100, (600, 600, 1200)),
    (SHD(steps=5, hold_out=0.5), shd, (120, 120, 240)),
    (SSC(steps=5), ssc, (70, 70, 70)),
    (SpokenDigits(steps=5, bands=24, hold_out=0.5), spoken, (40, 40, 40)),
    (NMNIST(steps=4, hold_out=0.5), n_mnist, (60, 60, 120)),
    (DVS128Gesture(steps=3, size=32, hold_out=0.5), gestures, (44, 44, 22)),
    (CIFAR10DVS(steps=3, size=32, hold_out=0.5), cifar10_dvs, (90, 90, 20)),
    (ImageFolder(path="own", hold_out=0.25), pictures, (36, 12, 12)),
    (ImageArrays(path="own.npz", hold_out=0.25), numpy_arrays, (36, 12, 12)),
    (HuggingFaceImages(path="own", hold_out=0.25), hugging_face, (36, 12, 12)),
    (EventFolder(path="own", steps=3, hold_out=0.25, sensor=(9, 9)), event_folder, (24, 8, 8)),
]
NAMES = [name for data_set, *_ in ROWS for name, cls in PARTS[DatasetSpec].items() if type(data_set) is cls]
each = pytest.mark.parametrize(("data_set", "files", "sizes"), ROWS, ids=NAMES)
from_files = pytest.mark.parametrize(
    ("data_set", "files"),
    [row[:2] for row in ROWS if row[1] is not none],
    ids=[name for name, row in zip(NAMES, ROWS, strict=True) if row[1] is not none],
)


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No data but what a test writes, and an empty cache."""
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "debian")


def read(data_set, files, folder, seed=0):
    folder.mkdir()
    files(folder, np.random.default_rng(seed))
    return data_set.load(folder)


def content(part):
    return [image.numpy().tobytes() for image in part.images]


@each
def test_parts_are_disjoint_and_every_class_is_in_each(data_set, files, sizes, tmp_path):
    data = read(data_set, files, tmp_path / "files")
    parts = [getattr(data, name) for name in PARTS_OF_A_SET]
    assert tuple(map(len, parts)) == sizes
    for part in parts:
        assert part.labels.unique().tolist() == list(range(len(data.classes)))
        assert len(part.ids.unique()) == len(part)
    learned, chosen = (set(part.ids.tolist()) for part in parts[:2])
    assert files is ssc or not learned & chosen  # the authors' files of SSC number each part from 0
    if not isinstance(
        data_set, (CodedImages, Randman)
    ):  # of few levels, where two examples may look the same
        for one, other in itertools.combinations(map(content, parts), 2):
            assert not set(one) & set(other)


@each
def test_images_are_shares_and_events_whole_numbers_of_one_shape(data_set, files, sizes, tmp_path):
    data = read(data_set, files, tmp_path / "files")
    assert len(data.classes) == len(set(data.classes)) > 1
    shapes = {getattr(data, name).images.shape[1:] for name in PARTS_OF_A_SET}
    assert len(shapes) == 1
    for part in (getattr(data, name) for name in PARTS_OF_A_SET):
        assert len(part.images) == len(part.labels) == len(part.ids)
        assert part.labels.dtype == part.ids.dtype == torch.int64
        assert part.images.min() >= 0
        assert part.images.flatten(1).any(1).all()
        if part.images.is_floating_point():
            assert part.images.dtype == torch.float32
            assert part.images.ndim == 4
            assert part.images.max() <= 1
        else:
            assert part.images.ndim == 5
            assert part.images.dtype.itemsize <= 2


@each
def test_loaded_twice_it_is_the_same_to_the_byte(data_set, files, sizes, tmp_path):
    data = read(data_set, files, tmp_path / "files")
    again = data_set.load(tmp_path / "files")
    elsewhere = read(data_set, files, tmp_path / "elsewhere")
    for other in (again, elsewhere):
        assert (other.sha256, other.classes, other.name) == (data.sha256, data.classes, data.name)
        for name in PARTS_OF_A_SET:
            for field in ("images", "labels", "ids"):
                assert torch.equal(getattr(getattr(other, name), field), getattr(getattr(data, name), field))
    assert len(bytes.fromhex(data.sha256)) == 32
    assert build(DatasetSpec, describe(data_set, PARTS), PARTS) == data_set


@from_files
def test_other_content_has_another_digest(data_set, files, tmp_path):
    found = {read(data_set, files, tmp_path / str(seed), seed).sha256 for seed in (0, 1)}
    assert len(found) == 2
