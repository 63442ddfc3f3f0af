"""Recordings of the user: every format gives the same events, and damaged recordings are refused."""

import importlib.util
import io
import itertools
import os
import pickle
import struct
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

from spikeproof.datasets import EventFolder, Subset, TonicEvents
from spikeproof.datasets.owned.eventfiles import Columns, label_of_hdf5, read_events
from spikeproof.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from written import aedat2, aedat3, forty_bits, put

HEIGHT, WIDTH = 12, 15


def recording(seed=0, count=40, shape=(HEIGHT, WIDTH), last=300_000):
    """Columns x, y, t (microseconds from 0) and p of one recording."""
    draws = np.random.default_rng(seed)
    time = np.sort(draws.integers(0, last, count))
    time[0] = 0
    return {
        "x": draws.integers(0, shape[1], count),
        "y": draws.integers(0, shape[0], count),
        "t": time,
        "p": draws.integers(0, 2, count),
    }


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def structured(columns, order="xytp", kinds=(np.uint16, np.uint16, np.int64, np.int8)):
    kinds = dict(zip("xytp", kinds, strict=True))
    rows = np.empty(len(columns["t"]), [(name, kinds[name]) for name in order])
    for name in order:
        rows[name] = columns[name]
    return rows


def rows(columns):
    """Events as `written` takes them: time, polarity, row, column."""
    return list(zip(*(columns[name].tolist() for name in "tpyx"), strict=True))


def hdf5(fill):
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        fill(opened)
    return file.getvalue()


def prophesee(columns):
    def fill(file):
        file.attrs["geometry"] = f"{WIDTH}x{HEIGHT}"
        file["CD/events"] = structured(columns, "xypt", (np.uint16, np.uint16, np.int64, np.int16))

    return hdf5(fill)


def dsec(columns):
    def fill(file):
        for name in "xytp":
            file[f"events/{name}"] = columns[name].astype(np.uint32)
        file["t_offset"] = 5_000_000
        file["ms_to_idx"] = np.arange(3)

    return hdf5(fill)


def tonic_cache(columns, label=1):
    def fill(file):
        file.create_dataset("data/0", data=structured(columns, "xytp"), compression="lzf")
        file["target/0"] = label

    return hdf5(fill)


def dat(columns):
    """Prophesee DAT 2: lines of `%`, kind and size of an event, then time and packed x, y, p of 32 bits."""
    head = f"% Data file\n% Version 2\n% Height {HEIGHT}\n% Width {WIDTH}\n".encode()
    body = (struct.pack("<II", t, x | y << 14 | p << 28) for t, p, y, x in rows(columns))
    return head + bytes([0x0C, 8]) + b"".join(body)


def evt_header(version):
    form = f"% evt {version}.0\n% format EVT{version};height={HEIGHT};width={WIDTH}\n"
    return f"{form}% geometry {WIDTH}x{HEIGHT}\n% end\n".encode()


def evt2(columns):
    """Prophesee EVT 2: words of 32 bits, where one with the upper bits of the time comes before a change."""
    words, high = [], None
    for t, p, y, x in rows(columns):
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 28 | high)
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return evt_header(2) + struct.pack(f"<{len(words)}I", *words)


def evt3(columns):
    """Prophesee EVT 3: words of 16 bits, of which the upper 4 say what the others are."""
    words = []
    for t, p, y, x in rows(columns):
        words += [0x8000 | t >> 12, 0x6000 | t & 0xFFF, y, 0x2000 | p << 11 | x]
    return evt_header(3) + struct.pack(f"<{len(words)}H", *words)


def evt21(columns, legacy=False, stated=True):
    """Prophesee EVT 2.1: words of 64 bits, the pixels of a row that change together in one of them."""
    words, high, last = [], None, None
    for t, p, y, x in rows(columns):
        if t >> 6 != high:
            high, last = t >> 6, None
            words.append([0x8 << 28 | high & (1 << 28) - 1, 0])
        if last is not None and last[:3] == (t, p, y) and 0 < x - last[3] < 32:
            words[-1][1] |= 1 << x - last[3]
        else:
            last = (t, p, y, x)
            words.append([p << 28 | (t & 63) << 22 | x << 11 | y, 1])
    halves = [half for head, mask in words for half in ((head, mask) if legacy else (mask, head))]
    order = f";endianness={'legacy' if legacy else 'little'}" if stated else ""
    header = f"% evt 2.1\n% format EVT21;height={HEIGHT};width={WIDTH}{order}\n% end\n".encode()
    return header + struct.pack(f"<{len(halves)}I", *halves)


