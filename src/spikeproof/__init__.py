"""spikeproof: how robust is a spiking neural network, and what does spike timing have to do with it?

Everything that a study can name can be imported from here under its class name, such as `Latency` or `PGD`.
So can the few names that have no place in a study, such as `Key` and `evaluate_attack`. Attacks of other
libraries keep the names they have there, some of which are ours too; they are members of the tables
`TORCHATTACKS` and `FOOLBOX`.

A name is imported when it is first used, so that `import spikeproof` costs nothing. The imports under
`TYPE_CHECKING` are the one list of names: type checkers and editors follow them, and `_homes` reads them.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from spikeproof.version import __version__ as __version__

# Without this, some processors round a row of a small matrix product by its place in the batch. MKL reads the
# variable at the first product; a value that is already set stays.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    from spikeproof.attacks.nearest.minimum import MinimumNorm as MinimumNorm
    from spikeproof.attacks.search import GradientAttack as GradientAttack
    from spikeproof.auditing.signoff import Report as Report
    from spikeproof.auditing.signoff import audit as audit
    from spikeproof.catalogue.model_parts import *
    from spikeproof.catalogue.model_parts import MODEL_PARTS as MODEL_PARTS
    from spikeproof.catalogue.saved import load as load
    from spikeproof.catalogue.saved import save as save
    from spikeproof.catalogue.study_parts import *
    from spikeproof.catalogue.study_parts import STUDY_PARTS as STUDY_PARTS
    from spikeproof.datasets.intake.census import Subset as Subset
    from spikeproof.datasets.owned.division import Division as Division
    from spikeproof.datasets.owned.objects import as_dataset as as_dataset
    from spikeproof.datasets.parts import Dataset as Dataset
    from spikeproof.datasets.parts import Split as Split
    from spikeproof.decoders.readouts import decide as decide
    from spikeproof.errors import DamagedError as DamagedError
    from spikeproof.errors import InputError as InputError
    from spikeproof.errors import SpikeproofError as SpikeproofError
    from spikeproof.evaluation.asking.leaks import LeakError as LeakError
    from spikeproof.evaluation.distances import evaluate_distances as evaluate_distances
    from spikeproof.evaluation.suites import evaluate_suite as evaluate_suite
    from spikeproof.evaluation.through import made_on as made_on
    from spikeproof.evaluation.through import rate_twin as rate_twin
    from spikeproof.evaluation.through import strongest as strongest
    from spikeproof.evaluation.through import through as through
    from spikeproof.evaluation.verdicts import evaluate_attack as evaluate_attack
    from spikeproof.evaluation.verdicts import evaluate_clean as evaluate_clean
    from spikeproof.evaluation.verdicts import evaluate_corrupted as evaluate_corrupted
    from spikeproof.evaluation.verdicts import evaluate_sweep as evaluate_sweep
    from spikeproof.interop.calls import AsFoolbox as AsFoolbox
    from spikeproof.interop.calls import AsTorchattacks as AsTorchattacks
    from spikeproof.interop.frameworks.wrap import unwrap as unwrap
    from spikeproof.interop.frameworks.wrap import wrap as wrap
    from spikeproof.interop.graph_writer import to_nir as to_nir
    from spikeproof.interop.graphs import from_nir as from_nir
    from spikeproof.interop.members import FOOLBOX as FOOLBOX
    from spikeproof.interop.members import TORCHATTACKS as TORCHATTACKS
    from spikeproof.keys import Key as Key
    from spikeproof.networks.classifier import Classifier as Classifier
    from spikeproof.networks.classifier import ModelSpec as ModelSpec
    from spikeproof.networks.classifier import Normalise as Normalise
    from spikeproof.networks.substitute import probed as probed
    from spikeproof.networks.substitute import substitute as substitute
    from spikeproof.neurons.parts.synapses import PSP as PSP
    from spikeproof.threats.balls import parse_epsilon as parse_epsilon


def _homes(path: Path) -> Iterator[tuple[str, str]]:
    """Every name that a file imports `as` itself, and the module that has it; the file is read, not run."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                if name.name == "*":
                    yield from _homes(_HERE.parent.joinpath(*node.module.split(".")).with_suffix(".py"))
                elif name.asname == name.name:
                    yield name.name, node.module


_HERE = Path(__file__).parent
_HOME = dict(_homes(_HERE / "__init__.py"))

if not TYPE_CHECKING:  # to a type checker these would say that there is every name, or none
    __all__ = sorted(_HOME)

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'spikeproof' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)

    def __dir__() -> list[str]:
        return __all__
