"""Models that are given, not trained: what a function in a file of the user makes, or a saved model.

The file is the user's own program and is run as such, so only what the user names is ever run: a path on the
command line, or one in a study file that is being run. What is stored names the file and the digests of its
content, and reading it runs nothing.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spikeproof.catalogue.beside import Beside, digest_of, imported_as_found, imports_of
from spikeproof.errors import DamagedError, InputError, of_the_machine, suggest
from spikeproof.evaluation.asking.callables import answering
from spikeproof.interop.frameworks.adapters import derives, modules_inside
from spikeproof.interop.frameworks.wrap import FRAMEWORKS
from spikeproof.interop.frameworks.wrapped import Wrapped
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.plainfiles import bytes_of, printable
from spikeproof.protocols import Model, exported
from spikeproof.tensorfiles import digest, parse

__all__ = ["Given", "is_address", "made"]

LARGEST_PROGRAM = 16 * 1024**2
"""Bytes of a file with a program."""

LARGEST_WEIGHTS = 16 * 1024**3
"""Bytes of a file with weights."""

IMPORTS = "imports_sha256"
"""Name of the digest of what a program imports from beside it."""

_EXAMPLE = "Write def make_model() in the file, and name it as FILE.py:make_model."


@dataclass(frozen=True)
class Given:
    """A model that a function of the user makes.

    Args:
        make: `FILE.py:NAME`, a file and a function in it that takes nothing and returns a model: whatever
            `spikeproof.audit` takes.
        weights: a file of weights that the model loads, `.safetensors`, or `.pt` with nothing but tensors;
            None for those that the function gives it.

    Raises:
        InputError: `make` is no file and name.

    Example:
        >>> Given("nets.py:make_model").name
        'nets.py:make_model'
    """

    make: str
    weights: str | None = None

    def __post_init__(self) -> None:
        if not is_address(self.make):
            raise InputError(
                "A model is made by a function in a file, named FILE.py:FUNCTION",
                f"{printable(self.make)!r:.200}",
                _EXAMPLE,
            )

    @property
    def path(self) -> Path:
        """The file with the program."""
        return Path(self.make.rpartition(":")[0])

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.make.rpartition(":")[2]

    @property
    def name(self) -> str:
        """A short name for tables."""
        return f"{self.path.name}:{self.function}"

    def read(self) -> Files:
        """What the files hold.

        Raises:
            InputError: a file cannot be read.
        """
        weights = None if self.weights is None else bytes_of(Path(self.weights), LARGEST_WEIGHTS)
        program = bytes_of(self.path, LARGEST_PROGRAM)
        return Files(program, weights, imports_of(program, self.path.resolve().parent, LARGEST_PROGRAM))

    def digests(self) -> dict[str, str]:
        """SHA-256 of the program, of what it imports from beside it and of the weights, where there are any.

        Raises:
            InputError: a file cannot be read.
        """
        return self.read().digests()


class Files(NamedTuple):
    """The content of a program, of its weights and of the files beside it that it imports, by their names.

    They are read once, so that what is run is what was digested.
    """

    program: bytes
    weights: bytes | None
    beside: Mapping[str, Beside]

    def digests(self) -> dict[str, str]:
        """SHA-256 of the program, of what it imports from beside it and of the weights, if there are any."""
        found = {"code_sha256": hashlib.sha256(self.program).hexdigest()}
        if self.beside:
            found[IMPORTS] = digest_of(self.beside)
        if self.weights is not None:
            found["weights_sha256"] = hashlib.sha256(self.weights).hexdigest()
        return found


def is_address(text: str) -> bool:
    """Whether a text names a function in a file of Python.

    Example:
        >>> [is_address(text) for text in ("a/net.py:make_model", "net.pt", "net.py:", "net.py")]
        [True, False, False, False]
    """
    path, _, function = text.rpartition(":")
    return path.endswith(".py") and function.isidentifier()


def made(given: Given, digests: Mapping[str, str] | None = None) -> Model:
    """Run the user's program and take the model that it makes, in evaluation mode, with its weights.

    Args:
        given: file, function and weights.
        digests: what the files held when the model was first taken; None to take them as they are.

    Raises:
        InputError: there is no such file or function, the program fails, or the weights do not fit.
        DamagedError: a file changed.
    """
    files = given.read()
    now = files.digests()
    if digests is not None and IMPORTS not in digests:  # taken before imports were digested
        now.pop(IMPORTS, None)
    if digests is not None and now != digests:
        what = "its weights" if now.get(IMPORTS) == digests.get(IMPORTS) else "what it imports from beside it"
        raise DamagedError(f"{given.make} or {what} changed since the model was first taken")
    found = _called(given, files)
    if isinstance(found, nn.Module) and not exported(found):
        found = found.eval()
    if given.weights is not None and files.weights is not None:
        nets = list(found.nets) if isinstance(found, Wrapped) else modules_inside(found)
        if len(nets) != 1 or isinstance(found, Classifier):
            raise InputError(
                f"{given.make}: a model that loads weights is one torch.nn.Module, or holds one",
                f"an object of type {type(found).__name__} with {len(nets)} of them",
                "Load the weights inside the function, and leave out weights.",
            )
        _load_weights(nets[0], files.weights, Path(given.weights))
    _refuse_unwrapped(given, found)
    return answering(cast(Model, found))


def _refuse_unwrapped(given: Given, found: object) -> None:
    """Refuse a network of neurons that remember, of which nothing says how it is called and read."""
    if isinstance(found, Wrapped):
        return
    parts = [part for net in modules_inside(found) for part in net.modules()]
    for adapter in FRAMEWORKS:
        if any(derives(part, adapter.package) for part in parts):
            raise InputError(
                f"{given.make} says how its network of {adapter.package} is called and read over time",
                f"an object of type {type(found).__name__}",
                "Return spikeproof.wrap(net, examples, steps=8, readout='mean'), with examples such as "
                "torch.rand(4, 1, 28, 28).",
            )


def _called(given: Given, files: Files) -> object:
    function = _function(given, files)
    with _beside(given.path, files.beside):
        try:
            found = function()
        except (Exception, SystemExit) as error:  # the user's own program may fail in any way
            raise _failed(given, error) from error
    if not callable(found) or isinstance(found, type):
        what = (
            f"the class {found.__name__}" if isinstance(found, type) else f"an object of type {_kind(found)}"
        )
        raise InputError(
            f"{given.make} returns a model: a module, or a function of images",
            what,
            "Return the network itself.",
        )
    return found


def _kind(found: object) -> str:
    return type(found).__name__


def _function(given: Given, files: Files) -> Callable[[], object]:
    content = files.program
    program = ModuleType(f"spikeproof_given_{hashlib.sha256(content).hexdigest()[:16]}")
    program.__file__ = str(given.path)
    sys.modules[program.__name__] = program  # where dataclasses and the like look for the program of a class
    with _beside(given.path, files.beside):
        try:
            exec(compile(content, str(given.path), "exec"), vars(program))
        except (Exception, SystemExit) as error:  # the user's own program may fail in any way
            raise _failed(given, error) from error
    names = [name for name, value in vars(program).items() if callable(value) and not name.startswith("_")]
    if not callable(function := getattr(program, given.function, None)):
        raise InputError(
            f"{given.path}: expected a function of this name",
            given.function,
            suggest(given.function, names) if names else _EXAMPLE,
        )
    return cast(Callable[[], object], function)


@contextmanager
def _beside(path: Path, found: Mapping[str, Beside]) -> Iterator[None]:
    """Let a program import what lies beside it, as Python does for a program that it is given.

    What it prints goes where messages go, so that the output of a command stays whole.
    """
    folder = path.resolve().parent
    sys.path.insert(0, str(folder))
    try:
        with redirect_stdout(sys.stderr), imported_as_found(found, folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _failed(given: Given, error: BaseException) -> InputError:
    """What went wrong inside the user's program, with the line of it."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(given.path):
            line = trace.tb_lineno
        trace = trace.tb_next
    words = next((text.strip() for text in str(error).splitlines() if text.strip()), "")
    again = f"import runpy; runpy.run_path({str(given.path)!r})[{given.function!r}]()"
    return InputError(
        f"{given.make}: expected a program that makes a model",
        f"{type(error).__name__}: {words[:300]}" + (f" (line {line})" if line else ""),
        f"Run python -c {shlex.quote(again)} to see the whole error.",
    )