def needs(*packages):
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} is not installed")


FORMATS = {  # name -> suffix, what writes the file, options
    "structured": (".npy", lambda c: npy(structured(c)), {}),
    "structured, other order": (".npy", lambda c: npy(structured(c, "ptyx")), {}),
    "table of columns": (".npy", lambda c: npy(np.stack([c[k] for k in "txyp"], 1)), {"columns": "txyp"}),
    "table of rows": (
        ".npy",
        lambda c: npy(np.stack([c[k] for k in "xytp"]).astype(float)),
        {"columns": "xytp"},
    ),
    "named arrays": (".npz", lambda c: npz(**c), {}),
    "other names": (
        ".npz",
        lambda c: npz(ts=c["t"], row=c["y"], col=c["x"], polarity=c["p"] * 2 - 1, frames=np.zeros((2, 2))),
        {},
    ),
    "one array": (".npz", lambda c: npz(events=structured(c)), {}),
    "seconds": (".npz", lambda c: npz(**{**c, "t": c["t"] / 1e6}), {"tick": 1.0}),
    "from a later start": (
        ".npz",
        lambda c: npz(**{**c, "t": (c["t"] + 1_600_000_000_000_000).astype(np.uint64)}),
        {},
    ),
    "bools": (".npz", lambda c: npz(**{**c, "p": c["p"].astype(bool)}), {}),
    "Prophesee HDF5": (".hdf5", prophesee, {}),
    "DSEC HDF5": (".h5", dsec, {}),
    "tonic's cache": (".hdf5", tonic_cache, {}),
    "N-MNIST": (".bin", lambda c: forty_bits(rows(c)), {}),
    "AEDAT 3": (".aedat", lambda c: aedat3(rows(c)), {}),
    "AEDAT 2": (".aedat", lambda c: aedat2(rows(c)), {}),
    "DAT": (".dat", dat, {}),
    "EVT 2": (".raw", evt2, {}),
    "EVT 3": (".raw", evt3, {}),
    "EVT 2.1": (".raw", evt21, {}),
    "EVT 2.1 of IMX636": (".raw", lambda c: evt21(c, legacy=True), {}),
    "EVT 2.1 without its order": (".raw", lambda c: evt21(c, stated=False), {}),
    "EVT 2.1 of IMX636 without its order": (".raw", lambda c: evt21(c, True, False), {}),
}
MARKS = {name: needs("faery") for name in ("DAT", "EVT 2", "EVT 3")}
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in FORMATS], ids=lambda name: name
)


def written(path, name, columns):
    suffix, write, options = FORMATS[name]
    return put(path.with_suffix(suffix), write(columns)), Columns(
        options.get("columns"), options.get("tick", 1e-6)
    )


@each
def test_every_format_gives_the_events_that_were_written(tmp_path, name):
    columns = recording(shape=(128, 128) if name == "AEDAT 2" else (HEIGHT, WIDTH))
    path, how = written(tmp_path / "it", name, columns)
    seen = read_events(path, how)
    assert seen.sensor in (None, (HEIGHT, WIDTH))
    for found, wanted in zip(
        (seen.events.time, seen.events.column, seen.events.row, seen.events.channel), "txyp", strict=True
    ):
        assert found.tolist() == columns[wanted].tolist(), wanted
    assert seen.events.remark == ""


@each
def test_a_file_that_ends_within_an_event_is_refused(tmp_path, name):
    path, how = written(tmp_path / "it", name, recording())
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(path, how)


