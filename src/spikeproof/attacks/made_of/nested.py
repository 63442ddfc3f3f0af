"""Nested sweeps over epsilon: the attack at the next larger budget begins with the images of the smaller one.

An image that fools the model within a budget is also a member of every larger budget. So only the examples
that have not fallen are attacked again, from the images at which the previous search ended. Robust accuracy
then cannot rise with epsilon. Since such a rise is a sign of weak attacks, numbers from nested sweeps are
marked wherever they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.foundlevels import LevelSearchAttack
from spikeproof.attacks.answers.queries import Square
from spikeproof.attacks.answers.reachable import EncoderAware
from spikeproof.attacks.made_of.composite import Ensemble, GradientSources
from spikeproof.attacks.made_of.stand_in import FittedSearch
from spikeproof.attacks.recipe import Attack
from spikeproof.attacks.search import GradientAttack, Result, smallest_batch
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, attack_call

__all__ = ["Carried", "Nested", "going_on"]


@dataclass(frozen=True, eq=False)
class Carried:
    """The images of the smaller budget, by the identity of their example, as starts for the larger budget.

    Args:
        ids: identities of the examples, which are the rows of a key.
        images: one image for each example.
    """

    ids: Int64[Tensor, "N"]
    images: Float[Tensor, "N *F"]

    def of(self, key: Key, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The images of the examples in a batch.

        Raises:
            InputError: the key does not name the examples, or it names other examples.
        """
        indices = {example: index for index, example in enumerate(self.ids.tolist())}
        rows = key.rows if key.rows is not None else ()
        if len(rows) != len(x) or not all(row in indices for row in rows):
            raise InputError(
                "Images of a smaller budget belong to examples that the key names",
                f"{len(x)} images and a key for {'none' if key.rows is None else len(rows)}",
                "Pass key.for_rows(ids) with ids of the smaller budget's examples.",
            )
        chosen = torch.tensor([indices[row] for row in rows], dtype=torch.int64, device=self.images.device)
        return self.images[chosen].to(x.device, x.dtype)

    def __call__(self, threat: Threat, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """The start of a run within a larger budget."""
        return threat.project(self.of(key, x), x)


def going_on(attack: Attack, carried: Carried) -> Attack:
    """The attack, begun at the carried images if it is a search from given images."""
    if not isinstance(attack, (Square, EncoderAware, LevelSearchAttack, FittedSearch)):
        return attack
    begun: Attack = replace(attack, start=carried)
    return begun


@dataclass(frozen=True, eq=False)
class _Unchanged:
    """An attack that returns the carried images."""

    carried: Carried

    @attack_call
    def __call__(
        self, model: Model, x: Tensor, y: Tensor, key: Key, *, through: Model | None = None
    ) -> Result:
        none = torch.zeros_like(y)
        images = self.carried.of(key, x)
        return Result(images, none > 0, x.new_zeros(0, len(x)), none, none, none.to(x.dtype), none - 1)


@dataclass(frozen=True, eq=False)
class Nested:
    """An attack on the examples that did not fall at a smaller budget, from the images found there.

    The first run of a gradient attack begins at the images of the smaller budget, and its restarts begin as
    usual; so do other attacks. On a stochastic model, where an image fools the model with some probability,
    every example is attacked again, and the image of the smaller budget is kept where it fools more often.

    Args:
        attack: the attack within the larger budget.
        carried: the images of the smaller budget.
    """

    attack: Attack
    carried: Carried
    nested: ClassVar[bool] = True

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
        """Attack `model`, with gradients from `through`.

        Raises:
            InputError: the key does not name the examples.
        """
        members: list[Attack] = [self.attack]
        if isinstance(self.attack, GradientAttack):
            members = [replace(self.attack, start=self.carried, restarts=1)]
            if self.attack.restarts > 1:
                members.append(replace(self.attack, restarts=self.attack.restarts - 1))
        gradient_sources = GradientSources((None, *(through for _ in members)))
        return Ensemble((_Unchanged(self.carried), *members))(model, x, y, key, through=gradient_sources)
