"""The store as a queue: leases and their heartbeats, failures, the order of work, and surveys."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import spikeproof.experiments.run.plans as plans
import spikeproof.experiments.run.queue.leases as module
import spikeproof.experiments.run.queue.survey as queue_survey
from spikeproof.errors import InputError
from spikeproof.experiments.run.driver import Pace
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.run.queue.board import Board, Task
from spikeproof.experiments.run.queue.failures import MOST_LOSSES, MOST_TRIES, Failure, Failures, transient
from spikeproof.experiments.run.queue.forecast import Courses, Forecast
from spikeproof.experiments.run.queue.labour import Labour
from spikeproof.experiments.run.queue.leases import Holder, Leases, Progress, Pulse
from spikeproof.experiments.run.queue.survey import prune, retry, survey
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import Cell

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import Heard, Work, cells_of_models, files_of, go, noted

# --- leases --------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def elsewhere(monkeypatch, lease_of):
    """What a function gives when another machine runs it."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "this_host", lambda: "another/boot/pid")
        return lease_of()


def test_a_lease_belongs_to_one_worker_until_it_is_released(tmp_path):
    one, other = Leases(tmp_path, "one"), Leases(tmp_path, "other")
    lease = one.take("ab12")
    assert lease.after is None
    assert other.take("ab12") is None
    assert other.observe()["ab12"].owner == "one"
    lease.release()
    assert other.observe() == {}
    assert other.take("ab12").after is None


def test_many_threads_that_take_one_lease_get_it_once(tmp_path):
    barrier, taken = threading.Barrier(8), []

    def take(number):
        leases = Leases(tmp_path, str(number))
        barrier.wait()
        taken.append(leases.take("ab12"))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in taken if lease is not None]) == 1


def test_a_lease_of_another_machine_is_stale_after_a_minute_without_a_heartbeat(tmp_path, monkeypatch, clock):
    lease = elsewhere(monkeypatch, lambda: Leases(tmp_path, "one").take("ab12"))
    os.utime(tmp_path / "leases" / "ab12", (0, 0))  # the clock of the other machine says nothing
    other = Leases(tmp_path, "other")
    for clock.now in (0.0, 59.0):
        assert "ab12" in other.observe()
        assert other.take("ab12") is None
    lease.beat()
    for clock.now in (60.0, 119.0):
        assert "ab12" in other.observe()
    clock.now = 121.0
    assert other.observe() == {}
    taken = other.take("ab12")
    assert taken.after.owner == "one"
    lease.beat()
    lease.release()  # whoever was taken for lost leaves the new lease alone
    assert other.observe()["ab12"].owner == "other"


def test_a_lease_of_a_process_that_is_gone_is_stale_at_once(tmp_path):
    program = (
        "import os, sys, pathlib; from spikeproof.experiments.run.queue.leases import Leases\n"
        "Leases(pathlib.Path(sys.argv[1]), 'one').take('ab12'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert Leases(tmp_path, "other").observe() == {}
    assert Leases(tmp_path, "other").take("ab12").after.owner == "one"


def test_a_number_of_a_process_that_was_given_again_is_another_process(tmp_path):
    mine = Holder.here("one")
    assert not mine.gone
    assert replace(mine, born="1").gone
    assert not replace(mine, born="1", host="another").gone
    assert not replace(mine, born="").gone


KILLED = """
import os, sys, time
from pathlib import Path
import spikeproof.experiments.run.queue.leases as module
from spikeproof.experiments.run.queue.leases import Leases

root, before = Path(sys.argv[1]), sys.argv[2]
lines, left = 0, True

def dying_at(last):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename != module.__file__:
            return None
        seen += 1
        if seen == last:
            os._exit(9)
        return trace
    return trace

while left:
    lines += 1
    here = root / str(lines)
    if before == "taken over":
        lost = os.fork()
        if not lost:
            Leases(here, "lost").take("ab12")
            os._exit(0)
        os.waitpid(lost, 0)
    child = os.fork()
    if not child:
        sys.settrace(dying_at(lines))
        lease = Leases(here, "killed").take("ab12")
        sys.settrace(None)
        os._exit(3 if lease is None else 0)
    left = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    began = time.monotonic()
    lease = Leases(here, "next").take("ab12")
    assert lease is not None, f"nobody can take the cell of a worker that was killed at event {lines}"
    assert time.monotonic() - began < 10
    assert Leases(here, "other").observe()["ab12"].owner == "next"
    assert Leases(here, "other").take("ab12") is None
    lease.release()
    there = [each.name for each in (here / "leases").iterdir()]
    assert all(name.startswith(".tmp-") for name in there) and len(there) <= 2 * left, there
print(lines)
"""


@pytest.mark.parametrize("before", ["free", "taken over"])
def test_wherever_a_worker_is_killed_that_takes_a_cell_the_next_one_takes_it_at_once(tmp_path, before):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), before], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50  # as many places were tried