@each
def test_half_a_file_is_refused_by_its_name_or_gives_the_first_events(tmp_path, name):
    columns = recording(shape=(128, 128) if name == "AEDAT 2" else (HEIGHT, WIDTH))
    path, how = written(tmp_path / "it", name, columns)
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 1, max(len(whole) // 23, 1)):
        path.write_bytes(whole[:cut])
        if name in SILENT and not refused(path, how):
            found = read_events(path, how).events.time
            assert found.tolist() == columns["t"][: len(found)].tolist()
        else:
            assert refused(path, how)


SILENT = ("N-MNIST", "AEDAT 2", "DAT", "EVT 2", "EVT 3", *(name for name in FORMATS if "EVT 2.1" in name))
"""Formats of equally long events, which do not state how many events there are."""


def refused(path, how):
    """Whether a file is refused, by its name."""
    try:
        read_events(path, how)
    except InputError as error:
        return path.name in str(error)
    return False


@pytest.mark.parametrize("legacy", [False, True])
def test_pixels_that_change_together_share_a_word_of_evt_21(tmp_path, legacy):
    together = {
        "x": [2, 3, 9, 14, 0, 1],
        "y": [4] * 5 + [5],
        "t": [7] * 4 + [90, 91],
        "p": [1, 1, 1, 1, 0, 0],
    }
    columns = {name: np.array(values) for name, values in together.items()}
    content = evt21(columns, legacy)
    assert len(content.partition(b"% end\n")[2]) == 8 * 5  # two with upper bits, three with pixels
    seen = read_events(put(tmp_path / "it.raw", content))
    assert seen.sensor == (HEIGHT, WIDTH)
    assert seen.events.column.tolist() == together["x"]
    assert seen.events.row.tolist() == together["y"]
    assert seen.events.channel.tolist() == together["p"]
    assert seen.events.time.tolist() == [t - 7 for t in together["t"]]


def test_the_clock_of_evt_21_is_unwrapped_and_words_before_it_starts_are_left_out(tmp_path):
    columns = {**recording(), "t": (1 << 34) - 1000 + np.arange(40) * 60}
    content = evt21(columns)
    header, end, words = content.partition(b"% end\n")
    early = struct.pack("<II", 1, 0x1 << 28 | 9 << 11 | 9)
    trigger = struct.pack("<II", 0, 0xA << 28 | 1)
    seen = read_events(put(tmp_path / "it.raw", header + end + early + trigger + words))
    assert seen.events.time.tolist() == (np.arange(40) * 60).tolist()
    assert seen.events.column.tolist() == columns["x"].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.replace(b"little", b"biggie"), "order 'biggie'"),
        (lambda c: c.replace(b"little", b"legacy"), "in the order legacy"),
        (lambda c: c.partition(b"% end\n")[0] + b"% end\n" + bytes(64), "in the order little"),
        (lambda c: c.partition(b"% end\n")[0] + b"% end\n" + struct.pack("<II", 0, 8 << 28), "no events"),
        (lambda c: c + struct.pack("<II", 1, 5 << 28), "of unknown kinds"),
    ],
)
def test_files_that_are_no_evt_21_are_refused(tmp_path, change, words):
    columns = recording()
    with pytest.raises(InputError, match=words):
        read_events(put(tmp_path / "it.raw", change(evt21(columns))))


@needs("evlib", "polars")
def test_another_library_reads_the_same_events_of_evt_21(tmp_path):
    import evlib

    columns = recording()
    path = put(tmp_path / "it.raw", evt21(columns))
    theirs = evlib.load_events(str(path)).collect()
    seen = read_events(path)
    assert theirs["x"].to_list() == seen.events.column.tolist()
    assert theirs["y"].to_list() == seen.events.row.tolist()
    assert theirs["t"].dt.total_microseconds().to_list() == columns["t"].tolist()
    assert [max(p, 0) for p in theirs["polarity"].to_list()] == seen.events.channel.tolist()


@needs("aedat", "dv_processing")
def test_aedat_4_written_by_another_library_gives_the_events_that_were_written(tmp_path):
    import dv_processing

    columns, store = recording(), dv_processing.EventStore()
    for t, p, y, x in rows(columns):
        store.push_back(1_600_000_000_000_000 + t, x, y, bool(p))
    path = tmp_path / "it.aedat4"
    form = dv_processing.io.MonoCameraWriter.EventOnlyConfig("camera", (WIDTH, HEIGHT))
    writer = dv_processing.io.MonoCameraWriter(str(path), form)
    writer.writeEvents(store)
    del writer
    seen = read_events(path)
    assert seen.sensor == (HEIGHT, WIDTH)
    assert seen.events.time.tolist() == columns["t"].tolist()
    assert seen.events.row.tolist() == columns["y"].tolist()
    assert seen.events.channel.tolist() == columns["p"].tolist()
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"it\.aedat4 should be a complete recording"):
            read_events(path)


