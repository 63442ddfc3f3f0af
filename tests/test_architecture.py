"""The structure of the package: imports run downhill, names are distinct, importing loads nothing heavy."""

import ast
import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spikeproof
from spikeproof.catalogue.names import PARTS
from spikeproof.interop.members import InFoolbox, InTorchattacks

ROOT = Path(spikeproof.__file__).parent
FLOORS = [
    # a floor may import from the floors above it in this list, and its groups' members from each other
    [["version", "errors", "keys", "regularfiles", "plainfiles", "specs", "protocols"]],
    [
        *(["datasets"], ["encoders"], ["probes"], ["surrogates"], ["decoders"], ["losses"], ["threats"]),
        *(["statistics"], ["tensorfiles"], ["corruptions"], ["compiled"]),
    ],
    [["neurons"], ["coded"], ["poisoning"]],
    [["gradients"]],
    [["networks"]],
    [["learning"]],
    [["attacks"]],
    [["evaluation"]],
    [["defences"]],
    [["interop"], ["analysis"]],
    [["auditing"], ["catalogue"]],
    [["experiments"]],
    [["report"]],
    [["command"]],
    [["__main__"]],
]
PLACE = {name: (i, j) for i, floor in enumerate(FLOORS) for j, group in enumerate(floor) for name in group}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@functools.cache
def tree_of(path):
    """The syntax tree of a module, parsed once."""
    return ast.parse(path.read_text())


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Rooms of ours that a module imports, wherever in the file it does so."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module == "spikeproof":
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spikeproof."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("spikeproof."))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downhill(path):
    floor, group = PLACE[room(path)]
    for other in imported(path):
        there = PLACE[other]
        assert there[0] < floor or there == (floor, group), f"{path.name} imports {other} uphill"


CHAIN = ["study", "run", "read", "repair"]


@pytest.mark.parametrize("link", CHAIN)
def test_experiments_are_a_chain(link):
    for path in (ROOT / "experiments" / link).rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if (name := getattr(node, "module", None) or "").startswith("spikeproof.experiments."):
                assert CHAIN.index(name.split(".")[2]) <= CHAIN.index(link), f"{path.name} imports {name}"


def test_no_module_imports_itself_through_others():
    names = {
        ".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p
        for p in MODULES
    }
    graph = {}
    for name, path in names.items():
        nodes = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom) and n.module]
        wide = {n.module for n in nodes} | {f"{n.module}.{a.name}" for n in nodes for a in n.names}
        graph[name] = wide & names.keys() - {name}
    while leaves := [name for name, wanted in graph.items() if not wanted & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"circles among {sorted(graph)}"


def test_no_folder_is_crowded_and_the_root_is_small():
    assert len([p for p in ROOT.glob("*.py") if p.name != "__init__.py"]) <= 14
    for folder in {p.parent for p in MODULES} - {ROOT}:
        doors = [p for p in folder.iterdir() if p.name != "__init__.py" and (p.suffix == ".py" or p.is_dir())]
        doors = [p for p in doors if p.name not in ("__pycache__", "studies")]
        assert len(doors) <= 10, f"{folder} has {len(doors)} doors"


def test_no_two_modules_share_a_name():
    stems = [path.stem for path in MODULES if path.stem != "__init__"]
    assert not {stem for stem in stems if stems.count(stem) > 1}


def test_imports_are_absolute_so_that_the_law_above_sees_them_all():
    for path in MODULES:
        relative = [n for n in ast.walk(tree_of(path)) if getattr(n, "level", 0)]
        assert not relative, path


def test_a_report_never_sees_a_model():
    for path in (ROOT / "report").rglob("*.py"):
        assert not {"networks", "learning", "attacks", "evaluation"} & set(imported(path)), path


def test_attacks_never_see_a_neuron():
    for path in (ROOT / "attacks").rglob("*.py"):
        assert not {"neurons", "networks", "learning"} & set(imported(path)), path


def test_no_module_is_named_after_nothing():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert not names & {"utils", "util", "common", "helpers", "base", "core", "misc"}


BESIDES = {  # what is public beside the classes that a study can name
    *("Key", "ModelSpec", "Classifier", "Normalise", "PSP"),
    *("Dataset", "Split", "Subset", "Division", "as_dataset"),
    *("substitute", "probed", "wrap", "unwrap", "load", "save", "decide", "parse_epsilon"),
    *(
        "evaluate_clean",
        "evaluate_corrupted",
        "evaluate_attack",
        "evaluate_sweep",
        "evaluate_suite",
        "evaluate_distances",
    ),
    *("strongest", "rate_twin", "made_on", "through", "GradientAttack", "MinimumNorm", "audit", "Report"),
    *("from_nir", "to_nir"),
    *("AsFoolbox", "AsTorchattacks", "FOOLBOX", "TORCHATTACKS", "MODEL_PARTS", "STUDY_PARTS"),
    *("SpikeproofError", "InputError", "LeakError", "DamagedError", "__version__"),
}
PEERS = {InTorchattacks, InFoolbox}  # named as in their libraries, in the tables TORCHATTACKS and FOOLBOX
NAMEABLE = {part for kind, table in PARTS.items() if kind not in PEERS for part in table.values()}
FACE = [ROOT / "__init__.py", ROOT / "catalogue" / "model_parts.py", ROOT / "catalogue" / "study_parts.py"]


def test_what_a_study_can_name_is_public_under_its_class_name_and_little_else():
    assert set(spikeproof.__all__) == {part.__name__ for part in NAMEABLE} | BESIDES
    assert dir(spikeproof) == spikeproof.__all__
    for part in NAMEABLE:
        assert getattr(spikeproof, part.__name__) is part
    for name in BESIDES - {"__version__"}:
        assert (getattr(spikeproof, name).__doc__ or "").strip(), name
    assert spikeproof.TORCHATTACKS is PARTS[InTorchattacks]
    assert spikeproof.FOOLBOX is PARTS[InFoolbox]


def test_no_public_name_stands_for_two_things():
    names = [part.__name__ for part in NAMEABLE] + sorted(BESIDES)
    assert not {name for name in names if names.count(name) > 1}
    homes = [name for name, _ in spikeproof._homes(FACE[0])]
    assert not {name for name in homes if homes.count(name) > 1}
    assert not set(names) & {room(path) for path in MODULES}  # a submodule, once imported, hides the name


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="'spikeproof' has no attribute 'nothing'"):
        spikeproof.nothing
    with pytest.raises(AttributeError, match="'Encoder'"):
        spikeproof.Encoder


