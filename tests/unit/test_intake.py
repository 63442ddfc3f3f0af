"""Incomplete copies, broken time stamps, blank examples and misplaced or foreign files, in every data set."""

import gzip
import os
import pickle
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import spikeproof as sp
from spikeproof.command.cli import cli
from spikeproof.command.doctor import examine
from spikeproof.datasets import (
    CIFAR10,
    CIFAR10DVS,
    CIFAR100,
    MNIST,
    NMNIST,
    SHD,
    SSC,
    DVS128Gesture,
    FashionMNIST,
    SpokenDigits,
    Subset,
    images,
    locate,
)
from spikeproof.datasets.intake.census import admitted
from spikeproof.errors import InputError
from spikeproof.experiments.read.results import records
from spikeproof.regularfiles import open_regular

sys.path.insert(0, str(Path(__file__).parent))
import written
from written import put


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "debian")
    for name in ("MNIST", "FASHIONMNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setenv(f"SPIKEPROOF_MIRROR_{name}", "http://127.0.0.1:9/")


def refusal(source, root):
    with pytest.raises(InputError) as caught:
        source.load(root)
    return str(caught.value)


def digits(root, train=2, test=1, names=range(10), folders=("Train", "Test")):
    for part, each in zip(folders, (train, test), strict=True):
        for digit in names:
            for i in range(each):
                events = [(1000 * t + digit + i, t % 2, digit, t) for t in range(1, 6)]
                put(root / part / str(digit) / f"{i:05}.bin", written.forty_bits(events))
    return root


def pictures(folder, count=20, name=lambda name: name, pack=False):
    """Four IDX files of pictures of 2x2 pixels."""
    for part, size in (("train", count), ("t10k", 10)):
        pixels = written.idx((size, 2, 2), [i % 256 for i in range(4 * size)])
        labels = written.idx((size,), [i % 10 for i in range(size)])
        for kind, content in (("images-idx3", pixels), ("labels-idx1", labels)):
            path = folder / (name(f"{part}-{kind}-ubyte") + (".gz" if pack else ""))
            put(path, gzip.compress(content) if pack else content)
    return folder


# Absence


PUBLISHED = {
    MNIST: {"train": 60_000, "test": 10_000},
    FashionMNIST: {"train": 60_000, "test": 10_000},
    CIFAR10: {"train": 50_000, "test": 10_000},
    CIFAR100: {"train": 50_000, "test": 10_000},
    NMNIST: {"train": 60_000, "test": 10_000},
    CIFAR10DVS: {"train": 9_000, "test": 1_000},
    DVS128Gesture: {"train": 98 * 12, "test": 24 * 12},
    SHD: {"train": 8_156, "test": 2_264},
    SSC: {"train": 75_466, "validation": 9_981, "test": 20_382},
    SpokenDigits: {"train": 2_700, "test": 300},
}


@pytest.mark.parametrize("source", PUBLISHED, ids=lambda source: source.folder)
def test_the_headline_has_the_published_number(source):
    assert source.published == PUBLISHED[source]
    total = f"{sum(source.published.values()):,}"
    assert total in sp.specs.summary(source)


def test_a_part_that_lacks_classes_is_refused_with_their_names(tmp_path):
    digits(tmp_path)
    for digit in range(4, 10):
        shutil.rmtree(tmp_path / "Test" / str(digit))
    words = refusal(NMNIST(), tmp_path)
    assert "The test part of n-mnist has examples of all 10 classes: got none of 4, 5, 6, 7, 8, 9 in" in words
    assert "none of 4, 5, 6, 7, 8, 9" in refusal(NMNIST(subset=Subset(20, 4)), tmp_path)
    assert "not usable" in examine(tmp_path)["data"]["n-mnist"]
    for name in CIFAR10DVS.names[:3]:
        events = [(1000 * t, 1, 2, 3) for t in range(5)]
        for i in range(10):
            put(tmp_path / "dvs" / name / f"cifar10_{name}_{i}.aedat", written.aedat2(events))
    assert "none of bird, cat, deer" not in refusal(CIFAR10DVS(), tmp_path / "dvs")
    assert "none of cat, deer, dog, frog, horse, ship, truck" in refusal(CIFAR10DVS(), tmp_path / "dvs")


def test_another_number_is_said_in_data_doctor_record_and_report(tmp_path, monkeypatch):
    digits(tmp_path / "nmnist")
    note = "n-mnist: 20 of 60,000 published examples of the train part, 10 of 10,000 published examples of"
    assert NMNIST(steps=2).load(tmp_path).notes[0].startswith(note)
    assert note in examine(tmp_path)["data"]["n-mnist"]
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: half\ndata: {n-mnist: {steps: 2, size: 4, hold_out: 0.2, subset: {train: 20, test: 10}}}\n"
        "models: [{encoder: {events: {steps: 2}}, network: {mlp: {hidden: [4]}}, neuron: lif,"
        " decoder: mean-potential, rule: {bptt: {epochs: 1}}}]\n"
        "attacks: []\nseeds: [0]\n"
    )
    out = tmp_path / "out"
    done = CliRunner().invoke(
        cli, ["run", str(study), "--out", str(out), "--data", str(tmp_path), "--workers", "1"]
    )
    assert done.exit_code == 0, done.output
    assert f"data: {note}" in done.output
    (record,) = records(out)
    assert record["data_notes"][0].startswith(note)
    assert record["data_notes"][0].endswith("a subset on purpose")
    assert "published examples of the train part" in (out / "report.html").read_text("utf-8")