@pytest.mark.parametrize("suffix", [".aedat4", ".dat", ".raw"])
def test_a_format_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch, suffix):
    for package in ("aedat", "faery"):
        monkeypatch.setitem(sys.modules, package, None)
    path = put(tmp_path / f"it{suffix}", b"% evt 2.0\n% end\n" + bytes(10 if suffix == ".dat" else 8))
    with pytest.raises(InputError, match=r"needs (aedat|faery).*pip install 'spikeproof\[cameras\]'"):
        read_events(path)


class PanicException(BaseException):
    """As packages in Rust raise it: no `Exception`."""


@pytest.mark.parametrize(("suffix", "package"), [(".aedat4", "aedat"), (".dat", "faery"), (".raw", "faery")])
def test_a_panic_of_a_package_is_a_message_with_the_name_of_the_file(tmp_path, monkeypatch, suffix, package):
    def panics(*_):
        raise PanicException("index out of bounds")

    module = ModuleType(package)
    module.Decoder, module.dat, module.evt = panics, ModuleType("dat"), ModuleType("evt")
    module.dat.Decoder = module.evt.Decoder = panics
    monkeypatch.setitem(sys.modules, package, module)
    path = put(tmp_path / f"it{suffix}", b"% evt 2.0\n% end\n" + bytes(10 if suffix == ".dat" else 8))
    with pytest.raises(InputError, match=rf"it\{suffix}.*PanicException, index out of bounds"):
        read_events(path)


def changed(**changes):
    columns = recording()
    return {name: changes[name](values) if name in changes else values for name, values in columns.items()}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (changed(p=lambda p: p + 1), "polarities 1 to 2"),
        (changed(x=lambda x: x + 0.5), "x with fractions"),
        (changed(x=lambda x: np.where(x > 5, np.nan, x)), "x with fractions"),
        (changed(y=lambda y: y[:-1]), "columns of shapes"),
        (changed(t=lambda t: t / 1e6), "whole microseconds.*Write tick: 1 if"),
        (changed(t=lambda t: np.where(t > 9, np.inf, t.astype(float))), "not finite"),
        (changed(t=lambda t: np.concatenate([t[20:], t[:20]])), "clock does not go back"),
        (changed(t=lambda t: t.astype("U9")), "kinds U"),
        ({k: v for k, v in recording().items() if k != "p"}, "no column p"),
    ],
)
def test_columns_that_cannot_be_events_are_refused(tmp_path, columns, words):
    path = put(tmp_path / "it.npz", npz(**columns))
    with pytest.raises(InputError, match=words):
        read_events(path)


def test_columns_without_names_need_an_order(tmp_path):
    path = put(tmp_path / "it.npy", npy(np.stack(list(recording().values()), 1)))
    with pytest.raises(InputError, match="Write columns: xytp"):
        read_events(path)
    with pytest.raises(InputError, match="polarities"):
        read_events(path, Columns("ptxy"))
    for order in ("xyt", "xytt", "xyzp"):
        with pytest.raises(InputError, match="each of x, y, t and p once"):
            EventFolder(columns=order)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_no_pickle_in_a_recording_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    for name, content in (("a.npy", file.getvalue()), ("b.npz", pickle.dumps(Bomb())), ("c.npz", npz())):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_events(put(tmp_path / name, content))
    assert not (tmp_path / "exploded").exists()


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path):
    put(tmp_path / "other.h5", dsec(recording()))

    def whole(file):
        file["events"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "events")

    def column(file):
        for name in "xyt":
            file[f"events/{name}"] = recording()[name]
        file["events/p"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "events/p")

    for fill, words in ((whole, "no CD/events, events or data/0"), (column, "no array within the file")):
        with pytest.raises(InputError, match=words):
            read_events(put(tmp_path / "it.h5", hdf5(fill)))


# Folders


def folder_of(root, count=10, classes=("left", "right"), write=lambda c: npz(**c), suffix=".npz", seed=0):
    for j, name in enumerate(classes):
        for i in range(count):
            put(root / name / f"{i:02}{suffix}", write(recording(seed=1000 * seed + 100 * j + i)))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)


def load(path, **options):
    return EventFolder(path=str(path), **{"steps": 4, **options}).load()


