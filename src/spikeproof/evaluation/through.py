"""Gradient sources of recipes: the attacked model, a twin with the same spikes, or its rate twin."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.attacks.events.eventsteps import SpikeCompatible
from spikeproof.attacks.gradient.plain import Through
from spikeproof.attacks.gradient.universal import Perturbed, Universal
from spikeproof.attacks.made_of.composite import Chosen, Composite, GradientSources, RateTwin, WorstOf
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.physical.onepatch import UniversalPatch
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.attacks.search import evaluator
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks.architecture import Architecture
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.recurrent import is_recurrent
from spikeproof.networks.substitute import Substitutable, substitute
from spikeproof.neurons import Integrator, Neuron, Spiking, Synapse
from spikeproof.protocols import (
    Keep,
    Model,
    Threat,
    check_key,
    check_kind_of_threat,
    check_tensors,
    kept_under,
    unkept,
)

__all__ = [
    "Choice",
    "RateNetwork",
    "check_rates",
    "made_on",
    "raised",
    "rate_twin",
    "settled",
    "strongest",
    "through",
    "validated",
]


def through(
    model: Model, recipe: Recipe
) -> Classifier | Substitutable | RateNetwork | GradientSources | None:
    """The gradient source of a recipe, or None if it is the model itself.

    Args:
        model: a `Classifier` or a wrapped network; any model if the recipe names no substitute.
        recipe: the attack; a recipe of several attacks gets `GradientSources`, one for each member.

    Raises:
        InputError: the substitute does not fit the model.
    """
    if isinstance(recipe, Composite):
        sources = GradientSources(tuple(through(model, member) for member in recipe.members))
        return None if all(source is None for source in sources.models) else sources
    if isinstance(recipe, RateTwin):
        return rate_twin(_layered(_twin(model, recipe.attack) or model, recipe))
    if isinstance(recipe, Through):
        recipe.check(model)
        return substitute(_twin(model, recipe.attack) or model, unroll=recipe.gradient)
    if isinstance(recipe, SpikeCompatible) and recipe.raised != 1:
        return raised(_layered(_twin(model, recipe) or model, recipe), recipe.raised)
    return _twin(model, recipe)


def _layered(model: object, recipe: Recipe) -> Classifier:
    """The model, if its layers are ours.

    Raises:
        InputError: they are not.
    """
    if isinstance(model, Classifier):
        return model
    raise InputError(
        "Gradients of the same weights in other layers need a network of spikeproof",
        f"{recipe!r} for {type(model).__name__}",
        "Wrap the network with convert=True, or leave out this attack.",
    )


def made_on(other: Model, recipe: Transfer) -> GradientSources:
    """The argument `through` of a transfer attack: another model, and the gradient source for it.

    Args:
        other: the model on which images are made.
        recipe: the transfer attack.

    Raises:
        InputError: a substitute does not fit the other model.
    """
    return GradientSources((other, through(other, recipe.attack)))


def _twin(model: Model, recipe: Recipe) -> Classifier | Substitutable | None:
    """The twin with the surrogate and the backward rule of a recipe, or None if the recipe names neither."""
    if not isinstance(recipe, GradientRecipe) or (recipe.surrogate is None and recipe.backward is None):
        return None
    twin: Classifier | Substitutable = substitute(model, spike=recipe.surrogate, backward=recipe.backward)
    return twin


def raised(model: Classifier, times: float) -> Classifier:
    """A gradient source with the same weights and a higher threshold in the last hidden layer.

    It shares every tensor with the model but fires less often, so it never gives a verdict.

    Args:
        model: a network with a hidden layer of neurons that compare with a threshold.
        times: factor by which the threshold is raised, positive.

    Raises:
        InputError: the model has no such layer.

    Source:
        Liang et al. 2020, section III-D, which raises it from 0.3 to 1.0.
    """
    twin = substitute(model)
    *hidden, _ = twin.network.layers
    layers = [each for layer in hidden for each in layer.modules() if isinstance(each, Spiking)]
    if not layers or not hasattr(layers[-1].neuron, "threshold"):
        raise InputError(
            "A threshold is raised in the last hidden layer of spiking neurons",
            f"{model.spec.network!r} with {model.spec.neuron!r}",
            "Leave out the option raised.",
        )
    neuron: Any = layers[-1].neuron
    layers[-1].neuron = replace(neuron, threshold=times * neuron.threshold)
    twin.lineage = object()  # it answers otherwise
    return twin


class RateNetwork(nn.Module):
    """The rate twin of a model, made by `rate_twin`: images to the mean input of its output layer.

    Shapes:
        images `[B, C, H, W]` in [0, 1] -> logits `[B, K]`
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.classifier = model

    @property
    def stochastic(self) -> bool:
        """Whether equal images can get different logits."""
        return self.classifier.stochastic

    def forward(self, images: Float[Tensor, "B C H W"], key: Key | None = None) -> Float[Tensor, "B K"]:
        rates = self.classifier.encode(images, key).mean(0, keepdim=True)
        neurons: Tensor = self.classifier.respond(rates)[0]
        classes = self.classifier.spec.classes
        return neurons if neurons.shape[-1] == classes else neurons.view(len(neurons), classes, -1).mean(-1)


