"""Nested sweeps over epsilon: the next larger budget begins with what the smaller one found.

An image that fools the model within a budget does so within every larger one, so only examples that still
stand are attacked again, and from where the last search ended. Accuracy then cannot rise with epsilon, which
takes away a sign of weak attacks: numbers from nested sweeps are marked as such wherever they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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
    """Images found before, by example: as a start, and as an attack that gives them back.

    Args:
        ids: identities of the examples, the rows of a key.
        images: one for each.
    """

    ids: Int64[Tensor, "N"]
    images: Float[Tensor, "N *F"]

    def of(self, key: Key, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The images of a batch.

        Raises:
            InputError: the key does not say whose images these are, or names others.
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
        """Where a run within a larger budget begins."""
        return threat.project(self.of(key, x), x)


def going_on(attack: Attack, carried: Carried) -> Attack:
    """An attack that has a `start`, begun at carried images; another one as it is."""
    if not isinstance(attack, (Square, EncoderAware, FittedSearch)):
        return attack
    begun: Attack = replace(attack, start=carried)
    return begun


@dataclass(frozen=True, eq=False)
class _Back:
    """The carried images themselves."""

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
    """An attack on the examples that a smaller budget left standing, from where its search ended.

    The first run of a gradient attack begins with the smaller budget's images, its restarts as ever; other
    attacks begin as ever. On a stochastic model, where an image fools by chance, every example is attacked
    again, and the smaller budget's image counts where it fools more often.

    Args:
        attack: within the larger budget.
        carried: what the smaller budget found.
    """

    attack: Attack
    carried: Carried
    nested: ClassVar[bool] = True

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
        return Ensemble((_Back(self.carried), *members))(model, x, y, key, through=gradient_sources)