def test_a_folder_of_recordings_is_divided_by_class_and_binned(tmp_path):
    data = load(folder_of(tmp_path / "own"), sensor=(HEIGHT, WIDTH))
    assert (data.name, data.classes, data.notes) == ("own", ("left", "right"), ())
    parts = data.train, data.validation, data.test
    assert [len(part) for part in parts] == [14, 2, 4]
    assert [part.labels.bincount().tolist() for part in parts] == [[7, 7], [1, 1], [2, 2]]
    assert data.train.images.shape[1:] == (4, 2, HEIGHT, WIDTH)
    assert all((part.images.flatten(1).sum(1) == 40).all() for part in parts)
    again = load(tmp_path / "own", sensor=(HEIGHT, WIDTH))
    assert again.sha256 == data.sha256
    assert torch.equal(again.train.images, data.train.images)


def test_without_a_size_the_sensor_holds_all_events_and_a_note_says_so(tmp_path):
    folder_of(tmp_path / "own")
    note = f"own: no size of the sensor is given, {HEIGHT}x{WIDTH} pixels hold all events"
    for data in (load(tmp_path / "own"), load(tmp_path / "own")):  # the second from the cache
        assert data.train.images.shape[-2:] == (HEIGHT, WIDTH)
        assert data.notes == (note,)
    with pytest.raises(InputError, match=r"events at row \d+ to 1\d of 9"):
        load(tmp_path / "own", sensor=(9, WIDTH))


def test_the_size_that_files_state_is_the_sensors(tmp_path):
    folder_of(tmp_path / "own", write=prophesee, suffix=".hdf5")
    assert load(tmp_path / "own").notes == ()
    assert load(tmp_path / "own", size=6).train.images.shape[-2:] == (6, 6)
    with pytest.raises(InputError, match=r"sensor of \(20, 20\) pixels.*\(12, 15\) in"):
        load(tmp_path / "own", sensor=(20, 20))
    with pytest.raises(InputError, match="at most as many as the sensor has"):
        load(tmp_path / "own", size=13)


def test_published_parts_are_kept_and_pooling_adds_up(tmp_path):
    folder_of(tmp_path / "train")
    folder_of(tmp_path / "test", 4, seed=1)
    data = load(tmp_path, sensor=(HEIGHT, WIDTH), size=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 8)
    assert data.test.images.shape[-2:] == (3, 3)
    full = load(tmp_path, sensor=(HEIGHT, WIDTH)).test.images.int()
    for row, column in itertools.product(range(3), range(3)):
        block = full[..., 4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        assert torch.equal(data.test.images[..., row, column].int(), block.sum((-2, -1)).int())
    assert not {*data.train.ids.tolist()} & {*data.validation.ids.tolist()}


def test_tonics_cache_in_one_folder_has_its_own_labels(tmp_path):
    for i in range(20):
        put(tmp_path / "own" / f"{i}_0.hdf5", tonic_cache(recording(i), i % 2))
    assert label_of_hdf5(tmp_path / "own" / "1_0.hdf5") == 1
    data = load(tmp_path / "own", sensor=(HEIGHT, WIDTH))
    assert (data.classes, len(data.train) + len(data.validation), len(data.test)) == (("0", "1"), 16, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "left" / "03.npz").write_bytes(b""), r"03\.npz should be"),
        (
            lambda root: put(root / "left" / "03.npz", npz(**changed(t=lambda t: t[::-1].copy()))),
            "does not go back",
        ),
        (
            lambda root: put(root / "left" / "03.npz", npz(**{k: v[:0] for k, v in recording().items()})),
            "has events",
        ),
        (lambda root: [path.unlink() for path in (root / "right").iterdir()], "all 2 classes"),
        (
            lambda root: [path.rename(path.with_suffix(".txt")) for path in root.rglob("*.npz")],
            r"has class folders.*left, right with 20 files \.txt",
        ),
    ],
)
def test_folders_that_are_damaged_are_refused_by_what_is_wrong(tmp_path, change, words):
    change(folder_of(tmp_path / "own"))
    with pytest.raises(InputError, match=words):
        load(tmp_path / "own", sensor=(HEIGHT, WIDTH))


def test_half_a_copy_of_a_subset_is_refused(tmp_path):
    folder_of(tmp_path / "own")
    assert load(tmp_path / "own", sensor=(HEIGHT, WIDTH), subset=Subset(train=16, test=4)).notes == ()
    with pytest.raises(InputError, match="takes a subset of own"):
        load(tmp_path / "own", sensor=(HEIGHT, WIDTH), subset=Subset(train=17, test=3))


