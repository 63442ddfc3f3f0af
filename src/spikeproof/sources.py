"""Which model a recipe's gradients come from: the attacked one itself, or a twin with the same spikes."""

from __future__ import annotations

from typing import Any

from spikeproof.attacks.recipes import GradientRecipe, Recipe, Through
from spikeproof.network import Classifier, substitute

__all__ = ["through"]


def through(model: Any, recipe: Recipe) -> Classifier | None:
    """The twin that gives the recipe's gradients, or None where the model itself does.

    Args:
        model: a `Classifier`; any model where the recipe asks for no substitute.
        recipe: the attack.

    Raises:
        InputError: the substitute does not fit the model.
    """
    if isinstance(recipe, Through):
        recipe.gradient.check(model.spec.neuron)
        return substitute(through(model, recipe.attack) or model, unroll=recipe.gradient)
    if not isinstance(recipe, GradientRecipe) or (recipe.surrogate is None and recipe.backward is None):
        return None
    return substitute(model, spike=recipe.surrogate, backward=recipe.backward)
