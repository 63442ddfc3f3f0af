"""Models that a program of the user makes, on the command line and in studies."""

import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import spikeproof as sp
import spikeproof.experiments.run.compute as compute
from spikeproof.auditing.signoff import audit
from spikeproof.catalogue.beside import imports_of
from spikeproof.catalogue.given import Given, fingerprint_of, made
from spikeproof.command.cli import cli
from spikeproof.datasets import ClassProportional, Digits
from spikeproof.errors import DamagedError, InputError
from spikeproof.evaluation.interim import Interim
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.threats import Linf

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
sys.path.insert(0, str(Path(__file__).parent))
from shortened import brief_suites
from synthetic import FORKING, command_line, shown_in

SUFFIX = EXTENSION_SUFFIXES[0]
SHORT = {"steps": 10, "restarts": 1, "refine": 10, "queries": 50}


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """No member of a suite is longer than `SHORT`, also where a cell runs it."""
    with brief_suites(SHORT, compute):
        yield


PROGRAM = """
import torch
from beside import width

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(64, width), torch.nn.Linear(width, 10)

    def forward(self, images):
        return self.two(torch.relu(self.one(images.flatten(1))))

def make_model():
    return Net()

def a_function():
    return lambda images: images.flatten(1)[:, :10]

def wrapped():
    import spikeproof as sp
    return sp.wrap(Net().eval(), torch.rand(4, 1, 8, 8))

def too_few():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9))

def steps():
    return lambda images: images.flatten(1)[None, :, :10].repeat(4, 1, 1)

def fails():
    raise KeyError("layers")

def nothing():
    return 3

def a_class():
    return Net

def leaves():
    raise SystemExit(0)

def talks():
    print("three layers")
    return Net()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("given")
    (where / "net.py").write_text(PROGRAM)
    (where / "beside.py").write_text("width = 20")
    net = made(Given(f"{where}/net.py:make_model")).model
    train, optimiser = Digits().load(None).train, torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(train.images), train.labels).backward()
        optimiser.step()
    torch.save(net.state_dict(), where / "net.pt")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, where / "checkpoint.pt")
    save_file(net.state_dict(), where / "net.safetensors")
    torch.save(net, where / "whole.pt")
    torch.save({**net.state_dict(), "one.bias": torch.full((20,), torch.inf)}, where / "infinite.pt")
    return where


def said(*arguments):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert "Traceback" not in done.output
    return done


ASKED = ("--dataset", "digits", "--epsilon", "0.05", "--examples", "40", "--suite", "quick")


def test_weights_are_the_same_from_every_kind_of_file(folder):
    found = {
        fingerprint_of(made(Given(f"{folder}/net.py:make_model", f"{folder}/{name}")))
        for name in ("net.pt", "checkpoint.pt", "net.safetensors")
    }
    assert len(found) == 1
    assert found != {fingerprint_of(made(Given(f"{folder}/net.py:make_model")))}
    assert not made(Given(f"{folder}/net.py:make_model")).training


def test_weights_are_loaded_into_the_network_that_is_wrapped(folder):
    x = torch.rand(3, 1, 8, 8)
    plain, wrapped = (
        made(Given(f"{folder}/net.py:{name}", f"{folder}/net.pt")) for name in ("make_model", "wrapped")
    )
    assert torch.equal(plain(x), wrapped(x))


def test_a_network_that_remembers_is_refused_until_it_says_how_it_is_read(tmp_path):
    pytest.importorskip("snntorch")
    (tmp_path / "spiking.py").write_text(
        "import snntorch, torch\n"
        "def bare():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10),"
        " snntorch.Leaky(0.9, init_hidden=True))\n"
        "def wrapped():\n"
        "    import spikeproof as sp\n"
        "    return sp.wrap(bare().eval(), torch.rand(4, 1, 8, 8), steps=3, readout='sum')\n"
    )
    with pytest.raises(InputError, match=r"spikeproof\.wrap"):
        made(Given(f"{tmp_path}/spiking.py:bare"))
    done = said("evaluate", f"{tmp_path}/spiking.py:wrapped", *ASKED, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "0 computed" not in done.output


@pytest.mark.parametrize(
    ("function", "weights", "words"),
    [
        ("make_modl", None, "Did you mean 'make_model'"),
        ("fails", None, "KeyError: 'layers' (line 30)"),
        ("fails", None, "runpy.run_path("),
        ("nothing", None, "an object of type int"),
        ("a_class", None, "the class Net"),
        ("leaves", None, "SystemExit: 0"),
        ("make_model", "infinite.pt", "NaN or infinity in 'one.bias'"),
        ("a_function", "net.pt", "Load the weights inside the function"),
        ("too_few", "net.pt", "expected the weights of every layer"),
        ("make_model", "whole.pt", "nothing but tensors"),
        ("make_model", "net.py", "nothing but tensors"),
        ("make_model", "none.pt", "none.pt"),
    ],
)
def test_what_is_wrong_with_a_program_or_its_weights_is_said_in_one_sentence(
    folder, function, weights, words
):
    extra = () if weights is None else ("--weights", folder / weights)
    done = said("evaluate", f"{folder}/net.py:{function}", *extra, *ASKED)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize(
    ("function", "words"), [("too_few", "with 9 logits"), ("steps", "one row of logits for each example")]
)
@pytest.mark.parametrize("out", [False, True])
def test_a_model_of_other_classes_or_without_logits_is_refused(folder, function, words, out, tmp_path):
    extra = ("--out", tmp_path / "out") if out else ()
    done = said("evaluate", f"{folder}/net.py:{function}", *ASKED, *extra)
    assert done.exit_code == 2
    assert words in done.output.replace("one for 9", "with 9 logits")


def test_what_a_program_prints_does_not_mix_with_the_numbers(folder):
    done = CliRunner().invoke(cli, ["evaluate", f"{folder}/net.py:talks", *ASKED, "--json"])
    assert json.loads(done.stdout)
    assert "three layers" in done.stderr


def test_a_file_of_weights_is_no_model_and_the_way_to_use_it_is_said(folder):
    done = said("evaluate", folder / "net.pt", *ASKED)
    assert done.exit_code == 2
    assert "net.py:make_model --weights" in done.output


def test_a_pickle_runs_nothing(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"weight": Hostile()}, tmp_path / "hostile.pt")
    done = said("evaluate", f"{folder}/net.py:make_model", "--weights", tmp_path / "hostile.pt", *ASKED)
    assert done.exit_code == 2
    assert not (tmp_path / "ran").exists()


def test_the_command_line_gives_the_number_of_python_and_a_stored_study_another_draw_of_it(folder, tmp_path):
    make, weights = f"{folder}/net.py:make_model", f"{folder}/net.pt"
    plain = json.loads(said("evaluate", make, "--weights", weights, *ASKED, "--json").output)
    stored = json.loads(
        said("evaluate", make, "--weights", weights, *ASKED, "--json", "--out", tmp_path / "out").output
    )
    part = ClassProportional()(Digits().load(None).test, 40)
    report = audit(made(Given(make, weights)), part.images, part.labels, Linf(0.05), "quick")
    worst = next(row for row in stored if row["attack"] == "worst-case")
    assert plain[0]["clean_accuracy"] == worst["clean_accuracy"] == report.clean_accuracy
    assert plain[0]["verdict"] == worst["verdict"] == report.verdict.verdict
    assert plain[0]["robust_accuracy"] == report.accuracy
    assert (
        abs(worst["robust_accuracy"] - report.accuracy) <= 0.05
    )  # the draws of a cell go by other identities
    assert (tmp_path / "out" / "report.html").exists()
    again = said("evaluate", make, "--weights", weights, *ASKED, "--out", tmp_path / "out").output
    assert "0 computed" in again


STUDY = """
name: given
data: digits
models:
  - model: {{foreign: {{make: "{0}/net.py:make_model", weights: {0}/net.pt}}}}
  - {{encoder: {{latency: {{steps: 3}}}}, network: {{mlp: {{hidden: [6]}}}}, rule: {{bptt: {{epochs: 1}}}}}}
