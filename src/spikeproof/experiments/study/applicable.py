"""Which attacks, analyses and searches are defined on which models, and what a transfer is made on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from spikeproof.analysis.spike_analysis import Analysis, SpikeAnalysis
from spikeproof.attacks.made_of.composite import RateTwin, members_of
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.others import AmongModels, EveryOtherModel
from spikeproof.errors import InputError
from spikeproof.evaluation.distances import check_search
from spikeproof.evaluation.through import check_rates
from spikeproof.experiments.study.owned import Owned
from spikeproof.experiments.study.study import Candidate, Study
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.recurrent import is_recurrent
from spikeproof.protocols import Model, Threat, takes_events

__all__ = ["analysable", "check_on", "is_defined", "knows", "others", "sources_among", "suits"]


def check_on(model: Candidate | ModelSpec | Owned | Model, attack: Recipe) -> None:
    """Refuse a model that the attack, or one of its members, is not defined on."""
    asked = model.model if isinstance(model, Owned) else model
    attack.check(asked)
    for member in members_of([attack]):
        if isinstance(member, RateTwin) and member.suits(asked):
            if not isinstance(asked, (Candidate, ModelSpec)):
                raise InputError("The rate twin of a model of spikeproof", "a given model", "Leave it out.")
            check_rates(asked.network, asked.neuron)


def suits(model: Candidate | ModelSpec | Owned, attack: Recipe) -> bool:
    """Whether an attack has anything to do on a model."""
    return attack.suits(model.model if isinstance(model, Owned) else model)


def analysable(model: Candidate, analysis: Analysis) -> bool:
    """Whether an analysis has anything to say about a model.

    Args:
        model: of a study.
        analysis: that is asked for.
    """
    if not isinstance(analysis, SpikeAnalysis):
        return True
    counted = not (getattr(model.encoder, "timed", False) or is_recurrent(model.network, model.neuron))
    if analysis.sponge is not None:
        return counted and analysis.sponge.suits(model.decoder)
    return counted and suits(model, analysis.attack) and is_defined(model, analysis.attack)


def others(
    study: Study, model: Candidate | Owned, seed: int, recipe: Transfer
) -> list[tuple[Candidate, int]]:
    """The models, with their seeds, that the images of a transfer to this one are made on.

    Args:
        study: of which they are part.
        model: the judge.
        seed: of the judge.
        recipe: the transfer.
    """
    return list(sources_among(study.models, study.seeds, model, seed, recipe))


def sources_among(
    models: Sequence[Candidate | Owned],
    seeds: Sequence[int],
    model: Candidate | Owned,
    seed: int,
    recipe: Transfer,
) -> Iterator[tuple[Candidate, int]]:
    """The models, with their seeds, among these that the images of a transfer are made on.

    Args:
        models: to choose from.
        seeds: to choose from.
        model: the judge.
        seed: of the judge.
        recipe: the transfer.
    """
    choice = recipe.made_on or EveryOtherModel()
    if not isinstance(choice, AmongModels):
        return
    trained = [each for each in dict.fromkeys(models) if isinstance(each, Candidate)]
    if choice.other_seeds:
        pairs = [(model, each) for each in seeds if each != seed] if isinstance(model, Candidate) else []
    else:
        pairs = [(each, seed) for each in trained if each != model and choice.takes(each)]
    for other, number in pairs:
        alike = isinstance(model, Owned) or takes_events(other.encoder) == takes_events(model.encoder)
        if alike and recipe.attack.suits(other) and is_defined(other, recipe.attack):
            yield other, number


def knows(search: Recipe, norm: Threat) -> bool:
    """Whether a search for the nearest image looks in this norm."""
    try:
        check_search(search, norm)
    except InputError:
        return False
    return True


def is_defined(model: Candidate | Owned, attack: Recipe) -> bool:
    """Whether an attack, with all its members, can be run on a model.

    Args:
        model: of a study.
        attack: that is asked for.
    """
    try:
        check_on(model, attack)
    except InputError:
        return False
    return True
