"""What a program imports from beside it: found without running it, and imported as it was found.

Files beside a program, and in folders below, are part of the program as much as its own file. They are found
by reading the import statements, of the program and of the files themselves, wherever in them the statements
stand; a name that is computed is not found. A program then gets the content that was read, and not what the
interpreter kept of an earlier version, or of a file of this name beside another program.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

from spikeproof.plainfiles import bytes_of

__all__ = ["Beside", "digest_of", "imported_as_found", "imports_of"]


class Beside(NamedTuple):
    """A file that a program imports.

    Args:
        path: of the file.
        content: of the file when it was read.
        package: whether it is the `__init__.py` of a folder.
    """

    path: Path
    content: bytes
    package: bool


def imports_of(program: bytes, folder: Path, limit: int) -> dict[str, Beside]:
    """The files in a folder or below that a program imports, and those that they import, by name of module.

    Args:
        program: the source of a program in this folder.
        folder: where it is.
        limit: most bytes of a file.

    Raises:
        InputError: a file cannot be read, or is larger than the limit.

    Example:
        >>> imports_of(b"import math, torch", Path("/no/such/folder"), 100)
        {}
    """
    found = dict[str, Beside]()
    waiting = [(program, "")]
    while waiting:
        source, package = waiting.pop()
        for name in _named(source, package):
            parts = name.split(".")
            for place in (".".join(parts[: depth + 1]) for depth in range(len(parts))):
                if place in found or (file := _file(folder, place)) is None:
                    continue
                found[place] = Beside(file, bytes_of(file, limit), file.name == "__init__.py")
                within = place if found[place].package else place.rpartition(".")[0]
                waiting.append((found[place].content, within))
    return dict(sorted(found.items()))


def digest_of(found: Mapping[str, Beside]) -> str:
    """SHA-256 of the names and contents of imported files."""
    lines = (f"{name} {hashlib.sha256(file.content).hexdigest()}\n" for name, file in sorted(found.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _named(source: bytes, package: str) -> Iterator[str]:
    """The modules that a source names in its import statements, and what may be modules inside them."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # running it says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(filter(None, [*above, base]))
            yield from filter(None, [base])
            yield from (".".join(filter(None, [base, each.name])) for each in node.names)
        elif isinstance(node, ast.Call) and _imports(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value if not name.value.startswith(".") else package + name.value


def _imports(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in ("import_module", "__import__")


def _file(folder: Path, name: str) -> Path | None:
    *within, last = name.split(".")
    if not all(part.isidentifier() for part in (*within, last)):
        return None
    place = folder.joinpath(*within)
    for file in (place / last / "__init__.py", place / f"{last}.py"):
        if file.is_file():
            return file
    return None


class _AsFound(importlib.machinery.SourceFileLoader):
    """Loads the content of a file that was read before."""

    def __init__(self, name: str, file: Beside, folder: Path) -> None:
        super().__init__(name, str(file.path))
        self.file, self.folder = file, folder

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.file.content, self.path)
        return code


class _Finder:
    """Finds the files of a program, where the interpreter itself would find these files and no others.

    A program may put another folder first in `sys.path`, and a package that is installed goes before a folder
    of its name without an `__init__.py`; the interpreter then has its way.
    """

    def __init__(self, found: Mapping[str, Beside], folder: Path) -> None:
        self.found, self.folder = found, folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self.found.get(name)
        if file is None:
            return None
        usual = importlib.machinery.PathFinder.find_spec(name, path, target)
        if usual is None or usual.origin is None or not _same_file(usual.origin, file.path):
            return None
        inside = [str(file.path.parent)] if file.package else None
        loader = _AsFound(name, file, self.folder)
        return spec_from_file_location(name, file.path, loader=loader, submodule_search_locations=inside)


def _same_file(one: str, other: Path) -> bool:
    try:
        return other.samefile(one)
    except OSError:  # an origin such as "built-in"
        return False


@contextmanager
def imported_as_found(found: Mapping[str, Beside], folder: Path) -> Iterator[None]:
    """Let a program import its files as they were found, and none of another program.

    Modules of another program are back afterwards, unless this one may import others of their names.

    Args:
        found: the files, as `imports_of` gives them.
        folder: where the program is.
    """
    theirs = _loaded(folder, own=False)
    mine = _loaded(folder, own=True)
    old = any(name in found and _file_of(module) != found[name] for name, module in mine.items())
    for name in [*theirs, *(mine if old else ())]:
        del sys.modules[name]
    importlib.invalidate_caches()  # a file may be younger than what the interpreter knows of its folder
    finder = _Finder(found, folder)
    kinds = [getattr(each, "__name__", "") for each in sys.meta_path]
    place = kinds.index("PathFinder") if "PathFinder" in kinds else len(kinds)
    sys.meta_path.insert(place, finder)  # behind the modules that are built in
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in theirs.items():
            if name not in found:
                sys.modules.setdefault(name, module)


def _loaded(folder: Path, *, own: bool) -> dict[str, ModuleType]:
    """The modules in the interpreter that this program brought, or those that others did."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if isinstance(loader := _loader(module), _AsFound) and (loader.folder == folder) == own
    }


def _loader(module: ModuleType) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)


def _file_of(module: ModuleType) -> Beside | None:
    loader = _loader(module)
    return loader.file if isinstance(loader, _AsFound) else None
