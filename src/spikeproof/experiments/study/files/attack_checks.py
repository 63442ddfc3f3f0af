"""Every attack and analysis of a study file must have something to do on one of its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spikeproof.analysis.spike_analysis import Analysis, SpikeAnalysis
from spikeproof.attacks.made_of.composite import Composite, members_of
from spikeproof.attacks.made_of.stored_images import StoredImages
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.others import AmongModels, EveryOtherModel, Saved
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Suite
from spikeproof.experiments.study.applicable import analysable, check_on, sources_among
from spikeproof.experiments.study.documents import KeyPath
from spikeproof.experiments.study.files.entries import Entries
from spikeproof.experiments.study.owned import Owned
from spikeproof.experiments.study.study import Candidate
from spikeproof.protocols import Threat

__all__ = ["AttackChecks"]


@dataclass(frozen=True)
class AttackChecks(Entries):
    """Refuses attacks and analyses that no model of the study can have.

    Args:
        document: of the study.
        models: of the study.
        seeds: of the study.
        limit: most cells that the study may have.
    """

    models: Sequence[Candidate | Owned]
    seeds: Sequence[int]
    limit: int

    def attack(self, path: KeyPath, attack: Recipe) -> None:
        """An attack is left out for models that it is not defined on, but not for all of them."""
        if isinstance(attack, Composite) and any(
            isinstance(member, Suite) for member in members_of([attack])
        ):
            raise InputError(
                "A suite is a worst case already", "one inside worst-of", "Name it beside worst-of."
            )
        if isinstance(attack, Composite) and any(
            isinstance(member, Transfer | StoredImages) for member in members_of([attack])
        ):
            raise self.error(
                path, "attacks on the model itself", "images made elsewhere", "Name them beside worst-of."
            )
        if isinstance(attack, Transfer):
            self.located(path, lambda: self.transfer(attack))
        refused = None
        for model in self.models:
            try:
                check_on(model, attack)
            except InputError as error:
                refused = refused or error
            else:
                return
        if refused is not None:
            raise InputError(f"{self.document.where(path)}: {refused.expected}", refused.got, refused.try_)

    def analysis(self, path: KeyPath, analysis: Analysis, threats: Sequence[Threat]) -> None:
        """An analysis is left out for models that it is not defined on, but not for all of them."""
        if not any(isinstance(model, Candidate) and analysable(model, analysis) for model in self.models):
            raise self.error(
                path,
                "a feed-forward model of ours in steps of time, on which the attack or the sponge is defined",
                "none",
                "Name another attack: {spikes: {attack: pgd}}, or leave the analysis out. A sponge of steps "
                "needs a decoder with an early exit.",
            )
        if isinstance(analysis, SpikeAnalysis):
            if any(isinstance(member, Suite | Transfer) for member in members_of([analysis.attack])):
                raise self.error(path, "one attack on the model itself", "a suite or a transfer", "Try pgd.")
            for threat in threats:
                self.located(path, lambda threat=threat: analysis.check(threat))  # type: ignore[misc]

    def transfer(self, attack: Transfer) -> None:
        """There must be another model, and an attack that can be run on it alone."""
        if any(isinstance(member, Suite) for member in members_of([attack.attack])):
            raise InputError("Images are made by one attack", "a suite", "Try apgd-ce.")
        if not isinstance(attack.made_on, Saved) and not any(
            True
            for model in self.models
            for _ in sources_among(self.models, self.seeds, model, self.seeds[0], attack)
        ):
            raise InputError(
                "A transfer needs another model of the study on which its attack is defined",
                "none",
                "Add one, or name a saved model: made_on: {saved: {path: …}}.",
            )

    def transfers(self, attacks: Sequence[Recipe], budgets: int) -> None:
        """Refuse transfers between more pairs of models than a study may have cells."""
        cells, models, seeds = 0, list(dict.fromkeys(self.models)), len(self.listed("seeds"))
        for (path, _), attack in zip(self.attacks(), attacks, strict=True):
            if not isinstance(attack, Transfer):
                continue
            choice, pairs = attack.made_on or EveryOtherModel(), len(models)
            if isinstance(choice, AmongModels) and choice.other_seeds:
                pairs = len(models) * (seeds - 1)
            elif isinstance(choice, AmongModels):
                trained = [model for model in models if isinstance(model, Candidate)]
                pairs = (len(models) - 1) * sum(map(choice.takes, trained))
            cells += pairs * seeds * budgets
            if cells > self.limit:
                raise self.error(
                    path,
                    f"a study of at most {self.limit} cells",
                    f"{cells} cells of transfers between {len(models)} models",
                    "Name the models that images are made on (made_on), or allow more with --limit.",
                )
