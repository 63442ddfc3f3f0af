"""Attacks of Torchattacks and Foolbox as recipes, with the same budgets and verdicts as our own attacks.

A peer is given a plain `torch.nn.Module`, which counts every image that the peer evaluates and every gradient
that it takes, whatever the peer itself reports. The model gives the verdicts on the images that a peer
returns, with a tie counted as an error, and the evaluation checks that they lie in the threat's set.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Result, admit, judge
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS, Foreign, InFoolbox, InTorchattacks
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks.outside import nearest
from spikeproof.protocols import Model, Threat, attack_call, moves_events, takes_events

__all__ = ["Foolbox", "Peer", "PeerAttack", "Torchattacks", "library"]

BATCH = 50
"""Batch size of a peer: its random draws are for a whole batch, so its results depend on the batch."""


_BESIDES = {
    "torchattacks": " and pip install --no-deps torchattacks"
    " (Torchattacks asks for torchvision, which its attacks do not need)"
}
"""Further commands that install a library, where the extra cannot include it."""


def library(name: str) -> ModuleType:
    """Import the package of a peer.

    Raises:
        InputError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both libraries emit warnings of their own on import
            return import_module(name)
    except ImportError as error:
        raise InputError(
            f"Attacks of {name} need that package",
            "no such package" if isinstance(error, ModuleNotFoundError) else str(error),
            f"Run pip install 'spikeproof[peers]'{_BESIDES.get(name, '')}.",
        ) from error


class Peer(Recipe):
    """An attack of another library, for deterministic models that take images."""

    attack: Foreign
    package: ClassVar[str]

    @property
    def gradient_free(self) -> bool:  # type: ignore[override]
        return self.attack.gradient_free

    @property
    def steps(self) -> int:
        """The number of gradient steps, which the audit reads."""
        return self.attack.gradient_steps

    def suits(self, model: object) -> bool:
        return True

    def check(self, model: object) -> None:
        encoder = getattr(model, "encoder", model)
        name = type(self.attack).__name__
        if getattr(model, "stochastic", False) or getattr(encoder, "stochastic", False):
            raise InputError(
                f"{name} of {self.package} needs a deterministic model, and this model draws its answers",
                repr(encoder),
                "Use an attack that averages over draws, such as eot-pgd or apgd-ce with draws.",
            )
        if takes_events(encoder):
            raise InputError(
                f"{name} of {self.package} changes pixels by fractions, but this model takes whole events",
                repr(encoder),
                "Use spike-search.",
            )

    def __call__(self, threat: Threat) -> PeerAttack:
        name, norms = type(self.attack).__name__, self.attack.norms
        if type(threat) not in norms:
            raise InputError(
                f"{name} of {self.package} works with the threats {' and '.join(n.__name__ for n in norms)}",
                repr(threat),
                "Use spike-search on events."
                if moves_events(threat)
                else "Use it with one of these threats, or use another attack with this threat.",
            )
        library(self.package)
        return PeerAttack(threat, self)

    def images(self, ear: Ear, threat: Threat, x: Tensor, y: Tensor, classes: int, seed: int) -> Tensor:
        """The adversarial images that the library returns for a batch."""
        raise NotImplementedError(f"{type(self).__name__} has no library")


@dataclass(frozen=True, kw_only=True)
class Torchattacks(Peer):
    """An attack of Torchattacks, by its name there, with our budgets and verdicts.

    Its options have that library's names, units and defaults; the step size `alpha` does not scale with
    epsilon. The attack runs on batches of 50 images, and its random draws are for the whole batch, so the
    result for an example depends on its batch. The images of an attack that searches for the nearest
    adversarial image are projected onto the budget, as those of our own attacks are.

    Args:
        attack: name in Torchattacks, with or without options; `spikeproof list torchattacks` shows the names.

    Raises:
        InputError: the threat has another norm, the model is stochastic or takes events, or Torchattacks is
            not installed.

    Example:
        >>> from spikeproof.interop.members import TORCHATTACKS
        >>> Torchattacks(attack=TORCHATTACKS["PGD"](steps=20)).steps
        20

    Source:
        Kim 2020 (Torchattacks).
    """

    package: ClassVar[str] = "torchattacks"
    attack: InTorchattacks

    def images(self, ear: Ear, threat: Threat, x: Tensor, y: Tensor, classes: int, seed: int) -> Tensor:
        arguments = {
            "eps": threat.epsilon,
            "norm": type(threat).__name__,
            "seed": seed,
            "n_classes": classes,
            "pixels": int(threat.epsilon),
        }
        name = type(self.attack).__name__
        make = getattr(library(self.package), name if name in TORCHATTACKS else "")
        attack = make(ear, **{k: arguments[k] for k in self.attack.takes}, **self.attack.options())
        made: Tensor = attack(x, y)
        return made


@dataclass(frozen=True, kw_only=True)
class Foolbox(Peer):
    """An attack of Foolbox, by its name there, with our budgets and verdicts.

    Its options have that library's names, units and defaults; `rel_stepsize` is a multiple of epsilon. The
    attack runs on batches of 50 images, and its random draws are for the whole batch, so the result for an
    example depends on its batch.

    Args:
        attack: name in Foolbox, with or without options; `spikeproof list foolbox` shows the names.

    Raises:
        InputError: the threat has another norm, the model is stochastic or takes events, or Foolbox is not
            installed.

    Example:
        >>> from spikeproof.interop.members import FOOLBOX
        >>> Foolbox(attack=FOOLBOX["LinfPGD"]()).steps
        40

    Source:
        Rauber et al. 2017, 2020 (Foolbox).
    """

    package: ClassVar[str] = "foolbox"
    attack: InFoolbox

    def images(self, ear: Ear, threat: Threat, x: Tensor, y: Tensor, classes: int, seed: int) -> Tensor:
        foolbox = library(self.package)
        name = type(self.attack).__name__
        make = getattr(foolbox.attacks, name if name in FOOLBOX else "")
        model = foolbox.PyTorchModel(ear, bounds=(0, 1), device=x.device)
        made: Tensor = make(**self.attack.options())(model, x, y, epsilons=threat.epsilon)[1]  # clipped
        return made