suite: quick
epsilons: [0.05]
examples: 30
certificates: [ibp]
"""


def test_a_study_measures_given_models_beside_its_own(folder, tmp_path):
    (tmp_path / "given.yaml").write_text(STUDY.format(folder))
    done = said("run", tmp_path / "given.yaml", "--out", tmp_path / "out", "--workers", 1)
    assert done.exit_code == 0, done.output
    rows = json.loads(said("show", tmp_path / "out", "--json").output)
    names = {row["encoder"] for row in rows}
    assert names == {"net.py:make_model", "latency"}
    refused = said("audit", tmp_path / "out", "--rounds", 1)
    assert "--make" in refused.output  # a stored study runs no program that the user does not name
    spec = json.loads((Path(rows[0]["train_cell"]) / "cell.json").read_text())["spec"]
    assert set(spec["model"]["given"]) == {
        "make",
        "weights",
        "code_sha256",
        "imports_sha256",
        "weights_sha256",
        "tensors_sha256",
    }


def test_a_changed_program_is_another_model_and_never_an_old_one(folder, tmp_path):
    where = tmp_path / "copy"
    shutil.copytree(folder, where)
    given = Given(f"{where}/net.py:make_model")
    before = given.digests()
    (where / "net.py").write_text(PROGRAM + "\n# changed\n")
    assert given.digests() != before
    with pytest.raises(DamagedError, match="changed"):
        made(given, before)


SCALED = """
import torch
from torch import nn
{0}

