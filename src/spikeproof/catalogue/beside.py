"""What a program imports from beside it: found without running it, and imported as it was found.

Files beside a program, and in folders below, are part of the program as much as its own file. They are found
by reading the import statements, of the program and of the files themselves, wherever in them the statements
stand; a name that is computed is not found. A program then gets the content that was read, and not what the
interpreter kept of an earlier version, of a file of this name beside another program, or of a module of this
name that a library brought.

Which file a name stands for is asked of the interpreter itself: a compiled extension goes before a source of
its name, a module that is built in before any file, and an installed package before a folder without an
`__init__.py`.
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

LARGEST_COMPILED = 1024**3
"""Bytes of a compiled extension."""

_SOURCES = tuple(importlib.machinery.SOURCE_SUFFIXES)


class Beside(NamedTuple):
    """A file that a program imports.

    Args:
        path: of the file.
        content: of the file when it was read.
        package: whether it is the `__init__` of a folder.
    """

    path: Path
    content: bytes
    package: bool

    @property
    def source(self) -> bool:
        """Whether it is Python, and not compiled."""
        return self.path.name.endswith(_SOURCES)


def imports_of(program: bytes, folder: Path, limit: int) -> dict[str, Beside]:
    """The files in a folder or below that a program imports, and those that they import, by name of module.

    Args:
        program: the source of a program in this folder.
        folder: where it is.
        limit: most bytes of a file of Python.

    Raises:
        InputError: a file cannot be read, or is larger than the limit.

    Example:
        >>> imports_of(b"import math, torch", Path("/no/such/folder"), 100)
        {}
    """
    importlib.invalidate_caches()  # a file may be younger than what the interpreter knows of its folder
    found = dict[str, Beside]()
    waiting = [(program, "")]
    while waiting:
        source, package = waiting.pop()
        for name in _named(source, package):
            for place, file, inside in _files(folder, name):
                if place in found:
                    continue
                compiled = not file.name.endswith(_SOURCES)
                found[place] = Beside(file, bytes_of(file, LARGEST_COMPILED if compiled else limit), inside)
                within = place if inside else place.rpartition(".")[0]
                waiting.append((b"" if compiled else found[place].content, within))
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


def _files(folder: Path, name: str) -> Iterator[tuple[str, Path, bool]]:
    """The files that the interpreter would find beside a program for a module and the packages that it is in.

    Of each its name, where it is, and whether it is the `__init__` of a folder.
    """
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or _is_built_in(parts[0]):
        return
    places, top = [str(folder)], True
    for depth, part in enumerate(parts):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if top and spec is not None and spec.origin is None:  # a folder, which gives way to any package
            spec = importlib.machinery.PathFinder.find_spec(part, [*places, *sys.path])
        if spec is None:
            return
        if spec.origin is not None:
            file = Path(spec.origin)
            if not file.is_relative_to(folder):
                return
            yield ".".join(parts[: depth + 1]), file, spec.submodule_search_locations is not None
        if spec.submodule_search_locations is None:
            return
        places, top = list(spec.submodule_search_locations), False


def _is_built_in(name: str) -> bool:
    """Whether the interpreter brings a module along, which no file can replace."""
    return name in sys.builtin_module_names or importlib.machinery.FrozenImporter.find_spec(name) is not None


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
        if file is None or not file.source:
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
    """Let a program import its files as they were found, and none of another program or of a library.

    Modules of another program are back afterwards, unless this one may import others of their names; those of
    libraries are back in any case.

    Args:
        found: the files, as `imports_of` gives them.
        folder: where the program is.
    """
    theirs = _loaded(folder, own=False)
    mine = _loaded(folder, own=True)
    old = any(name in found and _file_of(module) != found[name] for name, module in mine.items())
    foreign = _foreign(found)
    for name in [*theirs, *(mine if old else ()), *foreign]:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()  # a file may be younger than what the interpreter knows of its folder
    finder = _Finder(found, folder)
    kinds = [getattr(each, "__name__", "") for each in sys.meta_path]
    place = kinds.index("PathFinder") if "PathFinder" in kinds else len(kinds)
    sys.meta_path.insert(place, finder)  # behind the modules that are built in
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if foreign:
            tops = {_top(name) for name in foreign}
            for name in [name for name in sys.modules if _top(name) in tops]:
                del sys.modules[name]
            sys.modules.update(foreign)
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


def _foreign(found: Mapping[str, Beside]) -> dict[str, ModuleType]:
    """The modules of others that have a name of these files, or are in a package of their name."""
    tops = {_top(name) for name in found}
    alike = {name: module for name, module in list(sys.modules.items()) if _top(name) in tops}
    return {
        name: module
        for name, module in alike.items()
        if not isinstance(_loader(module), _AsFound) and not _is_compiled_of(found.get(name), module)
    }


def _is_compiled_of(file: Beside | None, module: ModuleType) -> bool:
    """Whether a module is that of a compiled file, which the interpreter loads once."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return file is not None and not file.source and isinstance(origin, str) and _same_file(origin, file.path)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _loader(module: ModuleType) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)


def _file_of(module: ModuleType) -> Beside | None:
    loader = _loader(module)
    return loader.file if isinstance(loader, _AsFound) else None
