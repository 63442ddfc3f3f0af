"""Images of the user: the layouts that are read, how they are divided, and what is refused."""

import io
import itertools
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import spikeproof
from spikeproof.datasets import Division, HuggingFaceImages, ImageArrays, ImageFolder, Subset
from spikeproof.datasets.owned.arrays import read_npy, read_npz
from spikeproof.errors import InputError


def encoded(pixels, kind="PNG", mode=None, **options):
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, kind, **options)
    return file.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def folder_of(root, count=10, shape=(4, 4), classes=("a", "b"), seed=0):
    for j, name in enumerate(classes):
        for i in range(count):
            put(root / name / f"{i:02}.png", encoded(noise(*shape, seed=1000 * seed + 100 * j + i)))
    return root


def load(cls, path, **options):
    return cls(path=str(path), **options).load()


# How examples are divided


@settings(deadline=None)
@given(
    st.lists(st.integers(5, 60), min_size=2, max_size=5),
    st.floats(0.1, 0.5),
    st.floats(0.1, 0.5),
    st.integers(0, 9),
)
def test_every_class_has_its_share_in_every_part_and_no_row_is_in_two(counts, test, hold_out, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = Division(test, hold_out, seed).divide({"train": labels})
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(labels)))
    assert len(rows["test"]) == round(test * len(labels))
    assert len(rows["validation"]) == round(hold_out * (len(labels) - len(rows["test"])))
    for label, count in enumerate(counts):
        share = count / len(labels)
        found = (labels[rows["test"]] == label).sum()
        assert abs(found - len(rows["test"]) * share) <= (1 + len(counts) * share) / 2 + 1e-9


def test_the_seed_changes_who_is_held_out_and_nothing_else_does():
    labels = {"train": np.arange(100) % 4}
    one, same, other = (Division(seed=seed).divide(labels)["test"].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_parts_that_the_files_define_stay_as_they_are():
    labels = {part: np.arange(n) % 2 for part, n in (("train", 20), ("validation", 6), ("test", 4))}
    rows = Division(test=0.5, hold_out=0.5).divide(labels)
    assert {part: (each.min(), each.max()) for part, each in rows.items()} == {
        "train": (0, 19),
        "validation": (20, 25),
        "test": (26, 29),
    }
    del labels["test"]
    rows = Division(hold_out=0).divide(labels)
    assert rows["test"].tolist() == list(range(20, 26))
    assert not len(rows["validation"])


@pytest.mark.parametrize("options", [{"test": 0.6}, {"hold_out": -0.1}, {"seed": -1}])
def test_shares_and_seeds_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=f"needs {next(iter(options))} from 0"):
        ImageFolder(**options)


# Folders of class folders


def test_pixels_are_bytes_by_255_and_classes_are_sorted(tmp_path):
    folder_of(tmp_path / "own", 20, classes=("cat", "ant", "bee"))
    data = load(ImageFolder, tmp_path / "own")
    assert (data.classes, *map(len, (data.train, data.validation, data.test))) == (
        ("ant", "bee", "cat"),
        43,
        5,
        12,
    )
    row = (data.train.labels == 2).nonzero()[0, 0]
    file = int(data.train.ids[row]) - 40  # files are numbered class by class
    stored = np.asarray(Image.open(tmp_path / "own" / "cat" / f"{file:02}.png"))
    assert torch.equal(data.train.images[row, 0], torch.from_numpy(stored / np.float32(255)))
    assert data.train.labels[row] == 2
    given = load(ImageFolder, tmp_path / "own", classes=("cat", "bee", "ant"))
    assert given.classes == ("cat", "bee", "ant")


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "TESTING"), ("train", "val")])
def test_folders_of_parts_are_the_parts(tmp_path, train, test):
    folder_of(tmp_path / train, 10)
    folder_of(tmp_path / test, 4, seed=1)
    (tmp_path / "train.txt").write_text("a list")
    data = load(ImageFolder, tmp_path)
    assert (len(data.train) + len(data.validation), len(data.test)) == (20, 8)
    assert set(data.test.ids.tolist()) == set(range(20, 28))