def check_rates(network: Architecture, neuron: Neuron) -> None:
    """Refuse a model that has no rate twin.

    Raises:
        InputError: neurons do not spike or have one spike time each, or layers receive their own past output.
    """
    if not neuron.spiking or getattr(neuron, "timed", False) or is_recurrent(network, neuron):
        raise InputError(
            "A rate twin stands for feed-forward layers of neurons that fire step by step",
            f"{network!r} with {neuron!r}",
            "Attack this model with its own gradients.",
        )


def rate_twin(model: Classifier) -> RateNetwork:
    r"""The ANN of the same weights: rectified linear units on the mean input over time.

    .. math:: r = \max(0, \bar I / \theta)

    replaces every spiking layer. Synapses, which do not change the mean, are left out, and the output layer
    returns its mean current. The twin shares every tensor with the model but answers otherwise. It therefore
    serves as a gradient source, as another model would, and never gives a verdict.

    Args:
        model: a spiking network, feed-forward.

    Raises:
        InputError: neurons do not spike or have one spike time each, or layers receive their own past output.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.networks.classifier import ModelSpec
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> model = ModelSpec(Direct(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0))
        >>> rate_twin(model)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    Source:
        Ding et al. 2022 (SNN-RAT), whose published code has a rate twin for a threshold of 1 (`Act`).
    """
    check_rates(model.spec.network, model.spec.neuron)
    twin = substitute(model)
    *_, last = twin.network.layers
    for parent in list(twin.network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (Synapse, Integrator)) or child is last:
                setattr(parent, name, nn.Identity())
            elif isinstance(child, Spiking):
                setattr(parent, name, _Rate(getattr(child.neuron, "threshold", 1.0)))
    return RateNetwork(twin).train(model.training)


