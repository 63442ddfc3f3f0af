"""Our recipes behind the interfaces of Torchattacks and Foolbox.

Torchattacks calls `attack(images, labels)`; Foolbox calls `attack(model, inputs, criterion, epsilons=…)` and
expects three results. Both calls are stateless: the same images, labels and key give the same result again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.attacks.events.eventsteps import SpikeCompatible
from spikeproof.attacks.gradient.plain import Through
from spikeproof.attacks.made_of.composite import GradientSources, RateTwin, members_of
from spikeproof.attacks.nearest.minimum import MinimumNorm, NormRecipe
from spikeproof.attacks.parts.targets import Targets
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.attacks.search import GradientAttack
from spikeproof.errors import InputError
from spikeproof.evaluation.through import through
from spikeproof.interop.peers import library
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, check_tensors
from spikeproof.threats import L0, L1, L2, Linf

__all__ = ["AsFoolbox", "AsTorchattacks"]


@dataclass(frozen=True)
class _Each(Targets):
    """A target for each example of the batch."""

    classes: Tensor

    def __call__(self, logits: Tensor, y: Tensor, turn: int) -> Tensor:
        return self.classes


@dataclass(frozen=True)
class _FirstBest:
    """A model whose answer to a tie is the first of the tied classes, as in other libraries.

    Where several classes share the largest logit, the logit of the first one is raised to the next
    floating-point number, so that an attack does not stop at a tie. Gradients are unchanged.
    """

    model: Any

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # asked for while the object is copied
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, images: Tensor, key: Key | None = None) -> Tensor:
        logits: Tensor = self.model(images, key)
        with torch.no_grad():
            best, first = logits.max(-1, keepdim=True)
            tied = (logits == best).sum(-1, keepdim=True) > 1
            step = torch.nextafter(best, torch.full_like(best, torch.inf)) - best
            more = torch.zeros_like(logits).scatter(-1, first, step * tied)
        return logits + more


def _answering(source: Model | GradientSources | None) -> Any:
    """The model or models, which answer a tie with the first of the tied classes."""
    if isinstance(source, GradientSources):
        return GradientSources(tuple(None if each is None else _FirstBest(each) for each in source.models))
    return None if source is None else _FirstBest(source)


@dataclass(frozen=True)
class _Keyless:
    """A model that takes images and no key, as other libraries expect it."""

    model: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, key: Key | None = None) -> Tensor:
        logits: Tensor = self.model(images)
        return logits


def _model(model: Callable[..., Tensor]) -> Model:
    """The model as a callable that also accepts a key."""
    call = model.forward if isinstance(model, nn.Module) else model
    try:
        inspect.signature(call).bind(None, None)
    except (TypeError, ValueError):
        return _Keyless(model)
    kept: Model = model
    return kept


def _images(
    recipe: Recipe,
    threat: Threat,
    model: Model,
    source: Model | GradientSources | None,
    x: Tensor,
    labels: Tensor,
    key: Key,
    targeted: bool,
) -> Tensor:
    """The adversarial images of a recipe; `labels` are the true classes, or the targets if `targeted`."""
    attack = recipe(threat)
    if not targeted:
        found: Tensor = attack(_answering(model), x, labels, key, through=_answering(source)).x_adv
        return found
    if not isinstance(attack, GradientAttack) or attack.targets is not None:
        raise InputError(
            "An attack towards given labels must follow gradients and have no targets of its own",
            repr(recipe),
            "Use pgd, mim or another attack that follows gradients.",
        )
    with torch.no_grad():
        answers = model(x, key.fold("answer")).argmax(-1)
    out, rows = x.clone(), (answers != labels).nonzero().flatten()
    if len(rows):
        aimed = replace(attack, targets=_Each(labels[rows]), stop_when_fooled=False)
        now = key.take(rows)
        out[rows] = aimed(model, x[rows], answers[rows], now, through=source).x_adv  # type: ignore[arg-type]
    return out


@dataclass(frozen=True)
class AsTorchattacks:
    """One of our recipes with the interface of Torchattacks: `attack(images, labels)` returns images.

    Args:
        model: maps images to logits, in eval mode; any module that can be called as `model(images)`.
        recipe: the attack.
        threat: norm and budget.
        key: randomness; calls with the same key make the same draws.
        targeted: whether labels are the target classes, as in `set_mode_targeted_by_label`.

    Shapes:
        images `[B, *F]` in [0, 1], labels `[B]` -> images `[B, *F]`, on the device of the model

    Raises:
        InputError: the attack refuses what it is called with, or a targeted call asks for an attack that does
            not follow gradients or has targets of its own.

    Example:
        >>> from spikeproof.attacks.gradient.plain import FGSM
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> attack = AsTorchattacks(model, FGSM(), Linf(0.1))
        >>> attack(torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 0])).shape
        torch.Size([3, 1, 2, 2])

    Source:
        Kim 2020 (Torchattacks), the interface of `torchattacks.attack.Attack`.
    """

    model: Callable[..., Tensor]
    recipe: Recipe
    threat: Threat
    key: Key = Key.of(0)
    targeted: bool = False

    def __call__(self, images: Float[Tensor, "B *F"], labels: Int64[Tensor, "B"]) -> Float[Tensor, "B *F"]:
        check_tensors(images=images, labels=labels)
        model = _model(self.model)
        weights = list(self.model.parameters()) if isinstance(self.model, nn.Module) else []
        device = weights[0].device if weights else images.device
        x, y = images.detach().to(device), labels.detach().to(device)
        source = through(self.model, self.recipe)
        return _images(self.recipe, self.threat, model, source, x, y, self.key, self.targeted)


def _wants_twin(recipe: Recipe) -> bool:
    return any(
        isinstance(each, (Through, RateTwin))
        or (isinstance(each, SpikeCompatible) and each.raised != 1)
        or (isinstance(each, GradientRecipe) and (each.surrogate is not None or each.backward is not None))
        for each in members_of([recipe])
    )


@dataclass(frozen=True)
class _Unit:
    """A Foolbox model on images in [0, 1]."""

    foolbox: Callable[[Tensor], Tensor]
    low: float
    width: float

    def __call__(self, images: Tensor, key: Key | None = None) -> Tensor:
        logits: Tensor = self.foolbox(self.low + self.width * images)
        return logits


@dataclass(frozen=True)
class AsFoolbox:
    """One of our recipes with the interface of Foolbox: `attack(model, inputs, criterion, epsilons=…)`.

    The call returns raw images, images clipped to the budget, and success. If `epsilons` is a list, the
    images come as lists with one entry per epsilon, and success gets a leading axis of epsilons. Success is
    defined as in Foolbox: of several classes with the largest logit, the first one is the answer. A recipe
    that searches for the nearest adversarial image runs one search for all epsilons, and `epsilons=None`
    returns its result; any other recipe runs once for each epsilon.

    Args:
        recipe: the attack; it takes its gradients from the model that it attacks.
        norm: the threat, such as `Linf`.
        key: randomness; calls with the same key make the same draws.

    Shapes:
        inputs `[B, *F]` within the model's bounds, criterion the labels `[B]`, `Misclassification` or
        `TargetedMisclassification` -> `[B, *F]`, `[B, *F]`, `[B]`

    Raises:
        InputError: the attack refuses what it is called with, the criterion is of another kind, or epsilon
            is missing for a recipe that needs one.

    Source:
        Rauber et al. 2017, 2020 (Foolbox), the interface of `foolbox.attacks.base.Attack`.
    """

    recipe: Recipe
    norm: type[Linf] | type[L2] | type[L1] | type[L0] = Linf
    key: Key = Key.of(0)

    def __post_init__(self) -> None:
        if self.norm not in (Linf, L2, L1, L0):
            raise InputError("A norm for Foolbox is Linf, L2, L1 or L0", repr(self.norm), "Use Linf.")
        if _wants_twin(self.recipe):
            raise InputError(
                "An attack with Foolbox's interface takes its gradients from the model that it attacks",
                repr(self.recipe),
                "Leave out surrogate and backward, or wrap a twin made by spikeproof.substitute().",
            )

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any) -> tuple[Any, Any, Any]:
        low, high = (float(bound) for bound in model.bounds)
        unit, raw = _Unit(model, low, high - low), getattr(inputs, "raw", inputs)
        labels, targeted = _labels(criterion)
        check_tensors(images=raw, labels=labels)
        x = ((raw.detach() - low) / unit.width).clamp(0, 1)
        listed = isinstance(epsilons, Iterable)
        if listed and not len(epsilons := list(epsilons)):
            raise InputError(
                "A list of epsilons holds at least one", "an empty list", "Try epsilons=[8 / 255]."
            )
        sizes = [None if e is None else float(e) for e in (epsilons if listed else [epsilons])]
        made = self._made(unit, x, labels, sizes, targeted)
        found = [self._answer(unit, raw, x, labels, targeted, *each) for each in made]
        restored = [(_like(inputs, a), _like(inputs, b), _like(inputs, c)) for a, b, c in found]
        if not listed:
            return restored[0]
        raws, clipped, _ = ([each[i] for each in restored] for i in range(3))
        return raws, clipped, _like(inputs, torch.stack([success for _, _, success in found]))

    def _made(
        self, unit: _Unit, x: Tensor, labels: Tensor, sizes: list[float | None], targeted: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Raw and clipped images in [0, 1], one pair per epsilon."""
        threats = [None if size is None else self.norm(self._unit(size, unit)) for size in sizes]
        if isinstance(self.recipe, NormRecipe) and not targeted:
            search = MinimumNorm(self.norm(self._unit(1.0, unit)), self.recipe, stop=False)
            self.recipe.check_threat(search.threat)
            near = search.search(_answering(unit), x, labels, self.key).x_adv
            return [(near, near if threat is None else threat.project(near, x)) for threat in threats]
        if None in threats:
            raise InputError(
                f"{type(self.recipe).__name__} does not search for the nearest image, so it needs an epsilon",
                "epsilons=None",
                "Name epsilons, or use deepfool, fab or another search for the nearest image.",
            )
        made = [
            _images(self.recipe, threat, unit, None, x, labels, self.key, targeted)
            for threat in threats
            if threat is not None
        ]
        return [(each, each) for each in made]

    def _unit(self, epsilon: float, unit: _Unit) -> float:
        return epsilon if self.norm is L0 else epsilon / unit.width

    def _answer(
        self, unit: _Unit, raw: Tensor, x: Tensor, labels: Tensor, targeted: bool, near: Tensor, cut: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            right = unit(cut).argmax(-1) == labels
        as_theirs = [torch.where(each == x, raw, unit.low + unit.width * each) for each in (near, cut)]
        return as_theirs[0], as_theirs[1], right if targeted else ~right


def _labels(criterion: Any) -> tuple[Tensor, bool]:
    """The classes that a criterion names, and whether they are targets."""
    for name, targeted in (("labels", False), ("target_classes", True)):
        if hasattr(criterion, name):
            return getattr(getattr(criterion, name), "raw", getattr(criterion, name)), targeted
    labels = getattr(criterion, "raw", criterion)
    if not isinstance(labels, Tensor):
        raise InputError(
            "A criterion is a tensor of labels, Misclassification or TargetedMisclassification",
            type(criterion).__name__,
            "Pass the labels.",
        )
    return labels, False


def _like(inputs: Any, tensor: Tensor) -> Any:
    """Convert a tensor to the kind of the inputs: a tensor of PyTorch or of EagerPy."""
    return tensor if isinstance(inputs, Tensor) else library("eagerpy").astensor(tensor)