def test_folders_beside_those_of_parts_and_files_of_other_formats_are_noted(tmp_path):
    for part, seed in (("train", 0), ("test", 1)):
        folder_of(tmp_path / part, 10, seed=seed)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "train" / "a" / "notes.txt").write_text("taken in spring")
    (tmp_path / "train" / "a" / "._00.png").write_bytes(b"of macOS")
    notes = load(ImageFolder, tmp_path).notes
    assert notes == (
        "1 files of other formats were skipped",
        "folders beside those of the parts were skipped: scripts",
    )


def test_grey_and_coloured_files_become_coloured_and_grey_on_request(tmp_path):
    folder_of(tmp_path / "own", 10, classes=("a",))
    folder_of(tmp_path / "own", 10, (4, 4, 3), classes=("b",))
    data = load(ImageFolder, tmp_path / "own")
    assert data.train.images.shape[1:] == (3, 4, 4)
    one = data.train.images[data.train.labels == 0]
    assert torch.equal(one[:, 0], one[:, 2])
    assert load(ImageFolder, tmp_path / "own", grey=True).train.images.shape[1:] == (1, 4, 4)


def test_images_of_several_sizes_need_a_size_to_which_they_are_resized_and_cropped(tmp_path):
    for name, shape in (("a", (8, 12)), ("b", (16, 8))):
        for i in range(10):
            put(tmp_path / name / f"{i}.png", encoded(np.full(shape, 10 * i + 5, np.uint8)))
    with pytest.raises(InputError, match=r"All images .* have one size.*Give a size"):
        load(ImageFolder, tmp_path)
    data = load(ImageFolder, tmp_path, size=4)
    assert data.train.images.shape[1:] == (1, 4, 4)
    assert (data.train.images.flatten(1).std(1) == 0).all()


@pytest.mark.parametrize("shape", [(4, 8), (8, 4)])
def test_the_centre_is_what_is_cropped(tmp_path, shape):
    pixels = noise(*shape)
    for i, name in itertools.product(range(10), "ab"):
        put(tmp_path / name / f"{i}.png", encoded(pixels))
    centre = pixels[2:6] if shape[0] > shape[1] else pixels[:, 2:6]
    image = load(ImageFolder, tmp_path, size=4).train.images[0, 0]
    assert torch.equal(image, torch.from_numpy(centre / np.float32(255)))


def test_test_images_that_are_training_images_too_are_counted_in_a_note(tmp_path):
    folder_of(tmp_path / "train", 10)
    folder_of(tmp_path / "test", 4)
    assert "8 of 8 test images are also among the other images" in load(ImageFolder, tmp_path).notes[0]


def test_half_a_copy_of_a_subset_is_refused(tmp_path):
    folder_of(tmp_path / "own", 10)
    assert load(ImageFolder, tmp_path / "own", subset=Subset(train=16, test=4)).notes == ()
    with pytest.raises(InputError, match=r"subset of own, 20 examples of the train part.*16 examples"):
        load(ImageFolder, tmp_path / "own", subset=Subset(train=20, test=4))


def test_parts_without_some_class_are_refused_by_its_name(tmp_path):
    folder_of(tmp_path / "train", 10)
    folder_of(tmp_path / "test", 4, classes=("a",), seed=1)
    with pytest.raises(InputError, match=r"test part .* all 2 classes.* none of b"):
        load(ImageFolder, tmp_path)
    with pytest.raises(InputError, match="at least two classes"):
        load(ImageFolder, tmp_path / "test")
    folder_of(tmp_path / "test", 4, classes=("b",), seed=1)
    folder_of(tmp_path / "val", 4, classes=("b",), seed=2)
    with pytest.raises(InputError, match=r"validation part .* none of a"):
        load(ImageFolder, tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_half_a_file_is_refused_by_its_name(tmp_path, kind):
    whole = encoded(noise(16, 16, 3), kind)
    folder_of(tmp_path / "own", 10, (16, 16, 3))
    for cut in (0, 1, 8, 30, len(whole) // 2, len(whole) - 40):
        put(tmp_path / "own" / "a" / "half.png", whole[:cut])
        with pytest.raises(InputError, match=r"half\.png should be"):
            load(ImageFolder, tmp_path / "own")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(noise(4, 4, 3), "GIF"), "another format"),
        (encoded(np.full((4, 4), 999, np.uint16)), "pixels of mode I;16"),
        (encoded(noise(4, 4, 4)), "transparent"),
        (b"<svg/>", "another format"),
    ],
)
def test_other_images_are_refused_with_what_they_are(tmp_path, content, words):
    folder_of(tmp_path / "own")
    put(tmp_path / "own" / "a" / "odd.png", content)
    with pytest.raises(InputError, match=rf"odd\.png should be an opaque.*{words}"):
        load(ImageFolder, tmp_path / "own")