REFUSED = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV]


@pytest.mark.parametrize("number", REFUSED)
def test_where_a_file_has_one_name_only_cells_are_taken_all_the_same(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    one, other = Leases(tmp_path, "one"), Leases(tmp_path, "other")
    lease = one.take("ab12")
    assert other.observe()["ab12"].owner == "one"
    assert other.take("ab12") is None
    lease.beat()
    assert other.observe()["ab12"].beat == 1
    lease.release()
    assert other.take("ab12") is not None
    assert [each.name for each in (tmp_path / "leases").iterdir()] == ["ab12"]


@pytest.mark.parametrize("lost", [errno.EIO, errno.EEXIST])
def test_a_link_that_was_made_although_the_answer_of_the_server_got_lost_counts(tmp_path, monkeypatch, lost):
    link = os.link

    def made(*names):
        link(*names)
        raise OSError(lost, os.strerror(lost))

    monkeypatch.setattr(os, "link", made)
    assert Leases(tmp_path, "one").take("ab12") is not None
    assert Leases(tmp_path, "other").take("ab12") is None
    assert [each.name for each in (tmp_path / "leases").iterdir()] == ["ab12"]


def test_a_disk_that_takes_half_a_lease_leaves_none(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_fill", _half(module._fill))
    with pytest.raises(InputError, match="No space left"):
        Leases(tmp_path, "one").take("ab12")
    assert list((tmp_path / "leases").iterdir()) == []


def _half(fill):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            return self.file.write(content[: len(content) // 2])

    return lambda file, content: fill(Full(file), content)


def test_who_takes_over_a_lease_that_another_took_over_before_puts_it_back(tmp_path, monkeypatch, clock):
    elsewhere(monkeypatch, lambda: Leases(tmp_path, "lost").take("ab12"))
    fast, slow = Leases(tmp_path, "fast"), Leases(tmp_path, "slow")
    for clock.now in (0.0, 100.0):
        fast.observe(), slow.observe()
    judged = slow._stale("ab12")
    assert fast.take("ab12") is not None
    assert not slow._move_away("ab12", judged)
    assert Leases(tmp_path, "").observe()["ab12"].owner == "fast"


def test_a_heartbeat_shows_the_progress_and_ends_with_the_lease(tmp_path):
    leases = Leases(tmp_path, "one")
    with Pulse(every=1e-3).beating() as pulse, pulse.keeping(leases.take("ab12")) as lease:
        lease.tell(Progress(2, 7, "two\nof seven \x1b[31m" + "x" * 500))
        while (holder := leases.observe()["ab12"]).beat < 2 or not holder.progress.total:
            pass
        assert holder.progress[:2] == (2, 7)
        assert holder.progress.note.startswith("two of seven")
    assert leases.observe() == {}


def test_a_lease_that_another_user_may_not_read_is_stale_after_a_minute_as_well(tmp_path, monkeypatch, clock):
    elsewhere(monkeypatch, lambda: Leases(tmp_path, "one").take("ab12"))

    def forbidden(path, limit):
        raise InputError("a", "b", "c")

    monkeypatch.setattr(module, "bytes_of", forbidden)
    other = Leases(tmp_path, "other")
    for clock.now in (0.0, 59.0):
        assert other.observe() == {"ab12": None}
    clock.now = 61.0
    assert other.observe() == {}
    assert other.take("ab12") is not None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"owner": 3}', b"\xff" * 99, b"[" * 9999])
def test_a_lease_that_cannot_be_read_is_held_by_nobody_known(content, tmp_path):
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "ab12").write_bytes(content)
    assert Leases(tmp_path, "one").observe() == {"ab12": None}


def test_a_folder_that_may_not_be_written_is_refused_with_a_message(tmp_path):
    (tmp_path / "leases").write_text("")
    with pytest.raises(InputError, match="output directory"):
        Leases(tmp_path, "one").take("ab12")


def test_a_lost_worker_loses_all_its_leases_and_nobody_else(tmp_path):
    one, other = Leases(tmp_path, "one"), Leases(tmp_path, "other")
    kept = [leases.take(name) for leases, name in ((one, "a"), (one, "b"), (other, "c"))]
    assert sorted(other.expire("one")) == ["a", "b"]
    assert list(other.observe()) == ["c"]
    assert len(kept) == 3


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_stale_lease_that_cannot_be_moved_away_stops_the_run(tmp_path, monkeypatch, clock, number):
    """Where nobody could ever take the cell, waiting for it would have no end."""
    elsewhere(monkeypatch, lambda: Leases(tmp_path, "lost").take("ab12"))
    other = Leases(tmp_path, "other")
    for clock.now in (0.0, 100.0):
        other.observe()

    def refuse(path, target):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match=os.strerror(number)):
        other.take("ab12")
    assert other.expire("lost") == []


# --- failures ------------------------------------------------------------------------------------------


def test_tries_and_losses_are_counted_until_the_cell_is_set_aside(tmp_path):
    failures, cell = Failures(tmp_path), cells_of_models(1, 0)[0].record()
    noted = [failures.note(cell, Failure("busy", aside=False)) for _ in range(MOST_TRIES)]
    assert [each.aside for each in noted] == [False] * (MOST_TRIES - 1) + [True]
    assert [each.pause for each in noted] == [1.0, 4.0, 16.0]
    assert failures.forget(cell["address"])
    lost = Failure("died", tries=0, losses=1, aside=False)
    assert [failures.note(cell, lost).aside for _ in range(MOST_LOSSES)] == [False] * (MOST_LOSSES - 1) + [
        True
    ]


def test_failures_of_earlier_versions_are_set_aside(tmp_path):
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / "ab12.json").write_text(
        '{"kind": "clean", "spec": {}, "error": "E", "trace": "T"}'
    )
    assert Failures(tmp_path).read("ab12") == Failure("E", "T", tries=1, aside=True)
    (tmp_path / "failures" / "ab12.json").write_text("{")
    assert "ab12.json" in Failures(tmp_path).read("ab12").error


