"""Draw the house: rooms on their floors, the imports between them, and figures of the code.

    python scripts/house.py                  # figures, and one line per room with the rooms that it imports
    python scripts/house.py --dot | dot -Tsvg > house.svg
    python scripts/house.py --root OTHER/src/spikeproof   # another checkout, for before and after

Reads the source with `ast`; nothing is imported. A door is a module or a folder directly inside a folder,
`__init__.py` left out.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "spikeproof"


def modules(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if path != root / "__init__.py")


def room(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Rooms that a module imports, wherever in the file it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "spikeproof":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spikeproof."):
            yield (node.module or "").split(".")[1]


def graph(root: Path) -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    rooms: dict[str, set[str]] = {}
    for path in modules(root):
        here = room(path, root)
        rooms.setdefault(here, set()).update(imported(ast.parse(path.read_text("utf-8"))))
    return {name: {other for other in others if other in rooms} - {name} for name, others in rooms.items()}


def floors(rooms: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by the longest way down: each floor imports only from those before it.

    Raises:
        SystemExit: rooms import each other in a circle.
    """
    height: dict[str, int] = {}
    while len(height) < len(rooms):
        ready = [name for name in rooms if name not in height and rooms[name] <= height.keys()]
        if not ready:
            raise SystemExit(f"a circle among {sorted(rooms.keys() - height.keys())}")
        for name in ready:
            height[name] = 1 + max((height[other] for other in rooms[name]), default=0)
    return [sorted(n for n, h in height.items() if h == f) for f in range(1, max(height.values()) + 1)]


def doors(folder: Path) -> int:
    """Modules and folders of modules directly inside a folder."""
    inside = (p for p in folder.iterdir() if p.name != "__init__.py")
    return sum(p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py"))) for p in inside)


def figures(root: Path) -> dict[str, str]:
    paths = [root / "__init__.py", *modules(root)]
    texts = [path.read_text("utf-8") for path in paths]
    trees = [ast.parse(text) for text in texts]
    lines = sorted(
        (text.count("\n"), str(path.relative_to(root))) for text, path in zip(texts, paths, strict=True)
    )
    nodes = [node for tree in trees for node in ast.walk(tree)]
    total = sum(n for n, _ in lines)
    tests = sum(isinstance(node, ast.Compare) and _of_text(node) for node in nodes)
    splats = sum(
        isinstance(node, ast.Starred) and isinstance(node.value, (ast.Tuple, ast.List)) for node in nodes
    )
    folders = {p.parent for p in modules(root)} - {root}
    fullest = max(folders, key=doors)
    loose = [p for p in root.glob("*.py") if p.name != "__init__.py"]
    return {
        "modules": str(len(paths)),
        "lines": str(total),
        "median module, lines": f"{statistics.median(n for n, _ in lines):.0f}",
        "longest module, lines": f"{lines[-1][0]} ({lines[-1][1]})",
        "modules at the root": str(len(loose)),
        "rooms": str(len({room(p, root) for p in modules(root)}) - len(loose)),
        "fullest folder, doors": f"{doors(fullest)} ({fullest.relative_to(root)})",
        "file stems that occur twice": str(_twice([p.stem for p in paths if p.stem != "__init__"])),
        "`Any`, the word": str(sum(len(re.findall(r"\bAny\b", text)) for text in texts)),
        "comparisons with text per 1,000 lines": f"{1000 * tests / total:.1f}",
        "tuples written as splats": str(splats),
    }


def _of_text(node: ast.Compare) -> bool:
    def text(part: ast.expr) -> bool:
        parts = part.elts if isinstance(part, (ast.Tuple, ast.List, ast.Set)) else [part]
        return any(isinstance(p, ast.Constant) and isinstance(p.value, str) for p in parts)

    return any(map(text, (node.left, *node.comparators)))


def _twice(stems: list[str]) -> int:
    return len({stem for stem in stems if stems.count(stem) > 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=ROOT, help="the package's folder")
    parser.add_argument("--dot", action="store_true", help="print the graph for Graphviz instead")
    options = parser.parse_args()
    rooms = graph(options.root)
    if options.dot:
        print("digraph house {\n  rankdir=BT; node [shape=box, fontname=sans];")
        for floor in floors(rooms):
            print("  { rank=same; " + "; ".join(f'"{name}"' for name in floor) + " }")
        for name, others in sorted(rooms.items()):
            print("".join(f'  "{name}" -> "{other}";\n' for other in sorted(others)), end="")
        print("}")
        return
    for name, value in figures(options.root).items():
        print(f"{name:40}{value}")
    for height, floor in enumerate(floors(rooms)):
        for name in floor:
            print(f"floor {height:2}  {name:14}<- {' '.join(sorted(rooms[name])) or '(nothing)'}")


if __name__ == "__main__":
    main()