def test_only_regular_files_are_opened_and_folders_that_are_links_are_not_entered(tmp_path):
    folder_of(tmp_path / "own")
    expected = load(ImageFolder, tmp_path / "own").sha256
    (tmp_path / "own" / "a" / "circle").symlink_to(tmp_path / "own")
    os.mkfifo(tmp_path / "own" / "b" / "pipe.png")
    data = load(ImageFolder, tmp_path / "own")
    assert (data.sha256, data.notes) == (expected, ("2 files of other formats were skipped",))
    (tmp_path / "own" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "own" / "a").symlink_to(tmp_path / "elsewhere")
    assert load(ImageFolder, tmp_path / "own").sha256 == expected


def test_a_path_that_leads_nowhere_is_refused_with_every_place_that_was_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKEPROOF_DATA", str(tmp_path / "variable"))
    with pytest.raises(InputError) as caught:
        ImageFolder(path="nowhere").load(tmp_path)
    for place in (tmp_path / "nowhere", tmp_path / "variable" / "nowhere"):
        assert str(place) in str(caught.value)
    assert ImageFolder(path="nowhere").locate(tmp_path) == "not found"
    assert ImageFolder(path="nowhere").survey(tmp_path) == ()


# Arrays


def arrays(count=20, shape=(4, 4)):
    return noise(count, *shape), np.arange(count) % 2


def saved(path, **contents):
    np.savez(path, **contents)
    return path