def test_what_an_exception_says_steers_no_terminal():
    assert Failure.of(ValueError("\n\x1b[31mred\u202e\nmore")).error == r"ValueError: \x1b[31mred\u202e"


def caused(reason):
    """A message about a file, with what the operating system said."""
    error = InputError("a", "b", "c")
    error.__cause__ = reason
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError("stale file handle"), True),
        (TimeoutError(), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("connection"), False),
        (FileNotFoundError("data"), False),
        (InputError("a", "b", "c"), False),
        (caused(OSError(errno.EIO, "Input/output error")), True),
        (caused(FileNotFoundError("data")), False),
        (caused(ValueError("connection")), False),
    ],
)
def test_errors_that_may_pass_are_told_from_those_that_stay(error, passes):
    assert transient(error) is passes


# --- the order of work ---------------------------------------------------------------------------------


def board_of(root, models, each):
    tasks = [Task.of(cell) for cell in cells_of_models(models, each)]
    board = Board(root, tasks, Leases(root, "me"))
    board.refresh()
    return board, tasks


def test_models_are_trained_before_they_are_measured_and_measured_where_they_are_warm(tmp_path):
    board, tasks = board_of(tmp_path, 2, 2)
    first, a, _, second, b, _ = tasks
    assert board.next() == first
    board.taken(first.address)
    assert board.next() == second  # nothing of the first model can be measured yet
    board.taken(second.address)
    assert board.next() is None
    assert not board.over
    board.finish(first.address), board.finish(second.address)
    board.held = {}
    assert board.next([second.model]) == b
    assert board.next([second.model, first.model]) == a


def test_a_worker_begins_with_a_model_that_no_other_one_has(tmp_path):
    board, tasks = board_of(tmp_path, 2, 2)
    for task in (tasks[0], tasks[3]):
        board.finish(task.address)
    board.taken(tasks[1].address)
    assert board.next() == tasks[4]
    board.taken(tasks[4].address)
    assert board.next() == tasks[2]


def test_a_cell_that_is_set_aside_blocks_what_needs_it_until_it_is_retried(tmp_path):
    board, tasks = board_of(tmp_path, 1, 2)
    failures = Failures(tmp_path)
    failures.note(tasks[0].cell.record(), Failure("E"))
    assert board.refresh().failed[tasks[0].address].error == "E"
    assert board.over
    assert board.blocked == {task.address for task in tasks[1:]}
    failures.forget(tasks[0].address)
    board.refresh()
    assert not board.over
    assert board.next() == tasks[0]


