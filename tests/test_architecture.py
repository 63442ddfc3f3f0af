"""The house stands: imports run downhill, names say something, and importing the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spikeproof

ROOT = Path(spikeproof.__file__).parent
FLOORS = [
    # a floor may import from the floors above it in this list, and its groups' members from each other
    [["version", "errors", "keys", "specs", "protocols"]],
    [
        *(["datasets"], ["encoders"], ["probes"], ["surrogates"], ["decoders"], ["losses"], ["threats"]),
        *(["statistics"], ["tensorfiles"]),
    ],
    [["neurons"], ["coded"]],
    [["gradients"]],
    [["networks"]],
    [["learning"]],
    [["attacks"]],
    [["evaluation"]],
    [["interop"]],
    [["audit"], ["catalogue"]],
    [["experiments"]],
    [["report"]],
    [["command"]],
    [["__main__"]],
]
PLACE = {name: (i, j) for i, floor in enumerate(FLOORS) for j, group in enumerate(floor) for name in group}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Rooms of ours that a module imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
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
        for node in ast.walk(ast.parse(path.read_text())):
            if (name := getattr(node, "module", None) or "").startswith("spikeproof.experiments."):
                assert CHAIN.index(name.split(".")[2]) <= CHAIN.index(link), f"{path.name} imports {name}"


def test_no_module_imports_itself_through_others():
    names = {
        ".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p
        for p in MODULES
    }
    graph = {}
    for name, path in names.items():
        nodes = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module
        ]
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
        relative = [n for n in ast.walk(ast.parse(path.read_text())) if getattr(n, "level", 0)]
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


def test_every_public_name_exists_and_is_documented():
    for name in spikeproof.__all__:
        member = getattr(spikeproof, name)
        assert name == "__version__" or (member.__doc__ and member.__doc__.strip()), name
    with pytest.raises(AttributeError, match="nothing"):
        spikeproof.nothing


@pytest.mark.parametrize("module", ["spikeproof", "spikeproof.command.cli"])
def test_importing_pulls_in_nothing_heavy(module):
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "pyarrow"}
    code = f"import sys, {module}; print(*({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_the_package_needs_no_torchvision():
    for path in MODULES:
        assert "torchvision" not in {n.split(".")[0] for n in _foreign(path)}, path


def _foreign(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