@pytest.mark.parametrize(
    "names", [("x_train", "y_train"), ("train_images", "train_labels"), ("X", "Y"), ("data", "target")]
)
def test_arrays_are_understood_by_their_names(tmp_path, names):
    x, y = arrays()
    data = load(
        ImageArrays, saved(tmp_path / "own.npz", **dict(zip(names, (x, y[:, None]), strict=True)), extra=y)
    )
    assert (data.name, data.classes, data.train.images.shape[1:]) == ("own", ("0", "1"), (1, 4, 4))
    assert data.notes == ("arrays that were not used: extra",)
    for name, array in zip(names, (x, y), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    assert load(ImageArrays, tmp_path).sha256 == data.sha256


def test_channels_are_found_where_there_are_one_or_three_and_asked_for_otherwise(tmp_path):
    y = np.arange(20) % 2
    x = noise(20, 5, 4, 3)
    last = load(ImageArrays, saved(tmp_path / "last.npz", x=x, y=y))
    first = load(ImageArrays, saved(tmp_path / "first.npz", x=x.transpose(0, 3, 1, 2), y=y))
    assert torch.equal(last.train.images, first.train.images)
    both = saved(tmp_path / "both.npz", x=noise(20, 3, 4, 3), y=y)
    with pytest.raises(InputError, match="channels: first or channels: last"):
        load(ImageArrays, both)
    assert load(ImageArrays, both, channels="first").train.images.shape[1:] == (3, 4, 3)
    assert load(ImageArrays, both, channels="last").train.images.shape[1:] == (3, 3, 4)


def test_floats_from_0_to_1_are_kept_and_normalised_ones_refused(tmp_path):
    x, y = arrays()
    data = load(ImageArrays, saved(tmp_path / "a.npz", x=x / 255, y=y))
    assert data.train.images.dtype == torch.float32
    for wrong in (x / 1.0, x / 255 - 0.1, np.where(x > 250, np.nan, 0.5), x.astype(np.int64)):
        with pytest.raises(InputError, match="unsigned bytes, or floats from 0 to 1"):
            load(ImageArrays, saved(tmp_path / "b.npz", x=wrong, y=y))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.arange(19) % 2}, "20 images and 19 labels"),
        ({"y": np.arange(20) / 2}, "whole numbers from 0"),
        ({"y": np.arange(20) - 1}, "whole numbers from 0"),
        ({"x": np.zeros((20, 4), np.uint8)}, r"\[N, H, W\]"),
        ({"x": np.zeros((0, 4, 4), np.uint8)}, r"\[N, H, W\]"),
        ({"labels": np.arange(20)}, "one array of each kind"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(tmp_path, changes, words):
    x, y = arrays()
    with pytest.raises(InputError, match=words):
        load(ImageArrays, saved(tmp_path / "own.npz", **{"x": x, "y": y, **changes}))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("scale", [1, 1 / 255, 16, 16 / 255])
def test_pixels_of_another_range_are_refused_or_noted(tmp_path, scale):
    draws = np.random.default_rng(0).integers(0, 2, (200, 4, 4))
    kind = np.uint8 if scale >= 1 else np.float32
    np.savez(tmp_path / "own.npz", images=(draws * scale).astype(kind), labels=np.arange(200) % 2)
    data = ImageArrays(path=str(tmp_path / "own.npz"))
    if scale in (16, 16 / 255):
        assert data.load().notes[-1] == (
            "own: the brightest pixel has 0.063 of the range, in which budgets are measured"
        )
        return
    with pytest.raises(InputError, match=r"none above 0\.0039 of the range"):
        data.load()


def test_no_pickle_in_an_array_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "images.npy", np.array([Bomb()], object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", np.zeros(1, int))
    with pytest.raises(InputError, match="pickled objects"):
        load(ImageArrays, tmp_path)
    put(tmp_path / "own.npz", pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="damaged file"):
        load(ImageArrays, tmp_path / "own.npz")
    assert not (tmp_path / "exploded").exists()


def test_every_cut_of_a_file_of_arrays_is_refused(tmp_path):
    x, y = arrays()
    whole = saved(tmp_path / "own.npz", x=x, y=y).read_bytes()
    for cut in range(0, len(whole), 37):
        put(tmp_path / "own.npz", whole[:cut])
        with pytest.raises(InputError, match="own"):
            load(ImageArrays, tmp_path / "own.npz")


def test_a_header_that_claims_more_than_there_is_takes_no_memory():
    for shape in ("(9999999999,)", "(-4,)", "(-2, -2)", "(4, 2)", "(3,)", "(4.0,)", "4", "(4,"):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(4)
        with pytest.raises(InputError, match="should be a complete file of NumPy"):
            read_npy(content, "it")


def test_an_archive_that_unpacks_to_more_than_there_is_room_is_refused(tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 20))
    with pytest.raises(InputError, match="more than 65536 bytes"):
        read_npz(path, 1 << 16)


# Hugging Face


def hub_table(count, seed, names=("cat", "dog"), image="image", label="label"):
    images = [{"bytes": encoded(noise(4, 4, seed=100 * seed + i)), "path": f"{i}.png"} for i in range(count)]
    features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pyarrow.table({image: images, label: [i % 2 for i in range(count)]})
    return table.replace_schema_metadata(about)


def as_parquet(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)


def as_arrow(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def test_parquet_files_and_save_to_disk_hold_the_same_data(tmp_path):
    train, test = hub_table(20, 0), hub_table(6, 1)
    as_parquet(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", train.slice(0, 12))
    as_parquet(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet", train.slice(12))
    as_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", test)
    as_arrow(tmp_path / "saved" / "train" / "data-00000-of-00001.arrow", train)
    as_arrow(tmp_path / "saved" / "test" / "data-00000-of-00001.arrow", test)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    as_arrow(tmp_path / "saved" / "train" / "cache-0123.arrow", test)
    one, other = (load(HuggingFaceImages, tmp_path / name) for name in ("hub", "saved"))
    assert one.sha256 == other.sha256
    assert (one.classes, len(one.train), len(one.validation), len(one.test)) == (("cat", "dog"), 18, 2, 6)
    (tmp_path / "hub" / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"all 2 files of each part.*no number 0"):
        load(HuggingFaceImages, tmp_path / "hub")


def test_two_configurations_in_one_folder_are_not_mixed(tmp_path):
    for name, seed in (("plain", 0), ("rotated", 1)):
        as_parquet(tmp_path / name / "train-00000-of-00001.parquet", hub_table(20, seed))
    with pytest.raises(InputError, match="Give the folder of one configuration"):
        load(HuggingFaceImages, tmp_path)
    assert len(load(HuggingFaceImages, tmp_path / "plain").test) == 4


def test_columns_of_other_names_are_asked_for(tmp_path):
    as_parquet(tmp_path / "train.parquet", hub_table(20, 0, image="scan", label="finding"))
    with pytest.raises(InputError, match="the columns scan, finding"):
        load(HuggingFaceImages, tmp_path)
    data = load(HuggingFaceImages, tmp_path, image="scan", label="finding")
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_cut_files_of_hugging_face_are_refused(tmp_path, suffix):
    {"parquet": as_parquet, "arrow": as_arrow}[suffix](tmp_path / f"train.{suffix}", hub_table(20, 0))
    whole = (tmp_path / f"train.{suffix}").read_bytes()
    for cut in (0, 3, 100, len(whole) // 2, len(whole) - 20):
        put(tmp_path / f"train.{suffix}", whole[:cut])
        with pytest.raises(InputError):
            load(HuggingFaceImages, tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ([{"bytes": None, "path": "/etc/passwd"}] * 4, [0, 1, 0, 1], "no bytes of an image in row 0"),
        (["https://example.org/a.png"] * 4, [0, 1, 0, 1], "no bytes of an image in row 0"),
        ([{"bytes": encoded(noise(4, 4)), "path": None}] * 4, [0, -1, 0, 1], "label -1 in row 1"),
        ([{"bytes": encoded(noise(4, 4)), "path": None}] * 4, [0, None, 0, 1], "label None in row 1"),
    ],
)
def test_rows_without_an_image_or_a_label_are_refused_and_no_path_in_them_is_followed(
    tmp_path, images, labels, words
):
    as_parquet(tmp_path / "train.parquet", pyarrow.table({"image": images, "label": labels}))
    with pytest.raises(InputError, match=words):
        load(HuggingFaceImages, tmp_path)


# Objects in Python


class Like:
    """As a data set of torchvision is: bytes in `data`, labels in `targets`, pairs by index."""

    def __init__(self, data, targets, transform=None, classes=("a", "b")):
        self.data, self.targets, self.transform, self.classes = data, targets, transform, classes

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = Image.fromarray(self.data[index])
        return image if self.transform is None else self.transform(image), self.targets[index]


def to_tensor(image):
    array = torch.from_numpy(np.asarray(image) / np.float32(255))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_data_and_targets_pairs_of_pillow_images_and_tensors_are_the_same_images(shape):
    data, targets = noise(40, *shape), [i % 2 for i in range(40)]
    fast = spikeproof.as_dataset(Like(data, targets))
    slow = spikeproof.as_dataset([Like(data, targets)[i] for i in range(40)], classes=("a", "b"))
    tensors = spikeproof.as_dataset(Like(data, targets, to_tensor))
    assert fast.sha256 == slow.sha256
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(fast, part).images, getattr(slow, part).images)
        assert torch.equal(getattr(fast, part).images, getattr(tensors, part).images)
        assert torch.equal(getattr(fast, part).labels, getattr(tensors, part).labels)


def test_parts_given_as_objects_are_the_parts():
    train, test = (Like(noise(n, 4, 4, seed=n), [i % 2 for i in range(n)]) for n in (30, 10))
    data = spikeproof.as_dataset(train, test, division=Division(hold_out=0))
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 0, 10)
    assert data.test.ids.tolist() == list(range(30, 40))


def test_objects_with_random_transforms_are_refused():
    draws = np.random.default_rng(0)
    shaken = Like(
        noise(40, 4, 4), [i % 2 for i in range(40)], lambda image: to_tensor(image) * draws.random()
    )
    with pytest.raises(InputError, match="two different images for index 0"):
        spikeproof.as_dataset(shaken)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.full((1, 2, 2), 2.0), "floats"),
        (torch.full((2, 2), 0.5), "floats"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), "floats"),
        (torch.full((1, 2, 2), float("nan")), "floats"),
        (Image.fromarray(noise(2, 2)).convert("P"), "mode 'P'"),
    ],
)
def test_objects_of_other_pixels_are_refused(image, words):
    with pytest.raises(InputError, match=words):
        spikeproof.as_dataset([(image, i % 2) for i in range(20)])