def _load_weights(model: nn.Module, content: bytes, path: Path) -> None:
    tensors = _tensors(content, path)
    try:
        missing, unexpected = model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path}: expected weights of this model", words, "Give the weights of this model."
        ) from None
    wrong = [*(f"no {name}" for name in missing), *(f"{name}, which it does not have" for name in unexpected)]
    if wrong:
        raise InputError(
            f"{path}: expected the weights of every layer of the model and no others",
            ", ".join(wrong[:3]),
            "Give the weights of this model, as its state_dict() has them.",
        )
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise InputError(
            f"{path}: expected weights that are numbers", f"NaN or infinity in {broken[0]!r}", "Train again."
        )


def _tensors(content: bytes, path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, of which no program is ever run."""
    if path.suffix == ".safetensors":
        return parse(content, str(path))[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file makes the unpickler do
        words = str(error).strip().partition(". ")[0].splitlines() or [""]
        raise InputError(
            f"{path}: expected a file of nothing but tensors",
            f"{type(error).__name__}, {words[0][:200]}",
            "Save model.state_dict() with torch.save, or with safetensors.torch.save_file.",
        ) from None
    for name in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(
            f"{path}: expected a mapping of names to tensors",
            f"an object of type {type(found).__name__}",
            "Save model.state_dict() with torch.save, or with safetensors.torch.save_file.",
        )
    return cast(Mapping[str, Tensor], found)


def fingerprint_of(model: Model) -> str:
    """The digest of the weights of a made model; of a function, which shows none, that of no weights.

    What a module stores beside tensors is left out, and so are weights whose shape the first call decides.
    """
    found = {
        f"{place}.{name}": each
        for place, net in enumerate(modules_inside(model))
        for name, each in net.state_dict().items()
    }
    return digest(
        {name: each for name, each in found.items() if isinstance(each, Tensor) and not is_lazy(each)}
    )


def check_classes(model: Model, shape: tuple[int, ...], classes: int, name: str) -> None:
    """Refuse a model that does not fit the data.

    Args:
        model: on the processor.
        shape: of one example.
        classes: of the data.
        name: of the model, for messages.

    Raises:
        InputError: it does not take such examples, or does not give one row of so many logits for each.
    """
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *shape), Key.of(0).for_rows(range(2)))
    except InputError:
        raise
    except Exception as error:  # the user's own program may fail in any way
        if of_the_machine(error):
            raise
        words = " ".join(str(error).split())[:300]
        raise InputError(
            f"A model that takes examples of {list(shape)}",
            f"{type(error).__name__}: {words}",
            "Choose other data.",
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            "A model that gives one row of logits for each example, [B, K]",
            f"{what} for 2 examples",
            "Return the mean or the sum of the outputs over time.",
        )
    if logits.shape[1] != classes:
        raise InputError(
            f"A model for the {classes} classes of the data",
            f"one for {logits.shape[1]}: {name}",
            "Choose the data set that the model was trained on.",
        )
