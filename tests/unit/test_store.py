import errno
import hashlib
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time

import pytest

from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.run.store import Store, as_json, write_atomically

ADDRESS = "ab12"


def files(**metrics):
    return {
        "cell.json": as_json({"kind": "clean", "spec": {}, "address": ADDRESS}),
        "metrics.json": as_json(metrics),
    }


def put_many(root, value, times):
    store = Store(root)
    for _ in range(times):
        store.put(ADDRESS, files(value=value))
        store.discard(ADDRESS)
    store.put(ADDRESS, files(value=value))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


def test_a_cell_put_into_the_store_is_read_back(store):
    path = store.put(ADDRESS, files(n=3))
    assert store.read(ADDRESS).metrics == {"n": 3}
    assert store.read(ADDRESS).path == path == store.path(ADDRESS)
    assert store.find("none") is None


def test_the_manifest_names_the_digest_of_every_file(store):
    path = store.put(ADDRESS, files(n=3))
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert manifest == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if file.name != "MANIFEST.json"
    }


@pytest.mark.parametrize("name", ["cell.json", "metrics.json", "MANIFEST.json"])
@pytest.mark.parametrize("harm", ["truncate", "remove", "flip"])
def test_a_damaged_cell_is_noticed(store, name, harm):
    file = store.put(ADDRESS, files(n=3)) / name
    content = file.read_bytes()
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if harm == "truncate" else content.swapcase())
    with pytest.raises(DamagedError, match=ADDRESS):
        store.find(ADDRESS)


def test_a_cell_moved_to_another_address_is_noticed(store):
    store.put(ADDRESS, files(n=3)).rename(store.path("cd34"))
    with pytest.raises(DamagedError, match="belongs elsewhere"):
        store.read("cd34")


def test_an_empty_directory_is_no_cell(store):
    store.path(ADDRESS).mkdir()
    with pytest.raises(DamagedError, match="incomplete"):
        store.find(ADDRESS)


def test_a_discarded_cell_can_be_written_again(store):
    (store.put(ADDRESS, files(n=3)) / "metrics.json").write_text("{}")
    store.discard(ADDRESS)
    assert store.find(ADDRESS) is None
    store.put(ADDRESS, files(n=4))
    assert store.read(ADDRESS).metrics == {"n": 4}


def test_the_first_of_two_writers_wins(store):
    store.put(ADDRESS, files(n=1))
    inode = store.path(ADDRESS).stat().st_ino
    store.put(ADDRESS, files(n=2))
    assert store.read(ADDRESS).metrics == {"n": 1}
    assert store.path(ADDRESS).stat().st_ino == inode
    assert [path.name for path in store.cells.iterdir()] == [ADDRESS]


def test_concurrent_writers_leave_one_whole_cell(store):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=put_many, args=(store.root, i, 30)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert store.read(ADDRESS).metrics["value"] in range(3)
    assert [path.name for path in store.cells.iterdir()] == [ADDRESS]


def test_a_writer_killed_at_any_moment_leaves_a_whole_cell_or_none(store):
    program = (
        "import sys, pathlib\n"
        "from spikeproof.experiments.run.store import Store, as_json\n"
        "store = Store(pathlib.Path(sys.argv[1])); n = 0\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    n += 1; name = f'c{n}'\n"
        "    store.put(name, {'cell.json': as_json({'address': name}), 'metrics.json': as_json([0] * 999)})\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    writer.kill()
    writer.communicate()
    cells = [path.name for path in store.cells.iterdir() if not path.name.startswith(".")]
    assert cells
    for name in cells:
        store.read(name)


def test_what_a_killed_writer_left_is_swept_after_an_hour(store):
    old, fresh = store.cells / ".tmp-old", store.cells / ".tmp-fresh"
    for left in (old, fresh):
        left.mkdir()
    os.utime(old, (0, 0))
    store.prepare()
    assert not old.exists()
    assert fresh.exists()


@pytest.mark.parametrize("folder", ["", "cells", "checkpoints", "failures", "figures"])
def test_what_killed_writers_left_is_swept_wherever_they_write(store, folder):
    place = store.root / folder
    place.mkdir(exist_ok=True)
    old, kept = place / ".tmp-old-report.html", place / "report.html"
    for path in (old, kept):
        path.write_text("")
        os.utime(path, (0, 0))
    store.prepare()
    assert (old.exists(), kept.exists()) == (False, True)


def refusing(monkeypatch, number):
    """Makes the synchronisation of directories fail with an error number."""
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.EPROTO, errno.EISDIR, errno.ENOTTY])
def test_a_file_system_without_synchronised_directories_is_noted_and_used(tmp_path, monkeypatch, number):
    refusing(monkeypatch, number)
    store = Store(tmp_path / "out")
    assert "cannot synchronise directories" in store.prepare()
    store.put(ADDRESS, files(n=3))
    write_atomically(store.root / "a", b"1")
    assert store.read(ADDRESS).metrics == {"n": 3}
    assert sorted(path.name for path in store.root.iterdir()) == ["a", "cells"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_stops_the_study_and_leaves_nothing_behind(tmp_path, monkeypatch, number):
    store = Store(tmp_path / "out")
    assert store.prepare() is None
    refusing(monkeypatch, number)
    for act in (store.prepare, lambda: store.put(ADDRESS, files(n=3))):
        with pytest.raises(InputError, match=os.strerror(number)):
            act()
    assert [path.name for path in store.root.iterdir()] == ["cells"]


def test_a_cell_that_is_not_the_one_of_the_plan_is_damaged(store):
    store.put(ADDRESS, files(n=3))
    with pytest.raises(DamagedError, match="another cell than the plan"):
        store.planned({"kind": "inspect", "address": ADDRESS, "spec": {}})
    with pytest.raises(DamagedError, match=r"clean\.draws: field required"):
        store.planned({"kind": "clean", "address": ADDRESS, "spec": {}})


@pytest.mark.parametrize("name", ["../cell.json", "/dev/zero", ".hidden", "", "a/b"])
def test_a_manifest_names_files_of_its_own_directory_only(store, name):
    path = store.put(ADDRESS, files(n=3)) / "MANIFEST.json"
    path.write_bytes(as_json({**json.loads(path.read_bytes()), name: "0" * 64}))
    with pytest.raises(DamagedError, match=r"MANIFEST\.json.*plain name"):
        store.read(ADDRESS)


def test_a_store_whose_path_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output directory .*Not a directory"):
        Store(tmp_path / "file" / "out").prepare()


def test_json_has_no_nan():
    assert json.loads(as_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}})) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }


def test_an_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    write_atomically(tmp_path / "a", b"old")
    write_atomically(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]