def test_pipes_are_passed_over_and_blank_recordings_kept_on_request(tmp_path):
    folder_of(tmp_path / "own")
    os.mkfifo(tmp_path / "own" / "left" / "pipe.npz")
    put(tmp_path / "own" / "left" / "99.npz", npz(**{k: v[:0] for k, v in recording().items()}))
    data = load(tmp_path / "own", sensor=(HEIGHT, WIDTH), blank="keep")
    assert sum(map(len, (data.train, data.validation, data.test))) == 21
    assert "examples without events were kept" in data.notes[0]


# Data sets of tonic


class Poker:
    """As a data set of tonic is."""

    sensor_size = (WIDTH, HEIGHT, 2)
    classes = ("clubs", "hearts")

    def __init__(self, save_to, train=True):
        self.targets = [i % 2 for i in range(20 if train else 8)]
        self.first = 0 if train else 100

    def __getitem__(self, index):
        return structured(recording(self.first + index), "txyp"), self.targets[index]


class Undivided(Poker):
    def __init__(self, save_to):
        super().__init__(save_to)


class Sounds(Poker):
    """One row of units and no polarities, as SHD has."""

    sensor_size = (WIDTH, 1, 1)

    def __getitem__(self, index):
        return structured({**recording(index), "p": np.ones(40)}, "txp"), self.targets[index]


class Listed(Poker):
    """One that reads its files in the order in which the disk lists them."""

    order = range(20)

    def __init__(self, save_to, train=True):
        super().__init__(save_to, train)
        self.shown = [i for i in self.order if i < len(self.targets)]
        self.data = [f"{i:02}.npy" for i in self.shown]
        self.targets = [i % 2 for i in self.shown]

    def __getitem__(self, index):
        i = self.shown[index]
        return structured(recording(self.first + i), "txyp"), i % 2


class Scattered(Poker):
    sensor_size = None


class Unlucky(Poker):
    def __init__(self, save_to, train=True):
        raise OSError("no network")


@pytest.fixture
def tonic(monkeypatch):
    """A package of this name with the data sets above, for where it is not installed."""
    package, datasets = ModuleType("tonic"), ModuleType("tonic.datasets")
    for cls in (Poker, Undivided, Sounds, Listed, Scattered, Unlucky):
        setattr(datasets, cls.__name__, cls)
    datasets.__all__ = ["Poker", "Undivided", "Sounds", "Listed", "Scattered", "Unlucky"]
    package.datasets = datasets
    monkeypatch.setitem(sys.modules, "tonic", package)
    monkeypatch.setitem(sys.modules, "tonic.datasets", datasets)


def of_tonic(path, name):
    return TonicEvents(dataset=name, path=str(path), steps=4).load()


def test_a_data_set_of_tonic_keeps_its_parts_classes_and_events(tmp_path, tonic):
    data = of_tonic(tmp_path, "Poker")
    assert (data.name, data.classes) == ("Poker", ("clubs", "hearts"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 2, 8]
    assert data.test.images.shape == (8, 4, 2, HEIGHT, WIDTH)
    assert (data.test.images.flatten(1).sum(1) == 40).all()
    assert of_tonic(tmp_path, "Poker").sha256 == data.sha256


def test_a_data_set_of_tonic_without_a_test_part_is_divided(tmp_path, tonic):
    data = of_tonic(tmp_path, "Undivided")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [14, 2, 4]
    assert of_tonic(tmp_path, "Sounds").train.images.shape[2:] == (1, 1, WIDTH)


def test_the_order_in_which_a_disk_lists_the_files_changes_nothing(tmp_path, tonic, monkeypatch):
    one = of_tonic(tmp_path, "Listed")
    monkeypatch.setattr(Listed, "order", [*range(13, 20), *range(7), *range(12, 6, -1)])
    other = of_tonic(tmp_path, "Listed")
    assert one.sha256 == other.sha256
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.train.labels, other.train.labels)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pokr", "Did you mean 'Poker'"),
        ("Scattered", "sensor_size is None"),
        ("Unlucky", "OSError, no network"),
    ],
)
def test_data_sets_of_tonic_that_cannot_be_read_are_refused(tmp_path, tonic, name, words):
    with pytest.raises(InputError, match=words):
        of_tonic(tmp_path, name)


def test_without_tonic_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(InputError, match=r"pip install 'spikeproof\[tonic\]'"):
        of_tonic(tmp_path, "Poker")
