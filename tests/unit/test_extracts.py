"""Extracts of finished cells: equal to the cells, and believed only while these are unchanged."""

import base64
import hashlib
import json
import os
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeproof.experiments.read.results import records
from spikeproof.experiments.run import extracts
from spikeproof.experiments.run.extracts import FOLDER, extract, verified
from spikeproof.experiments.run.parquet import read_columns
from spikeproof.experiments.run.shapes import COLUMNS
from spikeproof.experiments.run.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench, N


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("extracts"))
    for seed in (0, 1):
        train = bench.model("latency", seed=seed)
        fell = np.where(np.arange(N) % 2, -1, 3)
        bench.attack(train, "pgd", 0.1, 0.4, columns={"fell": fell, "linf": np.linspace(0, 0.1, N)})
        bench.certify(train, "interval", 0.1, proved=np.arange(N) < 20)
    return bench.finish()


@pytest.fixture
def study(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "out"))


@pytest.fixture
def plan(study):
    return json.loads((study / "study.json").read_text())["plan"]


def lines(study):
    return [line for path in (study / FOLDER).glob("*.lines") for line in path.read_bytes().splitlines(True)]


@pytest.fixture
def opened(monkeypatch):
    """The addresses of the cells whose files are read and verified."""
    seen, whole = [], Store.opened

    def noted(store, record):
        seen.append(record["address"])
        return whole(store, record)

    monkeypatch.setattr(Store, "opened", noted)
    return seen


def test_numbers_are_those_of_the_cells_and_no_cell_is_read_twice(study, plan, opened):
    first = records(study)
    assert sorted(opened) == sorted(record["address"] for record in plan)
    opened.clear()
    assert records(study) == first
    assert not opened
    assert len(lines(study)) == len(plan)


def test_a_cell_is_the_same_from_its_extract_as_from_its_files(study, plan):
    cells = [verified(Store(study), plan) for _ in range(2)][1]
    for record in plan:
        whole, found = Store(study).planned(record), cells[record["address"]]
        assert (found.path, found.metrics, found.files) == (whole.path, whole.metrics, whole.files)
        assert found.cell == whole.cell
        assert cells.provenance(record["address"]) == json.loads((whole.path / "provenance.json").read_text())
        if "examples.parquet" in whole.files:
            columns = read_columns(whole.path, record["kind"])
            assert {*found.columns} == {*columns}
            assert len(found.columns) == len(columns)
            for name, column in columns.items():
                assert np.array_equal(found.columns[name], column, equal_nan=True), name


@pytest.mark.parametrize("name", ["metrics.json", "MANIFEST.json", "examples.parquet"])
def test_a_cell_that_changes_afterwards_is_read_again_and_found_damaged(study, plan, name):
    address = next(record["address"] for record in plan if record["kind"] == "attack")
    assert address in verified(Store(study), plan)
    path = study / "cells" / address / name
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-9] + content[-9:].swapcase()[::-1])  # as long as before
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of change of the file stays
    cells = verified(Store(study), plan)
    assert (address in cells, list(cells.damaged)) == (False, [address])


def test_a_cell_that_is_gone_is_gone(study, plan):
    verified(Store(study), plan)
    shutil.rmtree(study / "cells" / plan[0]["address"])
    assert plan[0]["address"] not in verified(Store(study), plan)


def test_an_extract_of_another_plan_is_passed_over(study, plan, opened):
    verified(Store(study), plan)
    opened.clear()
    other = {**plan[1], "spec": {**plan[1]["spec"], "draws": 7}}
    assert list(verified(Store(study), [other]).damaged) == [plan[1]["address"]]
    assert opened == [plan[1]["address"]]


@pytest.mark.parametrize(
    "harm",
    [
        lambda line: line[: len(line) // 2],
        lambda line: line.replace(b'"n":200', b'"n":999'),
        lambda line: b"\n",
        lambda line: b"\xff" * 40 + b"\n",
        lambda line: line[:17] + b"x" + line[18:],
    ],
)
def test_a_line_that_was_cut_off_or_changed_is_made_anew(study, plan, opened, harm):
    before = records(study)
    (path,) = (study / FOLDER).glob("*.lines")
    found = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join([*found[:3], harm(found[3]), *found[4:]]))
    opened.clear()
    assert records(study) == before
    assert len(opened) in (1, 2)  # a line without an end takes the next one with it
    opened.clear()
    assert records(study) == before
    assert not opened


