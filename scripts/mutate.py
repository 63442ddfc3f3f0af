"""Change the code in one place at a time and see whether a test fails: a check of the tests.

    python scripts/mutate.py --count 150 --seed 0 --record mutants.jsonl    # run a sample, or go on with it
    python scripts/mutate.py --rooms decoders statistics.py --each 20 --record mutants.jsonl    # 20 of each
    python scripts/mutate.py --record mutants.jsonl --table                 # Markdown: counts and survivors

Works on a copy of the tree in a temporary folder, so that nothing needs to be restored here whatever happens.
Each mutant is one line of the record; what the record already holds is not run again. `TESTS` names the test
files of a module, to which its own doctests are added. Each of these files is run once on the unchanged code,
which shows which test calls which function; a mutant inside a function is then tested by the tests that call
it, and any other mutant by the whole files, the quickest file and in it the quickest test first. A mutant
whose tests take too long is undecided: give it more with `--seconds`. A test that kills a mutant must pass on
the unchanged code, or the mutant is recorded as unsound.

Operators: comparisons flip (`<` and `<=`, `==` and `!=`, ...), `+` and `-` as well as `*` and `/` change
places, `and` and `or` too, numbers and truth values change, conditions are negated, keyword arguments are
dropped, and statements without a name on the left are removed. Messages of exceptions stay as they are.

Needs a system that can fork (Linux, macOS): the libraries are imported once and every mutant is a fork.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/spikeproof")
ROOMS = ("attacks", "evaluation", "auditing", "statistics.py", "threats")
LAWS, UNIT = "tests/laws/test_{}.py", "tests/unit/test_{}.py"
TESTS = {  # the longest beginning of a module's path counts
    "attacks/": ["recipes", "attacks", "linear_optimum"],
    "attacks/search.py": ["attacks", "objectives", "steps", "linear_optimum"],
    "attacks/gradient/estimates.py": ["estimates_and_composites"],
    "attacks/answers/": ["queries", "attacks"],
    "attacks/answers/reachable.py": ["reachable"],
    "attacks/events/": ["spike_attacks", "descent", "event_catalogue"],
    "attacks/nearest/": ["minimum_norm", "nested_and_distances"],
    "attacks/made_of/": ["estimates_and_composites", "nested_and_distances", "transfer_studies"],
    "attacks/parts/objectives.py": ["objectives", "recipes"],
    "attacks/parts/steps.py": ["steps", "linear_optimum", "recipes"],
    "attacks/parts/schedules.py": ["steps", "linear_optimum", "recipes"],
    "evaluation/": ["evaluation", "exits"],
    "evaluation/asking/": ["any_model", "evaluation", "callers"],
    "evaluation/asking/steady.py": ["evaluation", "batch_independence", "exits"],
    "evaluation/columns.py": ["outcomes"],
    "evaluation/certificates.py": ["certificates"],
    "evaluation/suites.py": ["suites", "suite_cells"],
    "evaluation/through.py": ["gradient_sources", "estimates_and_composites", "substitution"],
    "evaluation/distances.py": ["nested_and_distances", "batch_independence"],
    "evaluation/outcomes.py": ["outcomes", "evaluation", "exits"],
    "evaluation/verdicts.py": ["evaluation", "exits", "nested_and_distances"],
    "auditing/": ["audit_rules", "tests/museum/test_museum.py", "estimates_and_composites", "repairs"],
    "auditing/conditions.py": ["audit_rules", "tests/museum/test_museum.py"],
    "auditing/checks.py": ["audit_rules", "tests/museum/test_museum.py"],
    "auditing/evidence.py": ["audit_rules", "tests/museum/test_museum.py"],
    "decoders/": ["decoders", "exits"],
    "encoders/": ["encoders", "coded"],
    "neurons/": ["neuron_members", "neurons"],
    "neurons/parts/loops.py": ["neurons", "compiled_loops"],
    "neurons/spiketimes.py": ["spiketimes", "event_driven"],
    "statistics.py": ["statistics", "comparisons"],
    "threats/": ["threats", "steps"],
    "threats/regions.py": ["threats", "steps", "suites"],
    "threats/shifts.py": ["shifts", "spike_attacks"],
    "threats/spikes.py": ["spike_threats", "spike_attacks", "event_catalogue"],
}
EVERY = "every test of the file"
PASSED, FAILED, LATE, UNSOUND = "survived", "killed", "out of time", "test unsound"
PATIENCE = 20  # seconds on the clock for each second of processor time, on a busy machine
SWAPS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    **{ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.And: ast.Or, ast.Or: ast.And},
}


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Args:
        path: the module, below the package.
        index: which of the places where something may change, in the order of `places`.
    """

    path: str
    index: int

    @property
    def room(self) -> str:
        return self.path.split("/")[0].removesuffix(".py")