def test_a_type_checker_sees_the_public_names_and_no_other(tmp_path):
    right = [f"spikeproof.{name}" for name in spikeproof.__all__]
    right += ["a: spikeproof.BPTT = spikeproof.BPTT(loss=spikeproof.TET())"]
    right += ["b: spikeproof.PGD = spikeproof.PGD(objective=spikeproof.Margin())"]
    right += ["from spikeproof import *", "c: Latency = Latency(steps=4)"]
    wrong = ["spikeproof.nothing", "spikeproof.Encoder", "spikeproof.Path", "spikeproof.PGD(stps=4)"]
    lines = ["import spikeproof", *right, *wrong]
    (tmp_path / "use.py").write_text("\n".join(lines))
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nfollow_imports = skip\n[mypy-spikeproof.*]\nfollow_imports = normal\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "use.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {line.split(":")[1] for line in done.stdout.splitlines() if line.startswith("use.py:")}
    first = len(lines) - len(wrong) + 1
    assert found == {str(number) for number in range(first, len(lines) + 1)}, done.stdout + done.stderr


@pytest.mark.parametrize("path", FACE, ids=lambda path: path.stem)
def test_a_file_that_makes_names_public_defines_none_besides(path):
    # a type checker takes a definition for a public name, where `spikeproof` only looks at imports
    for node in tree_of(path).body:
        names = [t.id for t in ast.walk(node) if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        if not isinstance(node, ast.If):
            assert all(name in BESIDES or name.startswith("_") for name in names), (path.name, names)


def test_no_two_modules_of_a_room_show_the_same_name():
    for path in MODULES:
        if path.name == "__init__.py":
            shown = [
                name
                for node in ast.walk(tree_of(path))
                if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
                for name in importlib.import_module(node.module).__all__
            ]
            assert not {name for name in shown if shown.count(name) > 1}, path


@pytest.mark.parametrize("module", ["spikeproof", "spikeproof.command.cli"])
def test_importing_and_listing_the_names_pulls_in_nothing_heavy(module):
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "pyarrow"}
    code = f"import sys, {module}; dir(sys.modules['spikeproof']); print(*({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_a_name_that_is_used_does_not_bring_the_catalogue():
    code = "import sys, spikeproof; spikeproof.InputError; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in out.stdout.split() if name.startswith("spikeproof.")}
    assert ours == {"spikeproof.version", "spikeproof.errors"}


def test_scipy_is_imported_where_it_computes():
    # it takes longer to import than the rest of the package together
    for path in MODULES:
        tree = tree_of(path)
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert "scipy" not in {name.split(".")[0] for name in _foreign(tree)}, path


def test_a_module_brings_little_beside_torch():
    # the first use of a public name takes what torch takes and little more; other packages are imported late
    light = {"torch", "numpy", "jaxtyping", "pydantic", "safetensors", "typing_extensions", "spikeproof"}
    for path in MODULES:
        tree = tree_of(path)
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        brought = {name.split(".")[0] for name in _foreign(tree)} - set(sys.stdlib_module_names) - light
        assert room(path) in {"command", "report", "experiments"} or not brought, (path, brought)


def test_the_package_needs_no_torchvision():
    for path in MODULES:
        assert "torchvision" not in {n.split(".")[0] for n in _foreign(tree_of(path))}, path


def _foreign(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