@pytest.mark.parametrize(
    "content", ["{A} 3\t{}", "{A} {}\t{}", "{A} nothing\t{}", "{A} [1]\t[]", "no-space", "{A} "]
)
def test_a_line_that_no_program_of_ours_wrote_is_passed_over(study, plan, content):
    """Its checksum is right, so that only its content is wrong."""
    before = {address: dict(cell.metrics) for address, cell in verified(Store(study), plan).items()}
    shutil.rmtree(study / FOLDER)
    (study / FOLDER).mkdir()
    with (study / FOLDER / "foreign.lines").open("wb") as file:
        for record in plan:
            text = content.replace("{A}", record["address"]).encode()
            file.write(hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n")
    after = verified(Store(study), plan)
    assert {address: dict(cell.metrics) for address, cell in after.items()} == before


def sealed(content):
    """A line with a checksum that fits."""
    return hashlib.sha256(content).hexdigest()[:16].encode() + b" " + content + b"\n"


def content_of(cells):
    """A digest of all that is read of each finished cell."""
    found = {}
    for address, cell in cells.items():
        columns = {name: cell.columns[name].tobytes() for name in sorted(cell.columns)}
        whole = repr((cell.metrics, columns, cells.provenance(address)))
        found[address] = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return found


def with_line(study, plan, which, harm):
    """What is read where one line was replaced by others."""
    (path,) = (study / FOLDER).glob("*.lines")
    before = path.read_bytes()
    found = before.splitlines(True)
    try:
        path.write_bytes(b"".join([*found[:which], *harm(found[which]), *found[which + 1 :]]))
        return content_of(verified(Store(study), plan))
    finally:
        for other in (study / FOLDER).glob("*.lines"):
            other.unlink()
        path.write_bytes(before)


@pytest.fixture(scope="module")
def extracted(written, tmp_path_factory):
    """A study with its extracts, its plan, and all that is read of it."""
    study = Path(shutil.copytree(written, tmp_path_factory.mktemp("extracted") / "out"))
    plan = json.loads((study / "study.json").read_text())["plan"]
    return study, plan, content_of(verified(Store(study), plan))


NEEDED = {"n", "robust_accuracy", "clean_accuracy"}
"""Numbers that every cell of their kind has."""


def places_in(document, kind):
    """The entries of a part of a line that always have a value of the same type."""
    found = [(document, key) for key in document]
    for name in ("weights", "files"):
        found += [(document[name], key) for key in document.get(name, ())]
    found += [(document["metrics"], key) for key in document.get("metrics", ()) if key in NEEDED]
    found += [(document["columns"], key) for key in document.get("columns", ()) if key in COLUMNS[kind]]
    return found


OTHER_VALUES = (..., "x", 1.5, True, [], ["x"], {}, {"x": "x"}, -1)
"""What stands in place of a value; nothing for the first."""


@settings(max_examples=60, deadline=None)
@given(which=st.integers(0, 60), part=st.integers(0, 2), number=st.integers(0, 60), other=st.integers(0, 8))
def test_a_line_with_other_content_under_a_right_checksum_is_passed_over(
    extracted, which, part, number, other
):
    study, plan, expected = extracted
    value = OTHER_VALUES[other]

    def harm(line):
        address, rest = line[17:-1].split(b" ", 1)
        parts = rest.split(b"\t")
        if part == 2:
            parts[2] = json.dumps(None if value is ... or isinstance(value, dict) else value).encode()
        else:
            document = json.loads(parts[part])
            places = places_in(document, plan[which % len(plan)]["kind"])
            holder, key = places[number % len(places)]
            if value is ...:
                del holder[key]
            elif type(value) is not type(holder[key]):
                holder[key] = value
            parts[part] = json.dumps(document).encode()
        return [sealed(address + b" " + b"\t".join(parts))]

    assert with_line(study, plan, which % len(plan), harm) == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_line_with_any_bytes_is_read_or_passed_over(extracted, data):
    study, plan, expected = extracted
    which = data.draw(st.integers(0, len(plan) - 1))
    put_in = data.draw(st.binary(max_size=9)).replace(b"\n", b"")
    start, length = data.draw(st.integers(0, 2000)), data.draw(st.integers(0, 2000))

    def harm(line):
        content = line[17:-1]
        return [sealed(content[:start] + put_in + content[start + length :])]

    found = with_line(study, plan, which, harm)
    assert found.keys() == expected.keys()
    assert sum(found[address] != expected[address] for address in found) <= 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda line: [line, line],
        lambda line: [line, line[:-1]],
        lambda line: [sealed(line[17:-1].replace(line[17:57], b"0" * 40)), line],
        lambda line: [b"\xff\xfe" + line, line],
    ],
    ids=["twice", "no end", "of no cell", "no text"],
)
def test_lines_beside_a_good_one_change_nothing(extracted, harm):
    study, plan, expected = extracted
    assert with_line(study, plan, len(plan) - 1, harm) == expected