def make_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    factor = scale()
    return lambda images: net(images) * factor
"""

IMPORTED = {  # how the program imports what gives the scale, and the file in which it is
    "beside": ("from helper import scale", "helper.py"),
    "as a module": ("import helper\nscale = lambda: helper.scale()", "helper.py"),
    "inside a function": ("def scale():\n    from helper import scale\n    return scale()", "helper.py"),
    "by another one": ("from first import scale", "helper.py"),
    "a package": ("from nets import scale", "nets/__init__.py"),
    "in a package": ("from nets.parts.deep import scale", "nets/parts/deep.py"),
    "in a folder": ("from loose.inner import scale", "loose/inner.py"),
    "in its package": ("from relative.one import scale", "relative/other.py"),
    "by a text": ("import importlib\nscale = importlib.import_module('helper').scale", "helper.py"),
}


def written_beside(where, statement, changing, value):
    files = {
        "first.py": "from helper import scale\n",
        "helper.py": "def scale(): return 1.0\n",
        "nets/__init__.py": "def scale(): return 1.0\n",
        "nets/parts/__init__.py": "",
        "nets/parts/deep.py": "def scale(): return 1.0\n",
        "loose/inner.py": "def scale(): return 1.0\n",
        "relative/__init__.py": "",
        "relative/one.py": "from .other import scale\n",
        "relative/other.py": "def scale(): return 1.0\n",
        "unused.py": "raise SystemExit('nothing imports this file')\n",
        "net.py": SCALED.format(statement),
    }
    files[changing] = f"def scale(): return {value}\n"
    for name, content in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(content)


@pytest.mark.parametrize("how", IMPORTED)
def test_what_a_program_imports_from_beside_it_is_part_of_the_model(how, tmp_path):
    """After a change of it, the new content is run under another digest."""
    statement, changing = IMPORTED[how]
    given, x = Given(f"{tmp_path}/net.py:make_model"), torch.ones(1, 1, 8, 8)
    written_beside(tmp_path, statement, changing, 1.0)
    first, answer = given.digests(), made(given)(x)
    for name in ("unused.py", "more.py"):
        (tmp_path / name).write_text("x = 2")
        assert given.digests() == first
    assert torch.equal(made(given, first)(x), answer)
    written_beside(tmp_path, statement, changing, 3.0)  # as long, and perhaps in the same second
    assert given.digests() != first
    with pytest.raises(DamagedError, match="imports from beside it changed"):
        made(given, first)
    assert torch.allclose(made(given)(x), 3 * answer)
    taken_before = {name: each for name, each in first.items() if name == "code_sha256"}
    assert torch.allclose(made(given, taken_before)(x), 3 * answer)
    written_beside(tmp_path, statement, changing, 1.0)
    assert given.digests() == first
    assert torch.equal(made(given)(x), answer)


def test_programs_of_several_folders_import_each_their_own_files(tmp_path):
    """Python keeps one module of a name, which would be that of the first program."""
    x, answers = torch.ones(1, 1, 8, 8), {}
    for name, value in (("one", 1.0), ("two", 2.0), ("three", 3.0)):
        written_beside(tmp_path / name, *IMPORTED["in a package"], value)
        answers[name] = made(Given(f"{tmp_path}/{name}/net.py:make_model"))
    first, second, third = (model(x) for model in answers.values())
    assert torch.allclose(second, 2 * first)
    assert torch.allclose(third, 3 * first)


@pytest.mark.parametrize("how", ["another folder first", "an installed package"])
def test_a_program_imports_what_the_interpreter_would_give_it(how, tmp_path, monkeypatch):
    """A file beside it of the name is not it, where another folder or a package goes before."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "chosen").mkdir(parents=True)
    (elsewhere / "chosen" / "__init__.py").write_text("")
    (elsewhere / "chosen" / "inner.py").write_text("def scale(): return 3.0\n")
    (elsewhere / "helper.py").write_text("def scale(): return 3.0\n")
    for name in ("chosen", "chosen.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    statement = "from chosen.inner import scale"
    if how == "another folder first":
        statement = f"import sys\nsys.path.insert(0, {str(elsewhere)!r})\nfrom helper import scale"
    else:
        monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.setattr(sys, "path", [*sys.path])
    written_beside(tmp_path / "one", statement, "chosen/inner.py", 1.0)
    written_beside(tmp_path / "two", *IMPORTED["beside"], 3.0)
    found, wanted = (made(Given(f"{tmp_path}/{name}/net.py:make_model")) for name in ("one", "two"))
    x = torch.ones(1, 1, 8, 8)
    for name in ("chosen", "chosen.inner", "helper"):
        sys.modules.pop(name, None)
    assert torch.equal(found(x), wanted(x))


LAYOUTS = {  # files beside a program that imports `name`, and files in a folder where libraries are
    "a file": ("helper", ["helper.py"], []),
    "compiled": ("helper", ["helper.py", "helper" + SUFFIX], []),
    "a folder before a file": ("helper", ["helper.py", "helper/__init__.py"], []),
    "compiled in a package": (
        "helper.inner",
        ["helper/__init__.py", "helper/inner.py", f"helper/inner{SUFFIX}"],
        [],
    ),
    "a folder alone": ("helper.inner", ["helper/inner.py"], []),
    "folders in a folder": ("helper.deep.inner", ["helper/deep/inner.py"], []),
    "a file before a folder": ("helper.inner", ["helper/inner.py", "helper.py"], []),
    "a package of a library": (
        "helper.inner",
        ["helper/inner.py"],
        ["helper/__init__.py", "helper/inner.py"],
    ),
    "before a library": ("helper", ["helper.py"], ["helper.py"]),
    "shared with a library": ("helper.inner", ["helper/other.py"], ["helper/inner.py"]),
    "built in": ("time", ["time.py"], []),
    "frozen": ("posixpath", ["posixpath.py"], []),
    "of the standard library": ("statistics", ["statistics.py"], []),
    "in nobody's": ("json.scanner", ["json/scanner.py"], []),
}
ORIGIN = """
import importlib.util, sys
sys.path[:0] = [sys.argv[1]]
sys.path.insert(1, sys.argv[2])
try:
    spec = importlib.util.find_spec(sys.argv[3])
except ModuleNotFoundError:
    spec = None
print(getattr(spec, "origin", None))
"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_that_is_digested_is_the_one_that_a_fresh_interpreter_imports(layout, tmp_path, monkeypatch):
    name, files, others = LAYOUTS[layout]
    for folder, there in (("own", files), ("library", others), ("own", ["net.py"])):
        for each in there:
            (tmp_path / folder / each).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / each).write_text("")
    (tmp_path / "library").mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    own = tmp_path / "own"
    asked = [sys.executable, "-c", ORIGIN, str(own), str(tmp_path / "library"), name]
    origin = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    found = imports_of(f"import {name}".encode(), own, 1000)
    assert str(found[name].path if name in found else None) == (
        origin if origin.startswith(str(own)) else "None"
    )


@pytest.mark.parametrize("name", ["helper", "statistics", "nets"])
def test_a_module_that_a_library_loaded_is_neither_imported_nor_lost(name, tmp_path, monkeypatch):
    """Digest and answer are those of the file beside the program, whoever else has one of its name."""
    changing = "nets/parts/deep.py" if name == "nets" else f"{name}.py"
    statement = "from nets.parts.deep import scale" if name == "nets" else f"from {name} import scale"
    written_beside(tmp_path, statement, changing, 3.0)
    given, x = Given(f"{tmp_path}/net.py:make_model"), torch.ones(1, 1, 8, 8)
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, each)
    digests, answer = given.digests(), made(given)(x)
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, each)
    theirs = {name: ModuleType(name), f"{name}.parts": ModuleType(f"{name}.parts")}
    for each, module in theirs.items():
        module.scale = lambda: 7.0
        monkeypatch.setitem(sys.modules, each, module)
    assert given.digests() == digests
    assert torch.equal(made(given, digests)(x), answer)
    assert all(sys.modules[each] is module for each, module in theirs.items())


def test_what_is_imported_at_a_call_only_is_never_the_file_of_another_program(tmp_path):
    """It is not found then, as it is no more beside the program."""
    late = SCALED.replace("    factor = scale()\n", "").replace("factor", "scale()")
    for name in ("one", "two"):
        written_beside(tmp_path / name, *IMPORTED["beside"], 1.0)
    made(Given(f"{tmp_path}/one/net.py:make_model"))
    (tmp_path / "two" / "net.py").write_text(late.format(IMPORTED["inside a function"][0]))
    model = made(Given(f"{tmp_path}/two/net.py:make_model"))
    with pytest.raises(ModuleNotFoundError, match="helper"):
        model(torch.ones(1, 1, 8, 8))


def test_a_stored_number_is_not_that_of_a_changed_file_beside_the_program(tmp_path):
    asked = ("evaluate", f"{tmp_path}/net.py:make_model", *ASKED, "--out", tmp_path / "out")
    written_beside(tmp_path, *IMPORTED["beside"], 1.0)
    assert "0 kept" in said(*asked).output
    assert "0 computed" in said(*asked).output
    written_beside(tmp_path, *IMPORTED["beside"], 3.0)
    assert "0 kept" in said(*asked).output
    written_beside(tmp_path, *IMPORTED["beside"], 1.0)
    assert "0 computed" in said(*asked).output


READS = """
import torch
from torch import nn

def make_model():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net.load_state_dict(torch.load({0!r}))
    return net
"""


def test_weights_that_the_program_reads_itself_are_part_of_the_model(tmp_path):
    """The program is the same to the letter, and numbers of other weights are not shown for these."""
    weights, program = tmp_path / "inside.pt", tmp_path / "reads.py"
    program.write_text(READS.format(str(weights)))
    asked = ("evaluate", f"{program}:make_model", *ASKED, "--out", tmp_path / "out")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.save(net.state_dict(), weights)
    assert "0 kept" in said(*asked).output
    assert "0 computed" in said(*asked).output
    torch.save({name: 2 * each for name, each in net.state_dict().items()}, weights)
    assert "0 kept" in said(*asked).output


class Noting(torch.nn.Linear):
    def get_extra_state(self):
        return {"a note": 1}


def test_the_digest_of_weights_takes_what_a_module_stores_beside_them_and_weights_without_a_shape():
    first, other = Noting(2, 2), Noting(2, 2)
    assert fingerprint_of(first) == fingerprint_of(first) != fingerprint_of(other)
    assert fingerprint_of(torch.nn.LazyLinear(2)) == fingerprint_of(torch.nn.LazyLinear(2))


def test_a_program_that_makes_another_model_each_time_is_refused(tmp_path):
    program = tmp_path / "draws.py"
    program.write_text(
        "from torch import nn\n\n\ndef make_model():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    found = said("evaluate", f"{program}:make_model", *ASKED, "--out", tmp_path / "out")
    assert "made another model than when it was first taken" in found.output


def test_a_saved_model_is_measured_as_it_is(tmp_path):
    spec = sp.ModelSpec(
        sp.Latency(3),
        sp.MLP((6,)),
        sp.LIF(),
        sp.ATan(),
        sp.Count(),
        (1, 8, 8),
        10,
        sp.Normalise((0.3,), (0.5,)),
    )
    model = spec.build(sp.Key.of(4)).eval()
    sp.save(model, tmp_path / "model")
    done = said("evaluate", tmp_path / "model", *ASKED, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (listed,) = json.loads(said("list", "models", tmp_path / "out", "--json").output)
    x = Digits().load(None).test.images[:5]
    assert torch.equal(sp.load(listed["model"])(x), model(x))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{foreign: {make: net.pt}}", "FILE.py:FUNCTION"),
        ("{foreign: {make: 'net.py:f', wieghts: x}}", "Did you mean 'weights'"),
        ("{saved: {path: nowhere}}", "does not exist"),
        ("{saved: {path: a}, foreign: {make: b}}", "one given model"),
        ("latency", "one given model"),
        ("{forein: {}}", "Did you mean 'foreign'"),
    ],
)
def test_a_block_that_names_no_model_is_refused_with_its_line(block, words):
    text = f"name: x\ndata: digits\nmodels:\n  - model: {block}\nattacks: [fgsm]\nepsilons: [0.1]\n"
    with pytest.raises(InputError, match=r"study\.yaml:4") as refused:
        study_of(parse(text, "study.yaml"))
    assert words in str(refused.value)


def killed_after_two_members(*words):
    """The command line, in a process that ends as soon as two members of a suite are saved."""
    save = Interim.save

    def last(self, path, identity):
        save(self, path, identity)
        if len(self.members) == 2:
            os._exit(9)

    Interim.save, compute.SECONDS_AT_RISK = last, 0.0
    with brief_suites(SHORT, compute):
        command_line(*words)


def test_a_killed_evaluation_goes_on_where_it_was(folder, tmp_path):
    make = [f"{folder}/net.py:make_model", "--weights", f"{folder}/net.pt", *ASKED]
    words = ["evaluate", *make, "--out", tmp_path / "one"]
    killed = FORKING.Process(target=shown_in, args=(tmp_path / "shown", killed_after_two_members, *words))
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    assert len(list((tmp_path / "one" / "checkpoints").iterdir())) == 1
    found = [
        json.loads(said("evaluate", *make, "--out", tmp_path / name, "--json").output)
        for name in ("one", "two")
    ]
    for rows in found:
        for row in rows:
            for path in ("model", "cell", "train_cell", "clean_cell", "study"):
                row.pop(path)
    assert found[0] == found[1]
    assert not list((tmp_path / "one" / "checkpoints").iterdir())