def places(tree: ast.AST) -> Iterator[tuple[str, ast.AST, str, int]]:
    """What may change: operator, node, the node's field and an index into it.

    Annotations, decorators, docstrings and what is raised are left alone.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Compare):
            yield from (("compare", node, "ops", i) for i, op in enumerate(node.ops) if type(op) in SWAPS)
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
            yield "operator", node, "op", 0
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield "constant", node, "value", 0
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield "condition", node, "test", 0
        if isinstance(node, ast.Call):
            yield from (("keyword", node, "keywords", i) for i, word in enumerate(node.keywords) if word.arg)
        yield from _statements(node)
        if not isinstance(node, ast.Raise):
            yield from places(_without_types(node))


def _statements(node: ast.AST) -> Iterator[tuple[str, ast.AST, str, int]]:
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        for i, line in enumerate(block if isinstance(block, list) else ()):
            documented = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
            if isinstance(line, ast.Expr | ast.AugAssign | ast.Raise) and not documented:
                yield "statement", node, name, i


class _Children(ast.AST):
    """Some of the children of a node."""

    _fields = ("nodes",)


def _without_types(node: ast.AST) -> ast.AST:
    left_out = {"annotation", "returns", "decorator_list", "type_comment", "type_params"}
    children = _Children()
    children.nodes = []  # type: ignore[attr-defined]
    for name, value in ast.iter_fields(node):
        if name not in left_out:
            found = value if isinstance(value, list) else [value]
            children.nodes += [each for each in found if isinstance(each, ast.AST)]  # type: ignore[attr-defined]
    return children


def changed(source: str, index: int) -> tuple[str, str, int]:
    """The source with one place changed, a sentence that says how, and the line."""
    tree = ast.parse(source)
    kind, node, name, i = list(places(tree))[index]
    value = getattr(node, name)
    shown: ast.AST = node
    if kind == "statement":
        shown, value[i] = value[i], ast.Pass()
        sentence = f"removed `{_short(shown)}`"
    else:
        before = copy.deepcopy(node)
        if kind == "compare":
            value[i] = SWAPS[type(value[i])]()
        elif kind == "operator":
            setattr(node, name, SWAPS[type(value)]())
        elif kind == "constant":
            setattr(node, name, (not value) if isinstance(value, bool) else value * 2 + 1)
        elif kind == "condition":
            setattr(node, name, ast.UnaryOp(ast.Not(), value))
            before, shown = before.test, node.test  # type: ignore[attr-defined]
        else:
            sentence = f"dropped `{_short(value[i])}` in `{_short(before)}`"
            del value[i]
        if kind != "keyword":
            sentence = f"`{_short(before)}` became `{_short(shown)}`"
    return ast.unparse(ast.fix_missing_locations(tree)), sentence, getattr(node, "lineno", 0)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def sample(count: int, seed: int, rooms: Sequence[str] = ROOMS, each: int | None = None) -> list[Mutant]:
    """As many mutants per room as its share of all places, drawn without repetition, then shuffled.

    Args:
        count: size of the sample.
        seed: which sample.
        rooms: folders and modules, below the package.
        each: size of the sample of every room, in the place of `count`, so that none of them is left out.
    """
    drawn = random.Random(seed)
    if each is not None:
        chosen = [mutant for room in rooms for mutant in sample(each, seed, [room])]
        return drawn.sample(chosen, len(chosen))
    every = [
        Mutant(path.relative_to(ROOT / PACKAGE).as_posix(), index)
        for room in rooms
        for path in sorted(
            [ROOT / PACKAGE / room] if room.endswith(".py") else (ROOT / PACKAGE / room).rglob("*.py")
        )
        for index in range(len(list(places(ast.parse(path.read_text("utf-8"))))))
    ]
    return drawn.sample(every, min(count, len(every)))


def tests_of(path: str) -> list[str]:
    """Files whose tests a module's mutants have to survive."""
    starts = [start for start in TESTS if path.startswith(start)]
    assert starts, f"TESTS names no tests for {path}"
    best = max(starts, key=len)
    names = [name if "/" in name else LAWS.format(name) for name in TESTS[best]]
    names = [n if (ROOT / n).exists() else UNIT.format(Path(n).stem.removeprefix("test_")) for n in names]
    return [str(PACKAGE / path), *(name for name in names if (ROOT / name).exists())]


