"""Transfer: images that are made on one model and judged on another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.made_of.composite import Composite, Ensemble, GradientSources
from spikeproof.attacks.recipe import Attack, Recipe
from spikeproof.attacks.search import GradientAttack, Result, admit, judge, smallest_batch
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, attack_call

__all__ = ["MadeElsewhere", "Others", "Transfer"]


class Others:
    """A choice of the models that images are made on."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Recipe):
    """Transfer attack: images made on other models of the study, or on a saved one, are judged on this one.

    The attack sees the other model alone; a search along gradients does not stop once it has fooled that
    one. If it leaves less standing than attacks on the model itself, their gradients are masked; the audit
    says so.

    Args:
        attack: what makes the images.
        made_on: the other models, each of which gives a number of its own; by default every other model of
            the study with the same seed.

    Raises:
        InputError: a transfer of a transfer.

    Example:
        >>> from spikeproof.threats import Linf
        >>> Transfer(attack=PGD(steps=5))(Linf(0.1)).attack.stop_when_fooled
        False

    Source:
        Papernot, McDaniel & Goodfellow 2016 (arXiv 1605.07277), section 3.
    """

    attack: Recipe = PGD()
    made_on: Others | None = None

    def __post_init__(self) -> None:
        inside = self.attack.members if isinstance(self.attack, Composite) else (self.attack,)
        if any(isinstance(each, Transfer) for each in inside):
            raise InputError("Images are made on one model", repr(self.attack), "Name the attack itself.")

    def __call__(self, threat: Threat) -> MadeElsewhere:
        return MadeElsewhere(threat, self.attack(threat))


@dataclass(frozen=True)
class MadeElsewhere:
    """An attack on another model, given as `through`.

    Args:
        threat: norm and budget.
        attack: what makes the images.
    """

    threat: Threat
    attack: Attack

    def __post_init__(self) -> None:
        object.__setattr__(self, "attack", _to_the_end(self.attack))

    @property
    def batch(self) -> int | None:
        """Examples at a time, where the attack's images depend on that."""
        return smallest_batch(self.attack)

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | GradientSources | None = None,
    ) -> Result:
        """Attack `through`, and judge on `model`.

        Queries and losses are those of the other model; of `model` one answer per example is asked, at the
        end, which is where an example falls.

        Args:
            model: the judge.
            x: images in [0, 1].
            y: labels.
            key: randomness.
            through: the other model, or `GradientSources((other, substitute))` where a substitute of the
                other model gives the gradients.

        Raises:
            InputError: no other model, or one that the attack refuses.
        """
        given = through.models if isinstance(through, GradientSources) else (through, None)
        other, twin = cast(tuple[Model | None, Model | None], given)  # no transfer lies within another
        x = admit(model, self.threat, x, y, other)
        if other is None:
            raise InputError(
                "A transfer attack needs the model that images are made on",
                "none",
                "Pass through=spikeproof.evaluation.through.made_on(other, recipe).",
            )
        made: Result = self.attack(other, x, y, key.fold("made"), through=twin)
        success = judge(model, made.x_adv, y, key.fold("verdict"))
        losses = torch.cat([made.losses, x.new_full((1, len(x)), torch.nan)])  # the look of the judge
        fell = torch.where(success, len(made.losses), -1)
        return made._replace(success=success, losses=losses, queries=made.queries + 1, fell=fell)


def _to_the_end(attack: Attack) -> Attack:
    """The attack, its gradient searches not stopping where they have fooled the other model."""
    if isinstance(attack, Ensemble):
        return replace(attack, attacks=tuple(map(_to_the_end, attack.attacks)), stop_when_fooled=False)
    return replace(attack, stop_when_fooled=False) if isinstance(attack, GradientAttack) else attack