def test_a_cell_that_another_run_discards_is_work_again(tmp_path):
    board, tasks = board_of(tmp_path, 1, 0)
    store = Store(tmp_path)
    store.put(tasks[0].address, files_of(tasks[0].cell))
    board.refresh()
    assert board.over
    store.discard(tasks[0].address)
    board.refresh()
    assert board.next() == tasks[0]


def test_what_needs_a_cell_of_nowhere_is_blocked_and_not_waited_for(tmp_path):
    _, *others = [Task.of(cell) for cell in cells_of_models(1, 2)]
    board = Board(tmp_path, others, Leases(tmp_path, "me"))
    assert board.over
    assert len(board.blocked) == 2


def test_a_worker_waits_for_a_cell_that_another_holds_and_goes_on_with_what_needs_it(tmp_path):
    cells = cells_of_models(1, 1)
    other, ended = Leases(tmp_path, "other").take(cells[0].address), []
    work = threading.Thread(
        target=lambda: ended.append(Labour(tmp_path, Work(tmp_path))([Task.of(c) for c in cells], "me"))
    )
    work.start()
    Store(tmp_path).put(cells[0].address, files_of(cells[0]))
    other.release()
    work.join()
    assert ended == [True]
    assert Store(tmp_path).addresses() == {cell.address for cell in cells}


@dataclass(frozen=True)
class Overtaken(Work):
    """Stores another cell while it computes the first one, as another worker does."""

    other: Cell | None = None

    def __call__(self, cell, tell):
        Store(self.root).put(self.other.address, files_of(self.other))
        return super().__call__(cell, tell)


def test_a_cell_that_was_finished_since_the_last_look_is_not_computed_again(tmp_path):
    root, cells = tmp_path / "out", cells_of_models(1, 2)
    go(root, cells, Serial(), work=Overtaken(root, other=cells[1]), pace=Pace())
    assert [(word, address) for word, address, _ in noted(root)] == [
        ("begin", cells[0].address),
        ("begin", cells[2].address),
    ]


def test_a_forecast_goes_by_sorts_then_kinds_then_by_the_average(tmp_path):
    tasks = [Task.of(cell) for cell in cells_of_models(2, 2)]
    store, forecast = Store(tmp_path), Forecast(tmp_path)
    forecast.learn([])
    assert forecast.of(tasks) is None
    store.put(tasks[0].address, files_of(tasks[0].cell, 10.0))
    forecast.learn(tasks[:1])
    assert forecast.of([tasks[3], tasks[4]]) == 20.0  # of the second no cell is known: the average
    store.put(tasks[1].address, files_of(tasks[1].cell, 2.0))
    forecast.learn(tasks[1:2])
    assert forecast.of([tasks[3], tasks[4]], workers=2) == 6.0


def test_a_forecast_goes_by_the_progress_of_cells_under_way(tmp_path):
    tasks = [Task.of(cell) for cell in cells_of_models(1, 2)]
    courses, forecast, (first, *_) = Courses(), Forecast(tmp_path), [task.address for task in tasks]

    def told(progress, now):
        return forecast.of(tasks, 1, courses.see({first: progress}, now))

    assert told(Progress(0, 0, "loading"), 0.0) is None
    assert told(Progress(20, 100), 10.0) is None  # 20 were done when it was first seen
    # 10 of 80 in 5 s, so 35 s are left of this one; with the 15 s before, the other two take as long
    assert told(Progress(30, 100), 15.0) == 35.0 + 2 * 50.0
    assert told(Progress(0, 4, "next stage"), 20.0) is None
    Store(tmp_path).put(first, files_of(tasks[0].cell, 30.0))
    forecast.learn(tasks[:1])
    assert told(Progress(0, 4, "next stage"), 25.0) == 5.0 + 2 * 30.0


# --- surveys -------------------------------------------------------------------------------------------


@pytest.fixture
def campaign(tmp_path):
    """A study of which one cell is finished, one held, one failed, one set aside and one not begun."""
    cells = cells_of_models(1, 4)
    go(tmp_path, cells[:1], Serial(), work=Work(tmp_path))
    plans.write_plan(tmp_path, "synthetic", {}, cells)
    failures = Failures(tmp_path)
    failures.note(cells[2].record(), Failure("busy", "trace", aside=False))
    failures.note(cells[3].record(), Failure("wrong", "trace"))
    return tmp_path, cells, Leases(tmp_path, "worker").take(cells[1].address)