class Calls:
    """A pytest plugin that notes which tests call which functions of the package.

    What a fixture or an import calls counts as called by every test of the file, since fixtures are shared.

    Args:
        package: folder of the package.
    """

    def __init__(self, package: Path) -> None:
        self.package = f"{package}{os.sep}"
        self.seconds: dict[str, float] = {}
        self.functions: dict[str, set[str]] = {}
        self.test = EVERY

    def notice(self, frame: FrameType, event: str, argument: object) -> None:
        """Called by Python at every call of a function."""
        path = frame.f_code.co_filename
        if path.startswith(self.package):
            place = f"{path.removeprefix(self.package)}:{frame.f_code.co_firstlineno}"
            self.functions.setdefault(place, set()).add(self.test)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.test = EVERY

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.test = item.nodeid

    def pytest_runtest_teardown(self) -> None:
        self.test = EVERY

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


@dataclass(frozen=True)
class Known:
    """What a test file does on the unchanged code.

    Args:
        seconds: duration of each test.
        functions: tests that call a function, by module and first line; `EVERY` stands for all of the file.
    """

    seconds: dict[str, float]
    functions: dict[str, list[str]]

    def calling(self, function: str | None) -> set[str]:
        """The tests of the file that call a function; all for a place outside of functions, None."""
        found = {EVERY} if function is None else set(self.functions.get(function, ()))
        return set(self.seconds) if EVERY in found else found


def known(tree: Path, file: str) -> Known:
    """Run a test file once, watched."""
    told = tree / "calls.json"
    told.unlink(missing_ok=True)

    def watched() -> int:
        calls = Calls(tree / PACKAGE)
        sys.settrace(calls.notice)
        code = _tests(tree, [file], [calls], stop=False)
        sys.settrace(None)
        functions = {place: sorted(tests) for place, tests in calls.functions.items()}
        told.write_text(json.dumps({"seconds": calls.seconds, "functions": functions}), "utf-8")
        return code

    outcome = fork(watched, 3600)
    assert told.exists(), f"{file} did not run to its end: {outcome}"
    return Known(**json.loads(told.read_text("utf-8")))


