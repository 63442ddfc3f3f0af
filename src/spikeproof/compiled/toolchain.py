"""The compiler of the machine, and the library that it builds once per source, compiler and processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

__all__ = ["CACHE_VARIABLE", "cache_folder", "compiler", "library", "why_not_built"]

CACHE_VARIABLE = "SPIKEPROOF_CACHE"
"""Environment variable with the folder of built libraries."""

SOURCE = Path(__file__).with_name("membranes.cpp")

FLAGS = (
    "-O3",
    "-shared",
    "-fPIC",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
"""No flag changes how a number is rounded."""

VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2", "-mfma"),
}
"""Name of a processor's vectors in PyTorch -> flags of the compiler."""

PATIENCE = 120.0
"""Seconds after which a build is given up."""


def rounds_once() -> bool:
    """Whether `torch.addcmul` of this machine rounds a product and a sum together.

    Example:
        >>> rounds_once() in (True, False)
        True
    """
    tiny = 2.0**-23
    factor = torch.full((64,), 1 + tiny)
    return bool(torch.addcmul(torch.full((64,), -(1 + 2 * tiny)), factor, factor)[0] != 0)


def cache_folder() -> Path:
    """Where built libraries are kept: the named folder, else the user's folder for caches."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikeproof"


def build(folder: Path, compiler: str) -> Path:
    """The library in a folder, built there if it is missing; several processes may do so at once.

    Args:
        folder: where libraries are kept, one for every source, compiler and kind of processor.
        compiler: the program that compiles C++.

    Raises:
        OSError: the compiler does not run, or the folder cannot be written.
        subprocess.SubprocessError: the compiler refuses the source.
    """
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=PATIENCE
    ).stdout
    vectors = VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
    parallel = ("-fopenmp",) if sys.platform == "linux" else ()
    flags = (*FLAGS, *vectors, *parallel, f"-DFUSED={int(rounds_once())}")
    name = hashlib.sha256(b"\0".join([version, " ".join(flags).encode(), SOURCE.read_bytes()])).hexdigest()
    path = folder / f"membranes-{name[:16]}.so"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / path.name
            command = [compiler, *flags, str(SOURCE), "-o", str(built)]
            subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
            built.replace(path)
    return path


def compiler() -> str | None:
    """The program that compiles C++ on this machine."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else ["c++", "g++", "clang++"])), None)


def find() -> ctypes.CDLL | str:
    """The library, built if need be and loaded, or a sentence that says why there is none."""
    program = compiler()
    if program is None:
        return "This machine has no C++ compiler. Install g++, or name a compiler in CXX."
    try:
        return ctypes.CDLL(str(build(cache_folder(), program)))
    except subprocess.CalledProcessError as error:
        first = error.stderr.decode(errors="replace").strip().partition("\n")[0]
        return f"The C++ compiler {program} refused the loops: {first}"
    except (OSError, subprocess.SubprocessError) as error:
        return (
            f"The loops could not be built with {program}: {error}. Name another folder in {CACHE_VARIABLE}."
        )


found_once = functools.cache(find)


def library() -> ctypes.CDLL | None:
    """The library with the loops, built on first use; None where it cannot be built or loaded.

    Example:
        >>> (library() is None) == bool(why_not_built())
        True
    """
    found = found_once()
    return None if isinstance(found, str) else found


def why_not_built() -> str:
    """A sentence that says why this machine has no loops in C++; empty where it has them."""
    found = found_once()
    return found if isinstance(found, str) else ""