def test_a_subset_is_held_to_its_numbers(tmp_path):
    digits(tmp_path)
    data = NMNIST(subset=Subset(train=20, test=10)).load(tmp_path)
    assert data.notes[0].endswith(", a subset on purpose")
    words = refusal(NMNIST(subset=Subset(train=40, test=10)), tmp_path)
    assert "40 examples of the train part, 10 examples of the test part: got 20 examples" in words
    with pytest.raises(InputError, match="at least one example"):
        Subset(train=0, test=1)


def test_the_census_of_classes_per_part_equals_its_definition():
    chance = np.random.default_rng(0)
    for _ in range(300):
        labels = {part: chance.integers(0, 3, chance.integers(0, 12)) for part in ("train", "test")}
        sizes = {part: len(values) for part, values in labels.items()}
        published = {part: int(chance.integers(1, 12)) for part in labels}
        whole = all(set(values.tolist()) == {0, 1, 2} for values in labels.values())
        try:
            notes = admitted("toy", labels, "abc", published, None, "here")
        except InputError:
            assert not whole
            continue
        assert whole
        assert bool(notes) == (sizes != published)
        for part in labels:
            said = f"{sizes[part]} of {published[part]} published examples of the {part} part"
            assert (said in "".join(notes)) == (sizes[part] != published[part])


def test_frames_that_would_not_fit_are_refused_before_events_are_read(tmp_path, monkeypatch):
    digits(tmp_path)
    monkeypatch.setattr("spikeproof.datasets.recordings.MOST", 10_000)
    monkeypatch.setattr("spikeproof.datasets.cameras.read_bin", None)
    assert "Ask for fewer steps" in refusal(NMNIST(), tmp_path)


# Time


def test_left_overs_reach_the_notes_also_from_the_cache(tmp_path):
    digits(tmp_path)
    events = [(1000 * t, t % 2, 1, 1) for t in range(1, 30)]
    path = put(tmp_path / "Train" / "3" / "00001.bin", written.forty_bits([(3_900_000, 0, 1, 1), *events]))
    for _ in range(2):
        notes = NMNIST(steps=2).load(tmp_path).notes
        assert notes[0] == (
            "n-mnist: left-over events from before or after the recording were left out "
            f"(once, in 3/{path.name})"
        )


def test_times_in_another_unit_are_refused(tmp_path):
    chance = np.random.default_rng(0)
    for part in ("train", "test"):
        times = [np.sort(chance.uniform(0, 800, 30)) for _ in range(20)]
        written.spikes(tmp_path / f"shd_{part}.h5", times, [np.arange(30)] * 20, range(20))
    words = refusal(SHD(duration=None, steps=4), tmp_path)
    assert "last about 0.8 s: got 7" in words
    assert "Check the unit" in words
    assert "none within 0.001 s; there are some from" in refusal(SHD(duration=0.001, steps=4), tmp_path)
    digits(tmp_path)
    many = [(t, t % 2, 1, 1) for t in range(300)]  # milliseconds
    for path in tmp_path.glob("T*/*/*.bin"):
        path.write_bytes(written.forty_bits(many))
    assert "last about 0.3 s: got 0.000299 s" in refusal(NMNIST(), tmp_path)