class Only:
    """A pytest plugin that runs some tests, in the order of their files, the quickest one first.

    Args:
        seconds: tests that are run -> what each of them took on the unchanged code.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        files = list(dict.fromkeys(item.path for item in items))
        chosen = [item for item in items if item.nodeid in self.seconds]
        items[:] = sorted(chosen, key=lambda item: (files.index(item.path), self.seconds[item.nodeid]))


def function_at(source: str, index: int) -> str | None:
    """The first line of the innermost function that holds a place; None outside of functions."""
    tree = ast.parse(source)
    target = list(places(tree))[index][1]
    holders = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(inner is target for inner in ast.walk(node))
    ]
    starts = [min([node.lineno, *(each.lineno for each in node.decorator_list)]) for node in holders]
    return str(max(starts)) if starts else None


def run(tree: Path, files: list[str], seconds: float, only: dict[str, float] | None = None) -> str:
    """How the tests end on the copied tree: those of the files, or some of them."""
    return fork(lambda: _tests(tree, files, [] if only is None else [Only(only)]), seconds)


def fork(work: Callable[[], int], seconds: float) -> str:
    """How a piece of work ends in a process of its own, which begins with everything imported.

    Args:
        work: returns an exit status.
        seconds: of processor time; a process that only waits is stopped after `PATIENCE` times as long.
    """
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
            os._exit(work())
        except BaseException:
            traceback.print_exc()
        finally:  # an exception must not go up into the run that forked
            os._exit(70)
    end, done, status = time.monotonic() + PATIENCE * seconds, 0, 0
    try:
        while not done and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.1)
    finally:
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    late = not done or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL))
    return LATE if late else FAILED if status else PASSED


def _tests(tree: Path, files: list[str], plugins: Sequence[object] = (), stop: bool = True) -> int:
    """What pytest says, from within the fork."""
    os.setpgrp()
    out = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree / "src")
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True
    options = ["-q", "--no-header", *(("-x",) if stop else ())]
    return int(pytest.main([*options, *files], plugins=plugins))


def first_failure(tree: Path) -> str:
    """The test that told the mutant from the code."""
    lines = (tree / "output.txt").read_text("utf-8", "replace").splitlines()
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return told[0].split(" - ")[0].split(" ", 1)[1] if told else ""


def go(mutants: list[Mutant], record: Path, seconds: float) -> None:
    """Run what the record lacks, one mutant after the other."""
    held = {(line["path"], line["index"]) for line in read(record)}
    import scipy.stats
    import torch

    torch.set_num_threads(1)
    print(f"pytest {pytest.__version__}, torch {torch.__version__}, scipy {scipy.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "runs", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        sound: dict[str, bool] = {}
        watched: dict[str, Known] = {}
        for mutant in mutants:
            if (mutant.path, mutant.index) in held:
                continue
            home = tree / PACKAGE / mutant.path
            source = home.read_text("utf-8")
            for file in tests_of(mutant.path):
                if file not in watched:
                    watched[file] = known(tree, file)
            function = function_at(source, mutant.index)
            place = None if function is None else f"{mutant.path}:{function}"
            chosen = {file: watched[file].calling(place) for file in tests_of(mutant.path)}
            cost = {file: sum(watched[file].seconds[test] for test in chosen[file]) for file in chosen}
            files = sorted((file for file in chosen if chosen[file]), key=cost.__getitem__)
            text, sentence, line = changed(source, mutant.index)
            home.write_text(text, "utf-8")
            only = {test: watched[file].seconds[test] for file in chosen for test in chosen[file]}
            outcome = run(tree, files, seconds, only) if files else PASSED
            home.write_text(source, "utf-8")
            killer = first_failure(tree) if outcome == FAILED else ""
            if killer and killer not in sound:
                sound[killer] = run(tree, [killer], seconds) == PASSED
            if not sound.get(killer, True):
                outcome = UNSOUND
            found = {
                **{"path": mutant.path, "index": mutant.index, "line": line, "change": sentence},
                **{"room": mutant.room, "outcome": outcome, "killer": killer},
            }
            with record.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(found) + "\n")
            print(f"{outcome:12} {mutant.path}:{line} {sentence} {killer}", flush=True)


def read(record: Path) -> list[dict[str, object]]:
    """Every mutant of a record."""
    return [json.loads(line) for line in record.read_text("utf-8").splitlines()] if record.exists() else []


def table(lines: list[dict[str, object]]) -> str:
    """Counts per room and the survivors, in Markdown."""
    counts = Counter((line["room"], line["outcome"]) for line in lines)
    rows = ["| room | mutants | killed | out of time | survived |", "|---|---|---|---|---|"]
    for room in sorted({str(line["room"]) for line in lines}):
        failed, slow, passed = (counts[room, outcome] for outcome in (FAILED, LATE, PASSED))
        rows.append(f"| {room} | {failed + slow + passed} | {failed} | {slow} | {passed} |")
    left = [line for line in lines if line["outcome"] == PASSED]
    return "\n".join([*rows, "", *(f"- `{line['path']}:{line['line']}`: {line['change']}" for line in left)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=150, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--each", type=int, help="size of the sample of every room, instead of --count")
    parser.add_argument(
        "--rooms", nargs="+", default=ROOMS, help="where code is changed: folders and files of the package"
    )
    parser.add_argument("--record", type=Path, required=True, help="file of the outcomes, one a line")
    parser.add_argument(
        "--seconds", type=float, default=400, help="processor time for the tests of one mutant"
    )
    parser.add_argument("--table", action="store_true", help="print the record instead of running anything")
    given = parser.parse_args()
    if given.table:
        print(table(read(given.record)))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the fork and removes the copy
        go(sample(given.count, given.seed, given.rooms, given.each), given.record, given.seconds)


if __name__ == "__main__":
    main()