class Ear(nn.Module):
    """The module that a peer is given in place of the model; it records forward passes and gradients.

    A forward pass on a whole batch is evidence for every image that lies within the budget of its example.
    The margins make one row of the trace, and the first row in which the model misclassifies an image is
    recorded as the step at which that example fell. Some peers evaluate images outside [0, 1], for which our
    models have no answer; they are given the answer for the nearest image inside.
    """

    def __init__(self, model: Model, threat: Threat, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(x.new_zeros(0), requires_grad=False)  # tells peers the device
        self.asked = (model, threat, x, y)  # in a tuple, so that a peer cannot change the model's mode
        self.forward_rows = torch.zeros(2, dtype=torch.int64)  # in whole batches, and in others
        self.outside_rows = 0  # those of them that were outside [0, 1]
        self.backward_rows = torch.zeros(3, dtype=torch.int64)  # the same, and those with a zero gradient
        self.losses: list[Tensor] = []
        self.fell = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        model, threat, x, y = self.asked
        whole = images.shape == x.shape
        self.forward_rows[int(not whole)] += len(images)
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(lambda grad: self._heard(grad, whole))  # type: ignore[no-untyped-call]
        inside = nearest(images)
        self.outside_rows += int((inside != images).detach().flatten(1).any(1).sum())
        logits: Tensor = model(inside)
        if whole:
            with torch.no_grad():
                here = threat.contains(images.detach(), x)
                margin = Margin()(logits.detach(), y).to(x.dtype)
                self.losses.append(torch.where(here, margin, torch.nan))
                fooled = here & (decide(logits.detach()) != y) & (self.fell < 0)
                self.fell[fooled] = len(self.losses) - 1
        return logits

    def _heard(self, grad: Tensor, whole: bool) -> None:
        self.backward_rows[int(not whole)] += len(grad)
        self.backward_rows[2] += int((grad.flatten(1) == 0).all(1).sum())

    def counts(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Forward and backward passes per example, those outside [0, 1], and the share of zero gradients.

        It is unknown which examples a batch of another size contains, so its passes are divided evenly among
        all examples; the sum is exact.
        """
        n, device = len(self.asked[2]), self.fell.device
        forward, backward = (_shared(rows.tolist(), n) for rows in (self.forward_rows, self.backward_rows))
        outside = _shared([0, self.outside_rows], n)
        zeros = float(self.backward_rows[2]) / max(1, int(self.backward_rows[:2].sum()))
        return forward.to(device), backward.to(device), outside.to(device), zeros


def _shared(rows: list[int], n: int) -> Tensor:
    whole, rest = rows[0] // max(n, 1), rows[1]
    return whole + rest // max(n, 1) + (torch.arange(n) < rest % max(n, 1)).long()


@dataclass(frozen=True)
class PeerAttack:
    """A peer's attack within a threat.

    Args:
        threat: norm and budget.
        recipe: the peer.
    """

    threat: Threat
    recipe: Peer
    batch: ClassVar[int] = BATCH

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; where `through` is given, the images are made on it.

        Raises:
            InputError: the labels do not fit the images, the images are of half precision or outside [0, 1],
                the model is in training mode, or the peer cannot attack it.
        """
        source = through or model
        x = admit(model, self.threat, x, y, source)
        for each in (model, source):
            self.recipe.check(_innermost(each))
        if not len(x) or self.threat.epsilon == 0:
            none = torch.zeros_like(y)
            success = judge(model, x, y, key.fold("verdict"))
            return Result(
                x.clone(), success, x.new_zeros(0, len(x)), none + 1, none, none.to(x.dtype), none - 1
            )
        ear = Ear(source, self.threat, x, y)
        first = 0 if key.rows is None else key.rows[0]
        seed = key.seed(first) % 2**31
        with _seeded(seed, x.device), _untouched(source), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries use deprecated functions
            classes = _classes(source, x)
            made = self.recipe.images(ear, self.threat, x.clone(), y.clone(), classes, seed)
        made = made.detach().to(x.device, x.dtype)
        if self.recipe.attack.nearest:
            far = ~self.threat.contains(made, x)
            made = torch.where(far.view(-1, *[1] * (x.ndim - 1)), self.threat.project(made, x), made)
        forward, backward, outside, zeros = ear.counts()
        trace = torch.stack(ear.losses) if ear.losses else x.new_zeros(0, len(x))
        success = judge(model, made, y, key.fold("verdict"))
        zero = x.new_full((len(x),), zeros)
        return Result(made, success, trace, forward + 1, backward, zero, ear.fell, outside)


def _innermost(model: object) -> object:
    while not isinstance(model, nn.Module) and hasattr(model, "model"):
        model = model.model
    return model


@torch.no_grad()
def _classes(model: Model, x: Tensor) -> int:
    return int(model(x[:1]).shape[1])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, from which peers draw, and restore their states afterwards."""
    own, numbers = random.getstate(), np.random.get_state()
    cards = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cards):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numbers)


@contextmanager
def _untouched(model: object) -> Iterator[None]:
    """Keep peers, which differentiate down to the weights, from leaving gradients there."""
    inner = _innermost(model)
    weights = [p for p in inner.parameters() if p.requires_grad] if isinstance(inner, nn.Module) else []
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
