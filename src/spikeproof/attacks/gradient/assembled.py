"""A gradient attack that the user assembles from parts: any oracle, step, schedule, start and targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spikeproof.attacks.parts.oracles import Exact, Expectation, Oracle
from spikeproof.attacks.parts.schedules import Constant, Schedule
from spikeproof.attacks.parts.steps import Step, best_step
from spikeproof.attacks.parts.targets import Targets
from spikeproof.attacks.recipe import GradientRecipe
from spikeproof.attacks.search import GradientAttack
from spikeproof.protocols import Threat

__all__ = ["Assembled"]

_STARTS = {"random": (True, False), "clean": (False, False), "best": (True, True)}
"""Name of a start -> whether the first run starts at random, and later runs at the best image so far."""


@dataclass(frozen=True, kw_only=True)
class Assembled(GradientRecipe):
    """Assembled gradient attack: oracle, step, schedule, start and targets, each given by name.

    With its defaults it is PGD. With an oracle that estimates gradients from logits it is an attack without
    gradients.

    Args:
        steps: number of steps, at least 0.
        reach: number of steps times step size, in epsilons, at least 0.
        oracle: how gradients are computed.
        step: how a gradient leads to the next iterate, or None for the step that suits the threat.
        schedule: sizes of the steps.
        start: `random`, `clean`, or `best`: the first run starts at random, later runs at the best image so
            far.
        restarts: number of runs, at least 1.
        targets: target classes, each with as many runs as there are restarts, or None for an untargeted
            attack.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Example:
        >>> from spikeproof.attacks.parts.schedules import Cosine
        >>> from spikeproof.attacks.parts.steps import Adam
        >>> from spikeproof.threats import Linf
        >>> attack = Assembled(steps=50, step=Adam(), schedule=Cosine(), restarts=3, start="best")(Linf(0.1))
        >>> attack.step, attack.schedule, attack.best_start
        (Adam(first=0.9, second=0.999), Cosine(), True)

    Source:
        The decomposition of Madry et al. 2018, section 2.1, and Croce & Hein 2020 (AutoAttack), section 3.
    """

    steps: int = 40
    reach: float = 2.5
    oracle: Oracle = Exact()
    step: Step | None = None
    schedule: Schedule = Constant()
    start: Literal["random", "clean", "best"] = "random"
    restarts: int = 1
    targets: Targets | None = None

    @property
    def gradient_free(self) -> bool:  # type: ignore[override]
        return self.oracle.estimates

    @property
    def draws(self) -> int:
        """Number of draws of the model's randomness per gradient."""
        return self.oracle.draws if isinstance(self.oracle, Expectation) else 1

    def __call__(self, threat: Threat) -> GradientAttack:
        random, best = _STARTS[self.start]
        return GradientAttack(
            threat,
            self.steps,
            self.reach * threat.epsilon / max(self.steps, 1),
            oracle=self.oracle,
            objective=self.objective,
            restarts=self.restarts,
            random_start=random,
            step=best_step(threat) if self.step is None else self.step,
            schedule=self.schedule,
            best_start=best,
            targets=self.targets,
        )
