"""Rehearsals: running an attack on a tiny linear model before training, to see whether it fits the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.gradient.universal import Universal
from spikeproof.attacks.made_of.composite import Chosen, WorstOf, members_of
from spikeproof.attacks.made_of.stored_images import StoredImages
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.physical.onepatch import UniversalPatch
from spikeproof.attacks.recipe import Recipe
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Suite
from spikeproof.interop.peers import Peer
from spikeproof.keys import Key
from spikeproof.protocols import Threat, moves_events

__all__ = ["rehearse"]


@dataclass(frozen=True)
class _Linear:
    """Logits that are linear in the image, of the sizes of the data."""

    shape: tuple[int, ...]
    classes: int
    weights: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = int(torch.tensor(self.shape).prod())
        object.__setattr__(
            self, "weights", Key.of(0).fold("rehearsal").normal((size, self.classes), 0, "cpu")
        )

    def __call__(self, images: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "B K"]:
        return images.flatten(1) @ self.weights.to(images.dtype)


def rehearse(recipe: Recipe, threat: Threat, shape: Sequence[int], classes: int) -> None:
    """Run an attack on two grey images that a linear model misclassifies, which takes few forward passes.

    Attacks on events, attacks on several models, patches and perturbations that are yet to be made, and
    attacks of other libraries are not rehearsed. Of several attacks in one, each is rehearsed. Of stored
    images only the shape is compared.

    Args:
        recipe: the attack.
        threat: its budget.
        shape: channels, height, width.
        classes: number of classes.

    Raises:
        InputError: the attack does not work on images of this shape or on so many classes.

    Example:
        >>> from spikeproof.attacks.gradient.iterated import APGDT
        >>> from spikeproof.threats import Linf
        >>> rehearse(APGDT(), Linf(0.1), (1, 2, 2), 10)
    """
    if isinstance(recipe, Chosen | WorstOf):
        for member in recipe.attacks:
            rehearse(member, threat, shape, classes)
        return
    if isinstance(recipe, StoredImages):
        recipe.check_shape(shape)
        return
    if moves_events(threat) or any(
        isinstance(each, (Transfer, Suite, Peer, Universal, UniversalPatch)) for each in members_of([recipe])
    ):
        return
    model = _Linear(tuple(shape), classes)
    if not recipe.suits(model):
        return
    x = torch.full((2, *shape), 0.5)
    y = model(x).argmin(1)
    try:
        recipe(threat)(model, x, y, Key.of(0).fold("rehearsal").for_rows(range(2)))
    except InputError as error:
        raise InputError(
            f"{type(recipe).__name__} does not work on images {list(shape)} of {classes} classes: "
            f"{error.expected}",
            error.got,
            error.try_,
        ) from error