def test_a_survey_says_of_every_cell_what_became_of_it(campaign):
    root, cells, _ = campaign
    found = survey(root)
    done, held, tried, aside, waiting = (cell.address for cell in cells)
    assert (found.study, list(found.kinds)) == ("synthetic", [cell.address for cell in cells])
    assert found.finished == {done}
    assert (set(found.held), found.held[held].owner) == ({held}, "worker")
    assert {address: failure.trace for address, failure in found.retried.items()} == {tried: "trace"}
    assert {address: failure.error for address, failure in found.aside.items()} == {aside: "wrong"}
    assert found.waiting == (waiting,)
    assert found.total == {"train": 1, "inspect": 4}
    assert found.count(found.finished) == {"train": 1}


def test_the_index_is_used_and_never_believed_where_the_plan_has_changed(campaign, monkeypatch):
    root, cells, _ = campaign
    assert len(survey(root).kinds) == 5
    monkeypatch.setattr(queue_survey, "read_plan", lambda directory: pytest.fail("the index is not used"))
    assert len(survey(root).kinds) == 5
    monkeypatch.undo()
    plans.write_plan(root, "other", {}, cells[:2])
    (root / "cells.index").write_text((root / "cells.index").read_text().replace("inspect", "bogus"))
    index = (root / "cells.index").read_bytes()
    plans.write_plan(root, "third", {}, cells[:3])
    (root / "cells.index").write_bytes(index)
    assert (survey(root).study, len(survey(root).kinds)) == ("third", 3)
    assert set(survey(root).kinds.values()) == {"train", "inspect"}


LATER = '"created": "2030-01-01T00:00:00+00:00"'


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda text: text, True),
        (lambda text: re.sub('"created": "[^"]*"', LATER, text), True),
        (lambda text: json.dumps(json.loads(text)), True),
        (lambda text: text.replace('"inspect"', '"clean"', 1), False),
        (lambda text: text.rstrip().removesuffix("}") + ', "cells": []}', False),
        (lambda text: text.replace('"study": "synthetic"', '"study": "other"'), False),
        (lambda text: text[:-20], False),
    ],
)
def test_a_plan_is_written_again_unless_the_one_that_is_there_says_the_same(tmp_path, change, kept):
    cells, path = cells_of_models(1, 2), tmp_path / "study.json"
    plans.write_plan(tmp_path, "synthetic", {}, cells)
    path.write_text(there := change(path.read_text()))
    plans.write_plan(tmp_path, "synthetic", {}, cells)
    assert (path.read_text() == there) is kept
    assert [record["address"] for record in plans.read_plan(tmp_path)["plan"]] == [c.address for c in cells]


@pytest.mark.parametrize("repairs", [False, True])
def test_a_survey_imports_nothing_heavy_even_without_an_index(campaign, repairs):
    root, cells, _ = campaign
    if repairs:
        plans.note_repairs(root, [{**cells[1].record(), "because": "unstable predictions", "round": 1}])
    (root / "cells.index").unlink()
    program = (
        "import sys, pathlib\n"
        "from spikeproof.experiments.run.queue.survey import survey\n"
        "assert len(survey(pathlib.Path(sys.argv[1])).kinds) == 5\n"
        "assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, root], check=True)
    assert (root / "cells.index").exists()


def test_retry_lets_cells_be_tried_again(campaign):
    root, cells, _ = campaign
    assert retry(root) == [cells[3].address]
    assert retry(root, ["none", cells[2].address]) == [cells[2].address]
    assert set(survey(root).waiting) == {cell.address for cell in cells[2:]}


def test_prune_finds_and_removes_only_what_no_plan_needs(campaign):
    root, cells, _ = campaign
    store, other = Store(root), cells_of_models(2, 0)[1]
    store.put(other.address, files_of(other))
    (root / "checkpoints").mkdir()
    for address in (cells[0].address, cells[4].address, other.address):
        (root / "checkpoints" / address).write_text("state")
    found = prune(root)
    assert (found.cells, found.failures, found.leases) == ((other.address,), (), ())
    assert found.checkpoints == tuple(sorted((cells[0].address, other.address)))
    assert found.size > 10
    assert store.has(other.address)
    assert prune(root, remove=True) == found
    assert store.addresses() == {cells[0].address}
    assert [path.name for path in (root / "checkpoints").iterdir()] == [cells[4].address]
    assert prune(root).size == 0


def test_a_run_tries_again_what_earlier_runs_set_aside(campaign):
    root, cells, lease = campaign
    lease.release()
    heard = Heard()
    summary = go(root, cells, Serial(), heard, Work(root))
    assert (summary.computed, summary.kept, summary.failed) == (4, 1, 0)
    assert not any((root / "failures").iterdir())