# Blanks


def gestures(folder, rows="1,10000,20000\n", last=2_000_000):
    for part, person in (("train", "user01_led"), ("test", "user24_led")):
        put(folder / f"trials_to_{part}.txt", f"{person}.aedat\n".encode())
        every = "".join(f"{label},{100_000 * label},{100_000 * label + 90_000}\n" for label in range(1, 12))
        put(folder / f"{person}_labels.csv", (every + rows).encode())
        events = [(t, 1, 2, 3) for t in range(1, last, 5000)]
        put(folder / f"{person}.aedat", written.aedat3(events))
    return folder


def test_a_gesture_beyond_its_recording_is_refused_with_file_and_window(tmp_path):
    folder = gestures(tmp_path, "3,9000000,9500000\n")
    words = refusal(DVS128Gesture(steps=2), folder)
    assert "got none in left hand wave from 9000000 to 9500000 microseconds of" in words
    assert "user01_led.aedat" in words
    out = DVS128Gesture(steps=2, blank="leave-out").load(folder)
    kept = DVS128Gesture(steps=2, blank="keep").load(folder)
    assert (len(out.test), len(kept.test)) == (11, 12)
    assert "examples without events were left out (2 times, first in" in out.notes[0]
    assert "examples without events were kept (2 times, first in" in kept.notes[0]
    subset = Subset(train=12, test=12)  # of the files, with what is left out
    assert len(DVS128Gesture(steps=2, blank="leave-out", subset=subset).load(tmp_path).test) == 11


def test_a_part_of_blanks_alone_is_refused_whatever_is_said_of_blanks(tmp_path):
    folder = gestures(tmp_path, rows="")
    for blank in ("leave-out", "keep"):
        assert len(DVS128Gesture(steps=2, blank=blank).load(folder).test) == 11
        words = refusal(DVS128Gesture(steps=2, blank=blank, duration=1e-6), folder)
        assert (
            "The train part of dvs128-gesture has examples with events: got 11 examples, all blank" in words
        )


def test_a_gesture_that_outlasts_its_recording_is_said(tmp_path):
    folder = gestures(tmp_path, "3,1900000,2500000\n")
    notes = DVS128Gesture(steps=2).load(folder).notes
    assert "gestures end more than a tenth of their time after their recording (2 times" in notes[0]


def test_labels_are_read_with_and_without_the_line_that_names_them(tmp_path):
    plain = b"1,10,20\n2,30,40\n"
    forms = (
        plain,
        b"class,startTime_usec,endTime_usec\n" + plain,
        b"\xef\xbb\xbfclass, startTime_usec, endTime_usec\r\n1, 10, 20\r\n2, 30, 40\r\n",
        b"startTime_usec,endTime_usec,class\n10,20,1\n30,40,2\n",
    )
    for form in forms:
        path = put(tmp_path / "a_labels.csv", form)
        assert sp.datasets.cameras.read_gestures(path) == [(1, 10, 20), (2, 30, 40)]
    put(path, b"class,startTime_msec,endTime_msec\n1,10,20\n")
    with pytest.raises(InputError, match="starttime_msec"):
        sp.datasets.cameras.read_gestures(path)


# Files that are no data


