"""What a recipe is: an attack under the name of its paper, without the threat that it runs within.

A recipe is a frozen dataclass. Called with a threat, it returns the attack, assembled from its parts. A
recipe holds no model. Its fields `surrogate` and `backward` select gradients through a twin of the model
with that spike function or that backward rule of the encoder, and `Through` selects the gradients of another
gradient rule. The caller that runs the recipe makes the twin (`spikeproof.evaluation.through`).
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
    """The recipe that made an attack, and the threat that it was made for."""

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
    inner = getattr(attack, "attack", None)  # the attack inside another one, such as a nested one
    return found if found is not None or inner is None else made(inner)


def _remembering(make: Callable[[Recipe, Threat], Attack]) -> Callable[[Recipe, Threat], Attack]:
    """The call of a recipe, checked, whose attack keeps the recipe and the threat in its field `made`."""

    @functools.wraps(make)
    def call(self: Recipe, *given: Threat, **named: Threat) -> Attack:
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
    """A named attack without its threat; the attack that it returns for a threat keeps both."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        own = vars(cls).get("__call__")
        if own is not None:
            cls.__call__ = _remembering(own)  # type: ignore[assignment, method-assign]

    gradient_free: ClassVar[bool] = False
    for_stochastic: ClassVar[bool] = False  # whether it adds nothing on a deterministic model
    goes_on: ClassVar[bool] = False  # whether a suite starts it at the best images of earlier members

    def suits(self, model: object) -> bool:
        """Whether the attack can add anything on this model, or on a candidate with this `encoder`."""
        encoder = getattr(model, "encoder", model)
        return (not self.for_stochastic or bool(getattr(encoder, "stochastic", False))) and self.reads(model)

    def reads(self, model: object) -> bool:
        """Whether its objective is defined for this model, or for a candidate with this `decoder`."""
        return True

    def check(self, model: object) -> None:
        """Check that the attack is defined on this model, or on a candidate with these parts.

        Raises:
            InputError: the attack is not defined there.
        """

    def __call__(self, threat: Threat) -> Attack:
        """The attack within this threat."""
        raise NotImplementedError(f"{type(self).__name__} defines no attack")


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
            spec: Any = getattr(model, "spec", model)  # a candidate of a study is its own spec
            with_backward(spec.encoder, self.backward)
