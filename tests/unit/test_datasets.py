import gc
import gzip
import hashlib
import math
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeproof.datasets import MNIST, Digits, FashionMNIST, images, locate
from spikeproof.errors import InputError

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
NAMES = tuple(MNIST.checksums)
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def idx(dimensions, payload, magic=b"\x00\x00\x08"):
    """A file by the letter of the format: 0, 0, type, rank, big-endian dimensions, data."""
    return (
        magic + bytes([len(dimensions)]) + struct.pack(f">{len(dimensions)}I", *dimensions) + bytes(payload)
    )


def small_files():
    pixels = [(37 * i) % 256 for i in range(6 * 3 * 2)]
    return {
        IMAGES: idx((6, 3, 2), pixels),
        LABELS: idx((6,), [0, 1, 2, 3, 4, 9]),
        TEST_IMAGES: idx((2, 3, 2), [0, 255, 51, 102, 153, 204, *pixels[:6]]),
        TEST_LABELS: idx((2,), [7, 8]),
    }


def write(folder, files, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(content) if compress else content)
    return folder


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No data, an empty cache, and mirrors that refuse; a test that wants more says so."""
    monkeypatch.delenv("SPIKEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for source in (MNIST, FashionMNIST):  # a few examples are all there is
        monkeypatch.setattr(source, "published", {})
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "debian")
    for name in ("MNIST", "FASHIONMNIST"):
        monkeypatch.setenv(f"SPIKEPROOF_MIRROR_{name}", "http://127.0.0.1:9/")
    before = pooch.get_logger().level
    yield
    pooch.get_logger().setLevel(before)


def refusal(source, root):
    with pytest.raises(InputError) as caught:
        source.load(root)
    return str(caught.value)


# Digits


def test_digits_are_1797_scans_of_ten_classes():
    data = Digits().load()
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert torch.cat([part.ids for part in parts]).sort().values.equal(torch.arange(1797))
    for part in parts:
        assert part.images.shape == (len(part), 1, 8, 8)
        assert part.labels.unique().tolist() == list(range(10))
        assert (part.images * 16).frac().eq(0).all()
        assert (part.images.min(), part.images.max()) == (0, 1)


def test_the_first_scan_is_the_zero_that_everybody_knows():
    data = Digits().load()
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images[part.ids == 0], part.labels[part.ids == 0], strict=True):
            assert label == 0
            assert (image[0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
            assert (image[0, 7] * 16).tolist() == [0, 0, 6, 13, 10, 0, 0, 0]


def test_digits_never_change():
    data = Digits().load()
    assert data.sha256 == "1e5aa694efee2d4ec3a34c069d720898dfd1943d54eaa56ca47f100488072101"
    assert data.test.ids[:5].tolist() == [232, 370, 845, 271, 626]
    assert data.test.ids.equal(Digits().load().test.ids)


# IDX files


@pytest.mark.parametrize("compress", [False, True])
def test_pixels_labels_and_ids_arrive_where_they_belong(tmp_path, compress):
    data = MNIST(hold_out=2).load(write(tmp_path / "d", small_files(), compress))
    assert data.test.images.dtype == torch.float32
    assert data.test.images[0].equal(torch.tensor([[[0, 255], [51, 102], [153, 204]]]) / 255)
    assert data.test.labels.tolist() == [7, 8]
    assert data.test.ids.tolist() == [0, 1]
    assert (len(data.train), len(data.validation)) == (4, 2)
    for part in (data.train, data.validation):
        assert (part.labels.dtype, part.ids.dtype) == (torch.int64, torch.int64)
        for image, label, row in zip(part.images, part.labels, part.ids.tolist(), strict=True):
            assert label == [0, 1, 2, 3, 4, 9][row]
            expected = [(37 * i) % 256 for i in range(6 * row, 6 * row + 6)]
            assert (image.flatten() * 255).round().tolist() == expected


def test_the_digest_is_that_of_the_content_however_it_is_stored(tmp_path):
    files = small_files()
    plain = MNIST(2).load(write(tmp_path / "plain", files)).sha256
    assert MNIST(0).load(write(tmp_path / "packed", files, compress=True)).sha256 == plain
    files[LABELS] = idx((6,), [0, 1, 2, 3, 4, 8])
    assert MNIST(2).load(write(tmp_path / "other", files)).sha256 != plain


def test_held_out_images_are_a_fixed_choice_and_none_is_in_two_parts(tmp_path):
    root = write(tmp_path / "d", small_files())
    all_of_them, few, more = (MNIST(n).load(root) for n in (0, 1, 3))
    assert len(all_of_them.validation) == 0
    assert sorted(all_of_them.train.ids.tolist()) == list(range(6))
    assert set(few.validation.ids.tolist()) < set(more.validation.ids.tolist())
    assert not set(more.train.ids.tolist()) & set(more.validation.ids.tolist())
    assert more.validation.ids.equal(MNIST(3).load(root).validation.ids)


def test_holding_out_everything_or_less_than_nothing_is_refused(tmp_path):
    root = write(tmp_path / "d", small_files())
    assert "6 images, hold_out=6" in refusal(MNIST(6), root)
    for wrong in (-1, 30_001):
        with pytest.raises(InputError, match=f"hold_out={wrong}"):
            FashionMNIST(wrong)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans(), st.randoms())
def test_an_idx_file_is_read_as_it_was_written(tmp_path_factory, dimensions, compress, random):
    payload = random.randbytes(math.prod(dimensions))
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if compress else "file")
    content = idx(dimensions, payload)
    path.write_bytes(gzip.compress(content) if compress else content)
    array = images._read_idx(path)
    assert array.shape == tuple(dimensions)
    assert array.dtype == np.uint8
    assert array.tobytes() == payload


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_an_array_or_a_refusal(tmp_path_factory, content, compress):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if compress else "file")
    path.write_bytes(content)
    with suppress(InputError):
        images._read_idx(path)


GOOD = small_files()[IMAGES]
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (IMAGES, b"", "beginning with nothing"),
        (IMAGES, GOOD[:3], "beginning with 000008"),
        (IMAGES, GOOD[:9], "header of 9 bytes where 16 are needed"),
        (IMAGES, GOOD[:-1], "35 bytes of data for dimensions (6, 3, 2), which need 36"),
        (IMAGES, GOOD + b"\x00", "more of data for dimensions (6, 3, 2)"),
        (IMAGES, idx((6, 3, 2), bytes(36), magic=b"\x00\x00\x0d"), "beginning with 00000d03"),
        (IMAGES, b"\x00\x00\x08\x00", "beginning with 00000800"),
        (IMAGES, PACKED, "beginning with 1f8b"),
        (IMAGES, idx((6, 6), bytes(36)), "images (6, 6)"),
        (IMAGES, idx((5, 3, 2), bytes(30)), "images (5, 3, 2) and labels (6,)"),
        (IMAGES, idx((6, 0, 2), b""), "images (6, 0, 2)"),
        (LABELS, idx((6,), [0, 1, 2, 3, 4, 10]), "label 10"),
        (TEST_IMAGES, idx((2, 2, 2), bytes(8)), "(3, 2) and (2, 2) pixels"),
        (f"{IMAGES}.gz", b"", "beginning with nothing"),
        (f"{IMAGES}.gz", GOOD, "broken compression"),
        (f"{IMAGES}.gz", PACKED[:-12], "broken compression"),
        (f"{IMAGES}.gz", PACKED[:-8] + bytes(8), "broken compression"),
        (f"{IMAGES}.gz", PACKED[:20] + b"\xff\xff" + PACKED[22:], "broken compression"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, words):
    files = small_files()
    del files[name.removesuffix(".gz")]
    folder = write(tmp_path / "d", files)
    (folder / name).write_bytes(content)
    message = refusal(MNIST(2), folder)
    assert words in message
    assert str(folder) in message


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dimensions", [(2**32 - 1,) * 4, (60_000, 28, 28)])
def test_a_header_that_claims_too_much_takes_no_memory(tmp_path, dimensions, compress):
    path = tmp_path / ("claim.gz" if compress else "claim")
    content = idx(dimensions, bytes(100))
    path.write_bytes(gzip.compress(content) if compress else content)
    tracemalloc.start()
    with pytest.raises(InputError, match="claim"):
        images._read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_small_file_that_unpacks_to_much_is_read_only_as_far_as_it_may(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(idx((4,), bytes(64 << 20))))
    tracemalloc.start()
    with pytest.raises(InputError, match="more of data"):
        images._read_idx(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# Places


@pytest.mark.parametrize("layout", [".", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_files_are_found_in_every_layout(tmp_path, monkeypatch, layout, by_variable):
    folder = write(tmp_path / "data" / layout, small_files(), compress=by_variable)
    root = None if by_variable else tmp_path / "data"
    if by_variable:
        monkeypatch.setenv("SPIKEPROOF_DATA", str(tmp_path / "data"))
    assert FashionMNIST(2).load(root).origin == str(folder)
    assert locate(FashionMNIST, root) == str(folder)


def test_the_given_directory_goes_before_the_variable_and_that_before_debian(tmp_path, monkeypatch):
    places = [write(tmp_path / place, small_files()) for place in ("given", "variable", "debian/mnist")]
    monkeypatch.setenv("SPIKEPROOF_DATA", str(places[1]))
    assert MNIST(2).load(places[0]).origin == str(places[0])
    assert MNIST(2).load().origin == str(places[1])
    monkeypatch.delenv("SPIKEPROOF_DATA")
    assert MNIST(2).load().origin == str(places[2])


def test_a_plain_file_beside_a_packed_one_is_enough(tmp_path):
    folder = write(tmp_path / "d", small_files(), compress=True)
    for name in (LABELS, TEST_IMAGES):
        (folder / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        (folder / f"{name}.gz").unlink()
    assert len(MNIST(2).load(folder).test) == 2


def test_a_directory_that_is_none_is_refused_rather_than_passed_over(tmp_path):
    write(tmp_path / "debian" / "mnist", small_files())
    assert "tpyo" in refusal(MNIST(2), tmp_path / "tpyo")


def test_where_data_are_is_said_in_words(tmp_path):
    assert locate(Digits) == "shipped with the package"
    assert "not found" in locate(MNIST)


def test_the_files_of_another_data_set_are_refused(tmp_path, monkeypatch):
    folder = write(tmp_path / "d", small_files())
    monkeypatch.setattr(images, "PUBLISHED", {FashionMNIST(2).load(folder).sha256: "fashion-mnist"})
    assert len(FashionMNIST(2).load(folder).test) == 2
    assert "should hold mnist: got the files of fashion-mnist" in refusal(MNIST(2), folder)


# Fetching


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.asked.append(self.path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server on loopback with the four files, and their true checksums in place of the published ones."""
    folder = write(tmp_path / "served", small_files(), compress=True)
    digests = {name: hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(MNIST, "checksums", digests)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        server.asked, server.folder = [], folder
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("SPIKEPROOF_MIRROR_MNIST", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # requests leaves the connection of a refused request to the garbage collector


def test_a_data_set_without_local_files_is_downloaded_once_into_the_cache(
    tmp_path, mirror, capsys, monkeypatch
):
    for handler in pooch.get_logger().handlers:
        monkeypatch.setattr(handler, "stream", sys.stderr)
    data = MNIST(2).load()
    assert data.origin == str(tmp_path / "cache" / "spikeproof" / "data" / "mnist")
    assert data.test.labels.tolist() == [7, 8]
    assert len(mirror.asked) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("Downloading file") == 4
    assert "\r" not in captured.err
    assert MNIST(2).load().sha256 == data.sha256
    assert len(mirror.asked) == 4


def test_a_terminal_sees_a_bar(mirror, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    MNIST(2).load()
    shown = capsys.readouterr().err
    assert "100%|" in shown
    assert "Downloading" not in shown


def test_a_file_with_another_checksum_is_not_kept(tmp_path, mirror):
    (mirror.folder / f"{TEST_LABELS}.gz").write_bytes(gzip.compress(idx((2,), [1, 1])))
    message = refusal(MNIST(2), None)
    assert "hash" in message
    assert f"{TEST_LABELS}" in message
    kept = sorted(path.name for path in (tmp_path / "cache/spikeproof/data/mnist").iterdir())
    assert kept == sorted(f"{name}.gz" for name in NAMES[:3])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_fetching_goes_on_where_it_stopped(mirror):
    content = (mirror.folder / f"{TEST_LABELS}.gz").read_bytes()
    (mirror.folder / f"{TEST_LABELS}.gz").unlink()
    assert "404" in refusal(MNIST(2), None)
    (mirror.folder / f"{TEST_LABELS}.gz").write_bytes(content)
    asked = len(mirror.asked)
    assert len(MNIST(2).load().test) == 2
    assert len(mirror.asked) == asked + 1


def test_one_message_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    half = write(tmp_path / "half", {IMAGES: b"", LABELS: b""})
    monkeypatch.setenv("SPIKEPROOF_DATA", str(tmp_path / "elsewhere"))
    message = refusal(FashionMNIST(), half)
    assert f"{half}: lacks {TEST_IMAGES}, {TEST_LABELS}" in message
    for place in (
        "elsewhere/FashionMNIST/raw",
        "debian/fashion-mnist",
        "cache/spikeproof/data/fashion-mnist",
    ):
        assert f"{tmp_path / place}: none of them" in message
    assert "http://127.0.0.1:9/: ConnectionError" in message
    for way in ("--data", "SPIKEPROOF_DATA", "SPIKEPROOF_MIRROR_FASHIONMNIST", "dataset-fashion-mnist"):
        assert way in message


def test_a_cache_that_cannot_be_written_is_said(tmp_path, mirror, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "NotADirectoryError" in refusal(MNIST(2), None)


@pytest.mark.parametrize("package", ["pooch", "platformdirs"])
def test_without_the_fetching_libraries_the_extra_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(MNIST(), tmp_path)
    assert package in message
    assert "pip install 'spikeproof[study]'" in message


def test_importing_leaves_the_fetching_libraries_alone():
    code = "import sys, spikeproof.datasets; print({'pooch', 'platformdirs', 'requests'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The real thing


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_published_one(monkeypatch):
    monkeypatch.setattr(images, "DEBIAN", DEBIAN_FASHION.parent)
    data = FashionMNIST().load()
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert data.sha256 in images.PUBLISHED
    assert data.train.images.shape[1:] == (1, 28, 28)
    assert (data.train.images.min(), data.train.images.max()) == (0, 1)
    everything = torch.cat([data.train.labels, data.validation.labels])
    assert everything.bincount().tolist() == [6_000] * 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    assert data.test.labels[:8].tolist() == [9, 2, 1, 1, 6, 1, 4, 6]
    assert data.validation.labels.bincount().min() > 400
    assert [data.classes[i] for i in (0, 9)] == ["t-shirt", "ankle boot"]


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("name", "written"), [(LABELS, 1504176606), (TEST_LABELS, 1504176627)])
def test_debians_files_with_their_first_header_have_the_published_checksum(name, written):
    packed = (
        DEBIAN_FASHION / f"{name}.gz"
    ).read_bytes()  # Debian stripped name and date from the gzip header
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", written) + b"\x00\x03" + name.encode() + b"\x00"
    assert hashlib.sha256(header + packed[10:]).hexdigest() == FashionMNIST.checksums[name]