def test_lines_of_another_layout_are_passed_over(study, plan, opened, monkeypatch):
    monkeypatch.setattr(extracts, "LAYOUT", 0)
    verified(Store(study), plan)
    monkeypatch.setattr(extracts, "LAYOUT", 1)
    opened.clear()
    assert len(verified(Store(study), plan)) == len(plan)
    assert sorted(opened) == sorted(record["address"] for record in plan)


def fewer(body):
    numbers = zlib.decompress(base64.b64decode(body["numbers"]))
    body["numbers"] = base64.b64encode(zlib.compress(numbers[: N // 2])).decode()


MISFITS = {
    "no manifest among its files": (0, lambda head: head["files"].pop("MANIFEST.json"), True),
    "a file that is not there": (0, lambda head: head["files"].update({"more.json": [1, 1, 1]}), True),
    "another number of rows": (1, lambda body: body.update(rows=N - 1), True),
    "too few values of its columns": (1, fewer, False),
    "a share above 1": (1, lambda body: body["metrics"].update(robust_accuracy=1.5), True),
}
"""What is wrong -> part of the line, how it is changed, and whether the whole cell is read again."""


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_line_that_does_not_fit_its_cell_is_not_believed(study, plan, opened, misfit):
    expected = content_of(verified(Store(study), plan))
    which = next(i for i, record in enumerate(plan) if record["kind"] == "attack")
    part, change, anew = MISFITS[misfit]

    def harm(line):
        address, rest = line[17:-1].split(b" ", 1)
        parts = rest.split(b"\t")
        document = json.loads(parts[part])
        change(document)
        parts[part] = json.dumps(document).encode()
        return [sealed(address + b" " + b"\t".join(parts))]

    opened.clear()
    assert with_line(study, plan, which, harm) == expected
    assert opened == [plan[which]["address"]] * anew


def test_many_writers_at_once_lose_no_line_and_readers_gather_them(study, plan, opened):
    for number in range(40):
        for record in plan[number % 4 :: 4]:
            extract(Store(study), record, f"worker {number}")
    assert len(list((study / FOLDER).glob("*.lines"))) == 40
    opened.clear()
    assert len(verified(Store(study), plan)) == len(plan)
    assert not opened
    assert len(list((study / FOLDER).glob("*.lines"))) == 1
    assert len(lines(study)) == len(plan)
    assert len(verified(Store(study), plan)) == len(plan)
    assert not opened


def test_a_file_that_grows_while_lines_are_gathered_stays(study, plan, monkeypatch):
    for number in range(40):
        extract(Store(study), plan[0], f"worker {number}")
    whole = extracts._Files.gather

    def growing(files, places):
        extract(Store(study), plan[1], "worker 0")
        whole(files, places)

    monkeypatch.setattr(extracts._Files, "gather", growing)
    verified(Store(study), plan[:1])
    assert sum(b" " + plan[1]["address"].encode() in line for line in lines(study)) == 1


def test_where_nothing_can_be_written_cells_are_read_all_the_same(study, plan):
    (study / FOLDER).write_text("no folder")
    cells = verified(Store(study), plan)
    assert len(cells) == len(plan)
    assert cells[plan[0]["address"]].metrics["parameters"] == 4321
    extract(Store(study), plan[0], "worker")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 0.25, -2.0, float("nan")]), max_size=40)
    | st.integers(0, 5).map(lambda step: [float(7 + step * i) for i in range(600)])
    | st.lists(st.floats(0, 1), min_size=300, max_size=600)
)
def test_a_column_is_kept_exactly_or_not_at_all(values):
    column = np.array(values)
    packed = extracts._pack(column)
    if packed is None:
        assert len(np.unique(column)) > extracts.MOST_VALUES
        return
    summed, different, numbers = packed
    found = different[numbers]
    assert np.array_equal(np.cumsum(found) if summed else found, column, equal_nan=True)