def test_companions_and_hidden_files_are_passed_over(tmp_path):
    digits(tmp_path / "nmnist")
    expected = NMNIST(steps=2).load(tmp_path).sha256
    for path in list((tmp_path / "nmnist").glob("T*/*/*.bin")):
        put(path.with_name(f"._{path.name}"), b"Mac OS X")
        put(tmp_path / "nmnist" / "__MACOSX" / path.name, b"Mac OS X")
    os.mkfifo(tmp_path / "nmnist" / "Train" / "0" / "pipe.bin")
    assert NMNIST(steps=2).load(tmp_path).sha256 == expected
    tone = written.wav([(-1) ** (i // 9) * 900 for i in range(1600)])
    for digit in range(10):
        for i in (0, 7):
            put(tmp_path / "recordings" / f"{digit}_a_{i}.wav", tone)
            put(tmp_path / "recordings" / f"._{digit}_a_{i}.wav", b"Mac OS X")
    assert len(SpokenDigits(steps=4, bands=4, hold_out=0).load(tmp_path).train) == 10


# First usable


def batches(folder):
    for n, name in enumerate((*CIFAR10.train_files, *CIFAR10.test_files)):
        put(folder / f"{name}.bin", b"".join(bytes([k]) + bytes([n]) * 3072 for k in range(10)))
    return folder


def test_a_whole_folder_goes_before_a_cut_archive_with_a_word(tmp_path):
    put(tmp_path / CIFAR10.archive, gzip.compress(bytes(10_000))[:50])
    folder = batches(tmp_path / CIFAR10.binary)
    data = CIFAR10(hold_out=0).load(tmp_path)
    assert data.origin == str(folder)
    assert f"{tmp_path / CIFAR10.archive} was passed over: " in data.notes[0]
    assert "was passed over" in examine(tmp_path)["data"]["cifar10"]
    shutil.rmtree(folder)
    assert CIFAR10.archive in refusal(CIFAR10(), tmp_path)


def test_a_good_file_goes_before_a_broken_one_beside_it(tmp_path):
    folder = pictures(tmp_path / "mnist", pack=True)
    expected = MNIST(2).load(tmp_path).sha256
    put(folder / "t10k-labels-idx1-ubyte", b"half a")
    data = MNIST(2).load(tmp_path)
    assert data.sha256 == expected
    assert "t10k-labels-idx1-ubyte was passed over: a file beginning with 68616c66" in data.notes[0]


def test_recordings_of_a_whole_folder_go_before_a_half_one(tmp_path):
    digits(tmp_path, names=range(4))
    whole = digits(tmp_path / "NMNIST")
    data = NMNIST(steps=2).load(tmp_path)
    assert data.origin == str(whole)
    assert f"{tmp_path} was passed over: none of 4, 5, 6, 7, 8, 9" in data.notes[0]


# Near misses


LAYOUTS = {
    "MNIST": lambda name: name,
    "MNIST/raw": lambda name: name,
    "mnist/extract": lambda name: name,
    ".": lambda name: name.replace("-idx", ".idx"),
    "mnist": lambda name: f"{name}/{name}",
    "mnist/raw": lambda name: f"{name.replace('-idx', '.idx')}/{name.replace('-idx', '.idx')}",
}


@pytest.mark.parametrize(("layout", "name"), LAYOUTS.items())
@pytest.mark.parametrize("pack", [False, True])
def test_pictures_are_found_under_near_names(tmp_path, layout, name, pack):
    expected = MNIST(2).load(pictures(tmp_path / "usual")).sha256
    folder = pictures(tmp_path / "data" / layout, name=name, pack=pack)
    assert MNIST(2).load(tmp_path / "data").sha256 == expected
    assert locate(MNIST, tmp_path / "data") == str(folder)


def test_fashion_mnist_files_are_not_taken_for_mnist(tmp_path):
    pictures(tmp_path / "FashionMNIST" / "raw")
    assert locate(MNIST, tmp_path).startswith("not found")
    assert locate(FashionMNIST, tmp_path) == str(tmp_path / "FashionMNIST" / "raw")


@pytest.mark.parametrize("layout", ["N-MNIST/extract", "extract", "NMNIST", "archive/n-mnist", "."])
def test_recordings_are_found_a_folder_higher_or_lower(tmp_path, layout):
    folder = digits(tmp_path / layout)
    assert locate(NMNIST, tmp_path) == str(folder)


def test_parts_may_be_unpacked_into_folders_of_their_name(tmp_path):
    digits(tmp_path, folders=("Train/Train", "Test/Test"))
    assert len(NMNIST(steps=2, hold_out=0).load(tmp_path).train) == 20


def test_compressed_spikes_are_read_as_they_are(tmp_path):
    for part in ("train", "test"):
        times, units = [[0.1, 0.5]] * 20, [[1, 2]] * 20
        path = written.spikes(tmp_path / "plain" / f"shd_{part}.h5", times, units, range(20))
        put(tmp_path / "packed" / f"shd_{part}.h5.gz", gzip.compress(path.read_bytes()))
    plain = SHD(steps=4).load(tmp_path / "plain")
    assert SHD(steps=4).load(tmp_path / "packed").sha256 == plain.sha256
    content = (tmp_path / "packed" / "shd_test.h5.gz").read_bytes()
    put(tmp_path / "packed" / "shd_test.h5.gz", content[:-20])
    assert "shd_test.h5.gz" in refusal(SHD(steps=3), tmp_path / "packed")


FOUND = {
    "train-00000-of-00001.parquet": "Parquet of Hugging Face, which the data set hugging-face reads",
    "recording.aedat4": "AEDAT 4, which the data set event-folder reads",
    "Train.zip": "archives to unpack first",
    "user01.npy": "arrays of NumPy",
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("source", [MNIST, CIFAR10, NMNIST, DVS128Gesture, SHD, SpokenDigits])
def test_what_is_there_and_not_read_is_said(tmp_path, name, source):
    put(tmp_path / "data" / "inner" / name, b"x")
    words = refusal(source(), tmp_path / "data")
    assert f"{tmp_path}/data/inner/{name}: {FOUND[name]}" in words


@pytest.mark.parametrize(
    ("source", "file", "words"),
    [
        (NMNIST, "Train/0/1.bin", "no recordings of the test part"),
        (DVS128Gesture, "trials_to_train.txt", "lacks trials_to_test.txt"),
        (DVS128Gesture, "user01_led.aedat", "has 1 recordings, and lacks trials_to_train.txt and"),
        (SHD, "shd_train.h5", "lacks shd_test.h5"),
        (SSC, "ssc_train.h5.gz", "lacks ssc_valid.h5 and ssc_test.h5"),
        (CIFAR10DVS, "airplane/x.aedat4", "has folders without .aedat files: airplane"),
        (CIFAR10, "data_batch_1", "lacks data_batch_2, data_batch_3"),
    ],
)
def test_a_missing_file_of_a_data_set_is_named(tmp_path, source, file, words):
    put(tmp_path / file, b"")
    assert words in refusal(source(), tmp_path)


def test_a_variable_with_a_tilde_is_the_home_and_one_that_leads_nowhere_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPIKEPROOF_DATA", "~/sets")
    digits(tmp_path / "sets")
    assert locate(NMNIST) == str(tmp_path / "sets")
    monkeypatch.setenv("SPIKEPROOF_DATA", "~/nowhere")
    said = f"SPIKEPROOF_DATA names {tmp_path}/nowhere, which is no directory"
    assert said in refusal(NMNIST(), None)
    assert said in refusal(MNIST(), None)
    assert NMNIST(steps=2).load(tmp_path / "sets").notes[0] == said


# Limits


@pytest.mark.parametrize("special", ["/dev/zero", "pipe", "."])
def test_only_regular_files_are_opened(tmp_path, special):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "link"
    path.symlink_to(special)
    with pytest.raises(OSError, match=r"regular|directory"):
        open_regular(path)
    for read in (
        sp.tensorfiles.read,
        sp.datasets.cameras.read_bin,
        sp.datasets.cochlea.read_labels,
        images._read_idx,
    ):
        with pytest.raises(InputError, match="link"):
            read(path)


def test_hdf5_sequences_that_share_one_storage_are_refused(tmp_path):
    import h5py

    path = written.spikes(tmp_path / "s.h5", [[0.1] * 1000, [0.2]], [[1] * 1000, [2]], [0, 1])
    content = path.read_bytes()
    with h5py.File(path) as file:
        offsets = {name: file[f"spikes/{name}"].id.get_offset() for name in ("times", "units")}
    harmed = bytearray(content)
    for offset in offsets.values():  # the second list is the first one
        harmed[offset + 16 : offset + 32] = harmed[offset : offset + 16]
    path.write_bytes(harmed)
    assert len(list(sp.datasets.cochlea.read_spikes(path))) == 2
    times, units = [[0.1] * 1000] + [[0.2]] * 99, [[1] * 1000] + [[2]] * 99
    path = written.spikes(tmp_path / "s.h5", times, units, [0] * 100)
    harmed = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        offsets = [file[f"spikes/{name}"].id.get_offset() for name in ("times", "units")]
    for offset in offsets:
        for i in range(1, 100):
            harmed[offset + 16 * i : offset + 16 * i + 16] = harmed[offset : offset + 16]
    path.write_bytes(harmed)
    with pytest.raises(InputError, match="larger than the file"):
        list(sp.datasets.cochlea.read_spikes(path))


def test_an_hdf5_group_stored_as_a_dataset_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["spikes"] = [1, 2]
    with pytest.raises(InputError, match="whose group is an array"):
        list(sp.datasets.cochlea.read_spikes(tmp_path / "s.h5"))


def test_long_sounds_are_refused_unless_a_duration_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr("spikeproof.datasets.audio.PATIENCE", 0.1)
    chance = np.random.default_rng(0)
    path = put(tmp_path / "0_a_0.wav", written.wav(chance.integers(-999, 999, 1600).tolist()))
    recording = sp.datasets.recordings.Recording(path, "test", 0)
    with pytest.raises(InputError, match=r"at most 0\.1 s: got 0\.2 s"):
        list(SpokenDigits(duration=None).examples(recording))
    assert list(SpokenDigits(duration=0.2).examples(recording))


def test_the_cochleagram_is_the_same_however_many_bands_are_filtered_at_a_time(monkeypatch):
    sound = np.random.default_rng(0).normal(size=3000)
    whole = sp.datasets.audio.cochleagram(sound, 8000, 12)
    monkeypatch.setattr("spikeproof.datasets.audio.TOGETHER", 5 * 4096)
    assert np.array_equal(sp.datasets.audio.cochleagram(sound, 8000, 12), whole)


def test_a_header_is_looked_at_before_it_is_read():
    header = b'{"%s":' % (b"a" * 2000)
    content = len(header).to_bytes(8, "little") + header
    with pytest.raises(InputError, match="at most 1000 bytes: got one of 2004"):
        sp.tensorfiles.parse(content, "weights", largest_header=1000)
    with pytest.raises(InputError, match="expected a safetensors file"):
        sp.tensorfiles.parse(content, "weights")
    nothing = b'{"__metadata__":null}'
    assert sp.tensorfiles.parse(len(nothing).to_bytes(8, "little") + nothing, "weights") == ({}, {})


def collide(count):
    return pickle.dumps({i * sys.hash_info.modulus: 0 for i in range(1, count)}, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (collide(2000), "more than 1000 keys"),
        (pickle.dumps([{1: 2} for _ in range(2000)], 2), "more than 1000 keys"),
        (b"\x80\x02}" + b"K\x01K\x02s" * 2000 + b".", "more than 1000 keys"),
        (b"\x80\x02(" + b"K\x01K\x02" * 2000 + b"d.", "more than 1000 keys"),
        (b"\x80\x02(0(" + b"K\x01K\x02" * 2000 + b"d.", "drops a mark"),
        (pickle.dumps({1, 2}, 4), "it holds sets"),
        (b"\x80\x02" + b"N0" * 30_000 + b"N.", "more than 50000 operations"),
    ],
)
def test_a_pickle_that_would_take_forever_is_refused_first(content, words, monkeypatch):
    monkeypatch.setattr("spikeproof.datasets.cifar.OPERATIONS", 50_000)
    with pytest.raises(InputError, match=words):
        sp.datasets.cifar.unpickled(content, Path("batch"))


def test_an_archive_of_many_members_or_large_headers_is_refused_first(tmp_path):
    path = tmp_path / CIFAR10.archive
    with tarfile.open(path, "w:gz") as archive:
        for i in range(1001):
            archive.addfile(tarfile.TarInfo(str(i)))
    assert "an archive of more than 1000 files" in refusal(CIFAR10(), tmp_path)
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 1 << 20
        path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"1" * (1 << 20) + bytes(1024)))
        assert "a header of 1048576 bytes" in refusal(CIFAR10(), tmp_path)


def test_a_header_of_many_lines_and_a_recording_of_many_packets_are_refused(tmp_path, monkeypatch):
    path = put(tmp_path / "a.aedat", b"#!AER-DAT2.0\n" + b"#\n" * 10_001)
    with pytest.raises(InputError, match="a header of more than 10000 lines"):
        sp.datasets.cameras.read_aedat2(path)
    monkeypatch.setattr("spikeproof.datasets.cameras.MOST_PACKETS", 3)
    path.write_bytes(written.HEADER3 + written.packet([]) * 4)
    with pytest.raises(InputError, match="more than 3 packets"):
        sp.datasets.cameras.read_aedat3(path)
