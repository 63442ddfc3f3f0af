"""Transfer attacks: images are made on one model and judged on another."""

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

    The attack uses the other model alone, and a gradient search continues after it has fooled that model. If
    a transfer leaves a lower accuracy than attacks on the model itself, the gradients of the model are
    masked, and the audit says so.

    Args:
        attack: the attack that makes the images.
        made_on: the other models, each of which gives a robust accuracy of its own; by default every other
            model of the study with the same seed.

    Raises:
        InputError: the attack is a transfer itself.

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
            raise InputError(
                "Images are made on one model, so a transfer takes no other transfer",
                repr(self.attack),
                "Name the attack inside.",
            )

    def __call__(self, threat: Threat) -> MadeElsewhere:
        return MadeElsewhere(threat, self.attack(threat))


@dataclass(frozen=True)
class MadeElsewhere:
    """An attack on another model, given as `through`.

    Args:
        threat: norm and budget.
        attack: the attack that makes the images.
    """

    threat: Threat
    attack: Attack

    def __post_init__(self) -> None:
        object.__setattr__(self, "attack", to_the_end(self.attack))

    @property
    def batch(self) -> int | None:
        """The batch size that the images of the attack depend on; None where they do not."""
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
        """Make images on `through`, and judge them on `model`.

        Queries and losses are counted on the other model. `model` has one forward pass per example, at the
        end, and an example falls there.

        Args:
            model: the model that judges the images.
            x: images in [0, 1].
            y: labels.
            key: randomness.
            through: the other model, or `GradientSources((other, substitute))` where a substitute of the
                other model gives the gradients.

        Raises:
            InputError: `through` is missing, or the attack refuses it.
        """
        given = through.models if isinstance(through, GradientSources) else (through, None)
        other, twin = cast(tuple[Model | None, Model | None], given)  # no transfer lies within another
        x = admit(model, self.threat, x, y, other)
        if other is None:
            raise InputError(
                "A transfer attack needs the model that images are made on",
                "through=None",
                "Pass through=spikeproof.evaluation.through.made_on(other, recipe).",
            )
        made: Result = self.attack(other, x, y, key.fold("made"), through=twin)
        success = judge(model, made.x_adv, y, key.fold("verdict"))
        verdict = x.new_full((1, len(x)), torch.nan)  # the row of the forward pass of `model`
        losses = torch.cat([made.losses, verdict])
        fell = torch.where(success, len(made.losses), -1)
        return made._replace(success=success, losses=losses, queries=made.queries + 1, fell=fell)


def to_the_end(attack: Attack) -> Attack:
    """The attack, with gradient searches that continue after they fool the other model."""
    if isinstance(attack, Ensemble):
        return replace(attack, attacks=tuple(map(to_the_end, attack.attacks)), stop_when_fooled=False)
    return replace(attack, stop_when_fooled=False) if isinstance(attack, GradientAttack) else attack