class _Rate(nn.Module):
    """Rectified linear units, in units of a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        return (current / self.threshold).relu()


class Choice(NamedTuple):
    """The recipe that was chosen, and the results of all candidates on the validation images."""

    recipe: Recipe
    accuracy: tuple[float, ...]
    """Robust accuracy under each candidate."""

    margin: tuple[float, ...]
    """Mean margin of the attacked images under each candidate; among equals, the largest margin is chosen."""


def strongest(
    model: Model,
    recipes: Sequence[Recipe],
    threat: Threat,
    x: Float[Tensor, "N C H W"],
    y: Int64[Tensor, "N"],
    key: Key,
    *,
    draws: int = 4,
    keep: Keep = unkept,
) -> Choice:
    """The recipe with the lowest robust accuracy on validation images, such as among several widths.

    An attack that is chosen on the images on which it is then measured appears stronger than it is, and
    comparisons between models are biased by the number of candidates. Use images of the validation part.

    Args:
        model: the model, in evaluation mode.
        recipes: candidates, at least one.
        threat: the threat with its budget.
        x: validation images.
        y: their labels.
        key: key of the randomness of the attacks and of their verdicts.
        draws: forward passes per attacked image on a stochastic model, at least 1.
        keep: keeps what each candidate leaves.

    Raises:
        InputError: there are no candidates or no images, or a candidate does not fit the model.

    Example:
        >>> from spikeproof.attacks.gradient.plain import PGD
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.gradients import ASSG
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.networks.classifier import ModelSpec
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> from spikeproof.threats import Linf
        >>> model = ModelSpec(Direct(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 3).build(Key.of(0))
        >>> x, y = Key.of(1).uniform((6, 1, 8, 8)), torch.arange(6) % 3
        >>> candidates = [Through(gradient=ASSG(a), attack=PGD(steps=3)) for a in (0.35, 0.425)]
        >>> chosen = strongest(model.eval(), candidates, Linf(0.1), x, y, Key.of(2))
        >>> chosen.recipe in candidates, len(chosen.accuracy)
        (True, 2)
    """
    check_tensors(images=x, labels=y)
    check_key(key)
    check_kind_of_threat(threat)
    if not recipes or not len(x) or draws < 1:
        raise InputError(
            "strongest needs at least one recipe, one image and one draw",
            f"{len(recipes)} recipes, {len(x)} images, draws={draws}",
            "Pass candidates and images of the validation part.",
        )
    draws = draws if getattr(model, "stochastic", False) else 1
    accuracy, margin = [], []
    for number, recipe in enumerate(recipes):
        left = keep(f"candidate {number}", functools.partial(_left, model, recipe, threat, x, y, key, draws))
        accuracy.append(left[0])
        margin.append(left[1])
    ranks = [(accuracy[i], -margin[i]) for i in range(len(recipes))]
    return Choice(recipes[ranks.index(min(ranks))], tuple(accuracy), tuple(margin))


def _left(
    model: Model, recipe: Recipe, threat: Threat, x: Tensor, y: Tensor, key: Key, draws: int
) -> tuple[float, float]:
    """The accuracy that a candidate leaves, and the mean margin.

    All candidates use the same key, so that their difference is not due to luck.
    """
    found = recipe(threat)(model, x, y, key.fold("attack"), through=through(model, recipe))
    with torch.no_grad():
        answers = [evaluator(model, Margin(), y)(found.x_adv, key.fold("verdict", i)) for i in range(draws)]
    accuracy = 1 - sum(fooled.mean().item() for _, fooled in answers) / draws
    return accuracy, sum(value.mean().item() for value, _ in answers) / draws


def validated(recipe: Recipe) -> int:
    """The number of validation images that the choices within a recipe need.

    Example:
        >>> from spikeproof.attacks.gradient.plain import PGD
        >>> validated(WorstOf(attacks=(PGD(), Chosen(attacks=(PGD(),), images=50)))), validated(PGD())
        (50, 0)
    """
    own = recipe.images if isinstance(recipe, (Chosen, Universal, UniversalPatch)) else 0
    inner = recipe.members if isinstance(recipe, Composite) else ()
    return max((own, *map(validated, inner)))


def settled(
    model: Model,
    recipe: Recipe,
    threat: Threat,
    x: Float[Tensor, "N C H W"],
    y: Int64[Tensor, "N"],
    key: Key,
    *,
    draws: int = 4,
    keep: Keep = unkept,
) -> tuple[Recipe, list[Choice]]:
    """The recipe with every `Chosen` in it replaced by its strongest candidate, and these choices.

    A universal patch gets its pattern, which is trained on these images, and a `Universal` is replaced by the
    perturbation that it makes on them.

    Args:
        model: the model, in evaluation mode.
        recipe: any recipe; a recipe without `Chosen` and `Universal` is returned unchanged.
        threat: the threat with its budget.
        x: validation images, of which each choice and each perturbation uses its own number.
        y: their labels.
        key: key of the randomness of the attacks and of their verdicts.
        draws: forward passes per attacked image on a stochastic model, at least 1.
        keep: keeps what each candidate leaves, and each trained pattern or perturbation.

    Raises:
        InputError: in the cases of `strongest`.

    Example:
        >>> from spikeproof.attacks.gradient.plain import PGD
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.networks.classifier import ModelSpec
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> from spikeproof.threats import Linf
        >>> model = ModelSpec(Direct(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 3).build(Key.of(0))
        >>> x, y = Key.of(1).uniform((6, 1, 8, 8)), torch.arange(6) % 3
        >>> recipe = Chosen(attacks=(PGD(steps=1), PGD(steps=3)))
        >>> found, choices = settled(model.eval(), recipe, Linf(0.1), x, y, Key.of(2))
        >>> found in recipe.attacks, len(choices)
        (True, 1)
    """
    if isinstance(recipe, UniversalPatch) and recipe.pattern is None:
        few = slice(recipe.images)
        train = functools.partial(recipe.trained, model, threat, x[few], y[few], key.fold("patch"))
        found = keep("patch", lambda: train().pattern)
        return replace(recipe, pattern=tuple(found or ())), []
    if isinstance(recipe, Chosen):
        fitting = [member for member in recipe.attacks if member.suits(model)]
        known, choices = [], list[Choice]()
        for number, member in enumerate(fitting):
            under = kept_under(keep, f"choice {number}")
            inner, more = settled(model, member, threat, x, y, key.fold("inner"), draws=draws, keep=under)
            known.append(inner)
            choices += more
        few = slice(recipe.images)
        best = strongest(model, known, threat, x[few], y[few], key, draws=draws, keep=keep)
        return best.recipe, [*choices, best]
    if isinstance(recipe, WorstOf):
        pairs = [
            settled(model, each, threat, x, y, key.fold(i), draws=draws, keep=kept_under(keep, f"member {i}"))
            for i, each in enumerate(recipe.attacks)
        ]
        return replace(recipe, attacks=tuple(r for r, _ in pairs)), [c for _, found in pairs for c in found]
    if isinstance(recipe, Universal):
        few = slice(recipe.images)
        source = through(model, recipe)
        assert not isinstance(source, GradientSources)  # a recipe of its own has one gradient source
        make = functools.partial(
            recipe.craft, model, threat, x[few], y[few], key.fold("universal"), through=source
        )
        return Perturbed(keep("universal perturbation", lambda: make().delta)), []
    return recipe, []
