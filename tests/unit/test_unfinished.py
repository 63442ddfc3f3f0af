"""Parts of long cells: the same outcome to the bit, whatever was saved; short memory."""

import json
from dataclasses import fields

import pytest
import torch

import spikeproof.experiments.run.unfinished as module
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.nearest.linearised import DeepFool
from spikeproof.compiled import chosen_span
from spikeproof.errors import InputError
from spikeproof.evaluation.columns import subset
from spikeproof.evaluation.distances import Nearest, evaluate_distances
from spikeproof.evaluation.outcomes import Attacked
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.queue.leases import Progress
from spikeproof.experiments.run.unfinished import Unfinished
from spikeproof.experiments.study.cells import Cell
from spikeproof.keys import Key
from spikeproof.threats import L2, Linf

KEY, WEIGHTS = Key.of(3), torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
X = torch.rand(11, 6, generator=torch.Generator().manual_seed(2))
Y = (X @ WEIGHTS).argmax(-1).where(torch.arange(11) != 4, torch.tensor(0))


def model(images, key=None):
    return (images @ WEIGHTS).sin() * 3


CLEAN = evaluate_clean(model, X, Y, KEY)


def attacked(rows):
    outcome = (model, PGD(steps=3), Linf(0.1), X[rows], Y[rows], subset(CLEAN, rows), KEY)
    return evaluate_attack(*outcome, batch_size=2)


def nearest(rows):
    asked = (model, DeepFool(steps=3), L2(1.0), X[rows], Y[rows], subset(CLEAN, rows), KEY)
    return evaluate_distances(*asked, batch_size=2)


CASES = [(Attacked, attacked), (Nearest, nearest)]


def unfinished(path, identity="cell", told=None):
    return Unfinished(
        path, identity, torch.device("cpu"), (told if told is not None else []).append, ("weights",)
    )


def whole(outcome, measure, path, batch=2, **options):
    return unfinished(path, **options).outcome("examples", outcome, measure, batch, len(X))


@pytest.fixture(autouse=True)
def batch_by_batch(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_OF_A_BLOCK", 0.0)
    monkeypatch.setattr(module, "SECONDS_AT_RISK", -1.0)


def same(found, wanted):
    for each in fields(wanted):
        a, b = getattr(found, each.name), getattr(wanted, each.name)
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b


@pytest.mark.parametrize(("outcome", "measure"), CASES, ids=["attack", "distance"])
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_blocks_of_any_size_have_the_outcome_of_the_whole(outcome, measure, batch, tmp_path):
    told = []
    same(whole(outcome, measure, tmp_path / "s", batch, told=told), measure(slice(None)))
    assert [progress.done for progress in told] == list(range(0, len(X), batch))


def test_examples_that_are_a_stage_of_a_cell_do_not_foretell_its_end(tmp_path):
    told = []
    parts = unfinished(tmp_path / "s", told=told)
    parts.stage = (2, 9)
    parts.rows("pgd", lambda rows: {"x": X[rows]}, 6, len(X))
    assert told == [Progress(2, 9, "pgd, 0 of 11"), Progress(2, 9, "pgd, 6 of 11")]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("outcome", "measure"), CASES, ids=["attack", "distance"])
def test_a_killed_measurement_goes_on_after_the_last_saved_block(outcome, measure, tmp_path):
    seen = []

    def dying(rows):
        if rows.start == 6:
            raise Killed
        return measure(rows)

    def counting(rows):
        seen.append(rows.start)
        return measure(rows)

    with pytest.raises(Killed):
        whole(outcome, dying, tmp_path / "s")
    same(whole(outcome, counting, tmp_path / "s"), measure(slice(None)))
    assert seen[0] == 6
    same(whole(outcome, counting, tmp_path / "s", identity="other"), measure(slice(None)))
    assert seen.count(0) == 1


def test_parts_of_other_weights_are_not_taken(tmp_path):
    first = unfinished(tmp_path / "s")
    assert first.keep("a", lambda: 1) == 1
    other = unfinished(tmp_path / "s")
    other.weights = ("others",)
    assert other.keep("a", lambda: 2) == 2
    assert unfinished(tmp_path / "s").keep("a", lambda: 3) == 1


@pytest.mark.parametrize(
    "value",
    [
        0.1,
        float("nan"),
        None,
        [1, [2.5, "x"]],
        {"a": True},
        torch.tensor([1.0, torch.nan]),
        torch.ones(2) > 0,
    ],
)
def test_what_is_kept_comes_back_as_it_was(value, tmp_path):
    now = unfinished(tmp_path / "s").keep("a", lambda: value)
    later = unfinished(tmp_path / "s").keep("a", lambda: pytest.fail("it is computed again"))
    for found in (now, later):
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found, value, rtol=0, atol=0, equal_nan=True)
        else:
            assert repr(found) == repr(value)


def test_parts_of_a_block_are_dropped_with_it(tmp_path):
    parts = unfinished(tmp_path / "s")
    parts.keep("before", lambda: 1)
    parts.rows("rows", lambda rows: {"x": parts.keep(f"inner {rows.start}", lambda: X[rows])}, 4, len(X))
    assert sorted(parts.parts) == ["before weights", "rows weights"]


def test_a_damaged_state_costs_time_and_changes_nothing(tmp_path):
    state = tmp_path / "s"
    with pytest.raises(Killed):
        whole(Attacked, lambda rows: attacked(rows) if rows.start < 4 else _raise(), state)
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="starts from its beginning"):
        found = whole(Attacked, attacked, state)
    same(found, attacked(slice(None)))


def _raise():
    raise Killed


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")],
)
def test_short_memory_halves_the_batch(error, tmp_path, monkeypatch):
    sizes, told = [], []

    def clean(bench, cell, parts):
        sizes.append(bench.batch_size)
        if bench.batch_size > 3:
            raise error
        return {}

    monkeypatch.setattr(Bench, "clean", clean)
    bench, cell = Bench(tmp_path, None, "cpu", 12), Cell.of("clean", {"train": "ab12"})
    files = bench(cell, told.append)
    assert sizes == [12, 6, 3]
    assert json.loads(files["provenance.json"])["batch_size"] == 3
    assert "a batch of 6" in told[0].note
    assert bench.batch_size == 12


def test_what_does_not_fit_in_a_batch_of_one_is_tried_in_spans_of_time(tmp_path, monkeypatch):
    tried = []

    def clean(bench, cell, parts):
        tried.append((bench.batch_size, bench.span, chosen_span()))
        if bench.span is None or bench.span > 8:
            raise MemoryError
        return {}

    monkeypatch.setattr(Bench, "clean", clean)
    told, cell = [], Cell.of("clean", {"train": "ab12"})
    files = Bench(tmp_path, None, "cpu", 2)(cell, told.append)
    assert tried == [(2, None, None), (1, None, None), (32, 32, 32), (32, 8, 8)]
    assert json.loads(files["provenance.json"])["span"] == 8
    assert "8 time steps at once" in told[-1].note


def test_other_errors_and_single_time_steps_are_not_tried_again(tmp_path, monkeypatch):
    tried = []

    def clean(bench, cell, parts):
        tried.append(bench.span)
        raise MemoryError if bench.batch_size < 3 or bench.span else InputError("a", "b", "c")

    monkeypatch.setattr(Bench, "clean", clean)
    for size, error in ((4, InputError), (1, MemoryError)):
        with pytest.raises(error):
            Bench(tmp_path, None, "cpu", size)(Cell.of("clean", {"train": "ab12"}), lambda progress: None)
    assert tried == [None, None, 32, 8, 2, 1]
