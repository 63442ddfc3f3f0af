"""A finished study that is run again answers at once where nothing has changed, else the whole way."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import spikeproof
from spikeproof.command import answers
from spikeproof.command.answers import PLACE, Question
from spikeproof.command.cli import cli
from spikeproof.command.executing import HERE
from spikeproof.experiments.study.files.reader import load

MODELS = """\
models:
  - encoder: {latency: {steps: 2}}
    network: {mlp: {hidden: [4]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
"""
REST = "attacks: [fgsm]\nepsilons: [0.1]\nexamples: 10\n"
STUDIES = {
    "plain": ({"study.yaml": f"name: plain\ndata: digits\n{MODELS}{REST}"}, ()),
    "seeds": (
        {"study.yaml": f"name: seeds\ndata: digits\n{MODELS}{REST}seeds: [0, 1]\nprobes: [shuffle]\n"},
        (),
    ),
    "clean": ({"study.yaml": f"name: clean\ndata: yin-yang\n{MODELS}examples: 10\n"}, ()),
    "changed": (
        {"study.yaml": f"name: changed\ndata: digits\n{MODELS}{REST}"},
        ("examples=8", "epsilons=[1/255]", "models.encoder.steps=3"),
    ),
    "made-of-others": (
        {
            "study.yaml": "include: below.yaml\nname: above\nexamples: 9\n",
            "below.yaml": f"data: digits\n{MODELS}{REST}",
        },
        (),
    ),
}


class Asked:
    """A study in a folder, and `spikeproof run` on it."""

    def __init__(self, folder, name):
        files, self.settings = STUDIES[name]
        self.folder, self.out = folder, folder / "out"
        folder.mkdir()
        for each, text in files.items():
            (folder / each).write_text(text)

    def question(self, *more, out=None, limit=100_000):
        study, settings = str(self.folder / "study.yaml"), (*self.settings, *more)
        return Question.of(study, settings, out or self.out, None, None, 1, limit, HERE)

    def run(self, *more, code=0):
        words = ["run", str(self.folder / "study.yaml"), *self.settings, *more, "--out", str(self.out)]
        result = CliRunner().invoke(cli, [*words, "--workers", "1"])
        assert result.exit_code == code, result.output
        return result.output

    def whole(self, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Question, "of", lambda *_: None)
            return self.run()

    def files(self):
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in self.out.rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="module", params=STUDIES)
def each(request, tmp_path_factory):
    asked = Asked(tmp_path_factory.mktemp("answers") / "study", request.param)
    asked.run()
    return asked


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    asked = Asked(tmp_path_factory.mktemp("answers") / "study", "made-of-others")
    asked.run()
    return asked


def test_the_answer_is_what_the_whole_way_prints_and_changes_nothing(each, monkeypatch):
    before = each.files()
    known = each.question().answer()
    assert known is not None
    assert known == each.whole(monkeypatch)
    monkeypatch.setattr("spikeproof.experiments.study.files.reader.load", None)  # the whole way would fail
    assert each.run() == known
    assert each.files() == before


def test_an_answer_needs_neither_torch_nor_numpy(finished):
    program = (
        "import sys; from spikeproof.command.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'rich'} & {*sys.modules}))\n"
    )
    words = ["run", str(finished.folder / "study.yaml"), "--out", str(finished.out)]
    done = []
    for _ in range(2):  # the first one asks elsewhere than the tests, in another process
        out = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        done.append(out.stdout)
    first, second = (text.rsplit("\n", 2) for text in done)
    assert first[0] == second[0]
    assert (first[1] == "[]", second[1]) == (False, "[]")


def _edit(path, old=b"", new=b"#"):
    """Change a file and keep its size and its time of change where possible."""
    then, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(old, new, 1) if old else content + new)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))


def _some(asked, pattern):
    return sorted(asked.out.glob(pattern))[0]


def _known(asked):
    return json.loads((asked.out / PLACE).read_text())


CHANGES = {
    "study file": lambda a, m: _edit(a.folder / "study.yaml"),
    "included file": lambda a, m: _edit(a.folder / "below.yaml"),
    "no study file": lambda a, m: (a.folder / "below.yaml").unlink(),
    "byte of a cell": lambda a, m: _edit(_some(a, "cells/*/metrics.json"), b"0", b"1"),
    "byte of a table": lambda a, m: _edit(_some(a, "cells/*/examples.parquet"), b"P", b"Q"),
    "file of a cell": lambda a, m: _some(a, "cells/*/provenance.json").unlink(),
    "manifest": lambda a, m: _edit(_some(a, "cells/*/MANIFEST.json"), b"a", b"b"),
    "cell": lambda a, m: shutil.rmtree(_some(a, "cells/*")),
    "another cell": lambda a, m: (a.out / "cells" / ("0" * 32)).mkdir(),
    "failure": lambda a, m: (
        (a.out / "failures").mkdir(exist_ok=True),
        (a.out / "failures" / f"{'0' * 32}.json").write_text("{}"),
    ),
    "plan": lambda a, m: _edit(a.out / "study.json", b'"fgsm"', b'"fgsn"'),
    "no plan": lambda a, m: (a.out / "study.json").unlink(),
    "repairs": lambda a, m: (a.out / "repairs.json").write_text("{}"),
    "page": lambda a, m: _edit(a.out / "report.html", b"<", b">"),
    "table": lambda a, m: (a.out / "table.csv").unlink(),
    "figure": lambda a, m: _edit(_some(a, "figures/*.svg")),
    "files of the report": lambda a, m: _edit(a.out / "figures" / "written.json", b'"', b" "),
    "answer cut off": lambda a, m: (a.out / PLACE).write_bytes((a.out / PLACE).read_bytes()[:-9]),
    "answer of nothing": lambda a, m: (a.out / PLACE).write_text("[]"),
    "answer too deep": lambda a, m: (a.out / PLACE).write_text("[" * 100_000),
    "answer of another form": lambda a, m: (a.out / PLACE).write_text(json.dumps({**_known(a), "files": 3})),
    "answer of other cells": lambda a, m: (a.out / PLACE).write_text(json.dumps({**_known(a), "cells": []})),
    "digit of the answer": lambda a, m: _edit(a.out / PLACE, b" 9 ", b" 8 "),
    "no answer": lambda a, m: (a.out / PLACE).unlink(),
    "directory without leave to write": lambda a, m: m.setattr(os, "access", lambda *_: False),
    "version": lambda a, m: m.setattr(answers, "__version__", "0.0.9"),
    "python": lambda a, m: m.setattr(sys, "version", "2.7"),
    "variable": lambda a, m: m.setenv("SPIKEPROOF_DATA", "/nowhere"),
    "path of imports": lambda a, m: m.syspath_prepend(str(a.folder)),
    "folder": lambda a, m: m.chdir(a.folder),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_any_change_nothing_is_known(finished, tmp_path, monkeypatch, change):
    asked = Asked(tmp_path / "study", "made-of-others")
    shutil.copytree(finished.out, asked.out)
    for path in asked.out.rglob("answer.json"):
        path.unlink()
    assert "computed, 0 kept" not in asked.run()
    assert asked.question().answer() is not None
    CHANGES[change](asked, monkeypatch)
    assert asked.question().answer() is None


@pytest.mark.parametrize("more", [{"out": Path("elsewhere")}, {"limit": 99}], ids=str)
def test_another_question_has_no_answer(finished, more):
    finished.run()
    assert finished.question().answer() is not None
    assert finished.question(**more).answer() is None
    assert finished.question("examples=9").answer() is None


def test_what_the_whole_way_mends_is_known_afterwards(finished, tmp_path, monkeypatch):
    asked = Asked(tmp_path / "study", "made-of-others")
    shutil.copytree(finished.out, asked.out)
    _edit(_some(asked, "cells/*/metrics.json"), b"0", b"1")
    assert "damaged" in asked.run()
    assert asked.question().answer() == asked.whole(monkeypatch)


def test_a_study_with_a_failed_cell_is_never_known(tmp_path, monkeypatch):
    from spikeproof.experiments.run.compute import Bench

    def broken(self, cell, tell):
        raise RuntimeError("out of luck")

    asked = Asked(tmp_path / "study", "plain")
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "attack", broken)
        assert "out of luck" in asked.run(code=1)
        assert "1 failed" in asked.run(code=1)
    assert not (asked.out / PLACE).exists()
    asked.run()
    assert asked.question().answer() == asked.whole(monkeypatch)


def test_a_note_that_the_whole_way_would_print_again_leaves_no_answer(finished, tmp_path, monkeypatch):
    asked = Asked(tmp_path / "study", "made-of-others")
    shutil.copytree(finished.out, asked.out)
    (asked.out / PLACE).unlink()
    monkeypatch.setattr("spikeproof.experiments.run.store.Store.prepare", lambda self: "take care")
    assert "note: take care" in asked.run()
    assert not (asked.out / PLACE).exists()


def test_code_of_another_kind_has_no_answers(tmp_path):
    """Whatever is edited, such as the version of what is measured; that of the package is the same."""
    program = (
        "from pathlib import Path; from spikeproof.command.answers import Question\n"
        "from spikeproof.command.executing import HERE\n"
        "print(Question.of('digits', (), Path('out'), None, None, 1, 9, HERE).key)"
    )
    shutil.copytree(Path(spikeproof.__file__).parent, tmp_path / "src" / "spikeproof")

    def key():
        env = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, cwd=tmp_path
        )
        return done.stdout

    before = key()
    assert key() == before
    cells = tmp_path / "src" / "spikeproof" / "experiments" / "study" / "cells.py"
    _edit(cells, b"MEASURING_VERSION = ", b"MEASURING_VERSION=1+")
    assert key() != before


def test_what_is_installed_is_part_of_the_question(finished, tmp_path, monkeypatch):
    (tmp_path / "torch-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    first = finished.question()
    assert first.key == finished.question().key
    (tmp_path / "torch-1.0.dist-info").rename(tmp_path / "torch-2.0.dist-info")
    second = finished.question()
    os.utime(tmp_path / "torch-2.0.dist-info", ns=(1, 1))
    assert len({each.key for each in (first, second, finished.question())}) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"data": Path("here")},
        {"device": "cuda:0"},
        {"devices": 2},
        *(
            {"options": {**HERE, name: value}}
            for name, value in {"executor": "ray", "slurm": ("a=1",)}.items()
        ),
    ],
    ids=str,
)
def test_where_more_decides_there_is_no_question(options):
    given = {"data": None, "device": None, "devices": 1, "limit": 9, "options": HERE, **options}
    assert Question.of("quickstart", (), None, **given) is None


def test_files_and_programs_beside_the_study_leave_no_answer(finished, tmp_path, monkeypatch):
    def decided(text):
        (tmp_path / "study.yaml").write_text(text)
        return finished.question()._decided(load(str(tmp_path / "study.yaml")))

    plain = STUDIES["plain"][0]["study.yaml"]
    assert decided(plain)
    (tmp_path / "model.py").write_text("import torch\ndef make(): return torch.nn.Flatten()\n")
    program = (
        f"name: mine\ndata: digits\nmodels: [{{model: {{foreign: {{make: '{tmp_path}/model.py:make'}}}}}}]\n"
    )
    assert not decided(program)
    assert not decided(plain.replace("digits", "{image-folder: {path: images}}"))
    assert not decided(plain.replace("digits", "fashion-mnist"))
    long = SimpleNamespace(models=(), spec=lambda: {"data": {"name": "digits"}, "sample": {"of": "x" * 300}})
    assert finished.question()._decided(long)  # no file can have this name
    monkeypatch.setattr("spikeproof.catalogue.extensions.packages", lambda: {"acme": "1"})
    assert not decided(plain)


def test_an_answer_cannot_steer_a_terminal(finished):
    finished.run()
    place = finished.out / PLACE
    before = place.read_text()
    text = "\x1b[2Jhi\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    place.write_text(json.dumps({**_known(finished), "text": text, "text_sha256": digest}))
    assert finished.question().answer() == "\\x1b[2Jhi\n"
    place.write_text(before)


@pytest.fixture
def unwritable(monkeypatch):
    """Makes everything below a folder read-only, as a mount does, whoever runs the tests."""

    def refuse(folder):
        def guarded(call, places, writes=lambda *_, **__: True):
            def checked(*args, **kwargs):
                names = [str(args[i]) for i in places if isinstance(args[i], str | os.PathLike)]
                if writes(*args, **kwargs) and any(name.startswith(str(folder)) for name in names):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), names[0])
                return call(*args, **kwargs)

            return checked

        def opens(path, mode="r", *_, **__):
            return not {*mode}.isdisjoint("wax+")

        def creates(path, flags, *_, **__):
            return flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)

        for name in ("mkdir", "unlink", "rmdir", "remove", "utime", "chmod"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name), [0]))
        for name in ("rename", "replace", "link", "symlink"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name), [0, 1]))
        monkeypatch.setattr(io, "open", guarded(io.open, [0], opens))
        monkeypatch.setattr(os, "open", guarded(os.open, [0], creates))
        access = os.access
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode, **_: (
                not (mode & os.W_OK and str(path).startswith(str(folder))) and access(path, mode)
            ),
        )

    return refuse


def test_a_finished_study_answers_from_a_directory_that_cannot_be_written(finished, unwritable):
    finished.run()
    before, known = finished.files(), finished.question().answer()
    unwritable(finished.out)
    with pytest.raises(OSError, match="Read-only"):
        (finished.out / "new").write_text("")
    assert finished.question().answer() is None  # what cannot be written is said
    note, rest = finished.run().split("\n", 1)
    assert note.startswith(f"note: {finished.out} (Read-only file system) cannot be written")
    assert note.endswith("nothing was written")
    assert rest == known
    assert finished.files() == before


@pytest.mark.parametrize("lost", ["extracts", "report.html"])
def test_numbers_that_cannot_be_written_are_printed_without_a_report(finished, tmp_path, unwritable, lost):
    asked = Asked(tmp_path / "study", "made-of-others")
    shutil.copytree(finished.out, asked.out)
    asked.run()
    place = asked.out / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    before = asked.files()
    unwritable(asked.out)
    printed = asked.run()
    assert "nothing was written" in printed
    assert "0 computed" in printed
    assert "Accuracy in %" in printed
    assert ("none can be written" in printed) == (lost == "report.html")
    assert asked.files() == before


UNFINISHED = {
    "cell": lambda a: shutil.rmtree(_some(a, "cells/*")),
    "damage": lambda a: _edit(_some(a, "cells/*/metrics.json"), b"0", b"1"),
    "plan": lambda a: (a.out / "study.json").unlink(),
    "another study": lambda a: a.folder.joinpath("study.yaml").write_text(
        STUDIES["made-of-others"][0]["study.yaml"].replace("9", "8")
    ),
}


@pytest.mark.parametrize("change", UNFINISHED)
def test_what_is_not_finished_needs_a_directory_that_can_be_written(finished, tmp_path, unwritable, change):
    asked = Asked(tmp_path / "study", "made-of-others")
    shutil.copytree(finished.out, asked.out)
    asked.run()
    UNFINISHED[change](asked)
    unwritable(asked.out)
    assert "must be one that can be written to" in asked.run(code=2)


def test_numbers_are_printed_where_the_terminal_knows_ascii_only(finished):
    words = [
        sys.executable,
        "-m",
        "spikeproof",
        "run",
        str(finished.folder / "study.yaml"),
        "--out",
        str(finished.out),
    ]
    env = os.environ | {"PYTHONIOENCODING": "ascii", "SPIKEPROOF_DATA": str(finished.folder)}  # asked anew
    whole, known = (subprocess.run(words, env=env, capture_output=True, check=True).stdout for _ in range(2))
    assert whole == known == finished.run().encode()


def test_a_folder_that_is_gone_leaves_the_whole_way(finished, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert finished.question() is None
