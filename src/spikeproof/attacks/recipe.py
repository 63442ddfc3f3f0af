"""Attacks by the names of the papers: each a frozen dataclass that, given a threat, names its parts.

A recipe knows nothing of a model. `surrogate` and `backward` ask for gradients through a substitute of the
model with that spike function or that backward rule of the encoder, and `Through` for those of another
gradient rule; whoever runs the recipe makes the twin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from spikeproof.attacks.search import Result
from spikeproof.encoders import BackwardRule, with_backward
from spikeproof.errors import InputError
from spikeproof.losses import LogitCrossEntropy, Objective, Watching
from spikeproof.protocols import Threat, check_kind_of_threat
from spikeproof.surrogates import Surrogate

__all__ = ["Attack", "GradientRecipe", "Made", "Recipe", "made"]

Attack = Callable[..., Result]
"""`attack(model, x, y, key, *, through=None) -> Result`."""


class Made(NamedTuple):
    """Where an attack comes from: the recipe, and the threat that it was made for."""

    recipe: Recipe
    threat: Threat


def made(attack: Attack) -> Made | None:
    """The recipe and the threat of an attack, or None for an attack that no recipe made.

    Example:
        >>> from spikeproof.attacks.gradient.plain import PGD
        >>> from spikeproof.threats import Linf
        >>> made(PGD(steps=5)(Linf(0.1))).threat
        Linf(epsilon=0.1)
    """
    found: Made | None = getattr(attack, "made", None)
    inner = getattr(attack, "attack", None)  # of an attack that carries another, such as a nested one
    return found if found is not None or inner is None else made(inner)


def _remembering(make: Callable[[Any, Threat], Attack]) -> Callable[[Any, Threat], Attack]:
    """A recipe's call whose attack knows where it comes from, so that its gradients can be asked for."""

    @functools.wraps(make)
    def call(self: Recipe, *given: Any, **named: Any) -> Attack:
        threat = named.get("threat", *given[:1]) if len(given) < 2 else None
        if len(given) + len(named) != 1 or threat is None:
            raise InputError(
                f"{type(self).__name__} is a recipe: called with a threat, it gives an attack",
                f"{len(given) + len(named)} arguments",
                f"Try {type(self).__name__}(...)(Linf(8 / 255))(model, x, y, key).",
            )
        check_kind_of_threat(threat)
        attack = make(self, threat)
        object.__setattr__(attack, "made", Made(self, threat))
        return attack

    return call


class Recipe:
    """A named attack, waiting for its threat; the attack remembers both."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _remembering(cls.__call__)  # type: ignore[assignment, method-assign]

    gradient_free: ClassVar[bool] = False
    for_stochastic: ClassVar[bool] = False  # adds nothing on a model without randomness
    goes_on: ClassVar[bool] = False  # in a suite, begins where members before it came nearest

    def suits(self, model: object) -> bool:
        """Whether it can add anything on this model, or on a candidate with this `encoder`."""
        encoder = getattr(model, "encoder", model)
        return (not self.for_stochastic or bool(getattr(encoder, "stochastic", False))) and self.reads(model)

    def reads(self, model: object) -> bool:
        """Whether its objective has anything to say about this model, or a candidate with this `decoder`."""
        return True

    def check(self, model: object) -> None:
        """Whether it is defined on this model, or on a candidate with these parts.

        Raises:
            InputError: it is not.
        """

    def __call__(self, threat: Threat) -> Attack:
        """The attack within this threat."""
        raise NotImplementedError(f"{type(self).__name__} names no attack")


@dataclass(frozen=True, kw_only=True)
class GradientRecipe(Recipe):
    """A gradient attack; its gradients may be taken through a substitute of the model.

    Args:
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.
    """

    objective: Objective = LogitCrossEntropy()
    surrogate: Surrogate | None = None
    backward: BackwardRule | None = None

    def reads(self, model: object) -> bool:
        decoder = getattr(getattr(model, "spec", model), "decoder", None)
        if decoder is None:
            return not isinstance(self.objective, Watching)
        return self.objective.suits(decoder)

    def check(self, model: object) -> None:
        if self.backward is not None:
            spec: Any = getattr(model, "spec", model)  # of a classifier, or of a candidate with its parts
            with_backward(spec.encoder, self.backward)
