"""Attacks of other libraries, and of a paper, by threat: what our suites are compared with.

Torchattacks and Foolbox come with the extra `peers`; AutoAttack (`pip install
git+https://github.com/fra31/auto-attack`) and `adv-lib` are needed for L1 and L0 only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import foolbox
import torchattacks
from published_assg import assg_sa_pgd
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Threat
from spikeproof.threats import L0, L1, Linf

__all__ = ["Opponent", "opponents"]

Opponent = Callable[[Tensor, Tensor], Tensor]
"""Images and labels to images that should be adversarial."""


def opponents(model: Classifier, threat: Threat) -> dict[str, Opponent]:
    """Attacks by name; settings that a name does not mention are the library's defaults.

    Args:
        model: what is attacked.
        threat: its budget.

    Raises:
        InputError: no opponents are known for this threat.
    """
    for kind, found in {Linf: _linf, L1: _l1, L0: _l0}.items():
        if isinstance(threat, kind):
            return found(model, threat.epsilon)
    raise InputError("Opponents are known for linf, l1 and l0", repr(threat), "Try linf.")


def _linf(model: Classifier, epsilon: float) -> dict[str, Opponent]:
    classes = model.spec.classes
    fab = partial(torchattacks.FAB, model, norm="Linf", eps=epsilon, n_classes=classes)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)

    def of_foolbox(attack: foolbox.attacks.base.MinimizationAttack) -> Opponent:
        return lambda x, y: attack(wrapped, x, y, epsilons=epsilon)[1]

    found: dict[str, Opponent] = {
        "Torchattacks APGD-CE, 5 x 100 steps": torchattacks.APGD(
            model, eps=epsilon, steps=100, n_restarts=5, loss="ce"
        ),
        "Torchattacks APGD-T, 9 x 100 steps": torchattacks.APGDT(
            model, eps=epsilon, steps=100, n_classes=classes
        ),
        "Torchattacks FAB-T, 9 x 20 steps": fab(steps=20, multi_targeted=True),
        "Torchattacks Square, 5,000 queries": torchattacks.Square(model, eps=epsilon, n_queries=5000),
        "Foolbox PGD, 40 steps": of_foolbox(foolbox.attacks.LinfPGD(steps=40)),
        "Foolbox DeepFool, 50 steps": of_foolbox(foolbox.attacks.LinfDeepFoolAttack(steps=50)),
    }
    if model.spec.neuron.spiking:
        for strength in (0.39, 0.46):
            name = f"ASSG {strength}, SA-PGD, 100 steps"
            found[name] = partial(assg_sa_pgd, model, epsilon=epsilon, strength=strength)
    return found


def _lenient(model: Classifier) -> Callable[[Tensor], Tensor]:
    """The model, to which values that rounding brought just outside [0, 1] are shown clipped."""
    return lambda x: model(x + (x.clamp(0, 1) - x).detach())


def _l1(classifier: Classifier, epsilon: float) -> dict[str, Opponent]:
    from adv_lib.attacks.fast_minimum_norm import fmn
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from autoattack.square import SquareAttack

    model = _lenient(classifier)
    given = {"norm": "L1", "eps": epsilon, "device": "cpu", "seed": 0}
    targeted = APGDAttack_targeted(
        model, n_iter=100, n_target_classes=min(5, classifier.spec.classes - 1), use_largereps=True, **given
    )
    return {
        "AutoAttack APGD-CE, 5 x 100 steps": APGDAttack(
            model, n_iter=100, n_restarts=5, use_largereps=True, **given
        ).perturb,
        "AutoAttack APGD-T, 5 x 100 steps": targeted.perturb,
        "AutoAttack Square, 5,000 queries": SquareAttack(
            model, p_init=0.8, n_queries=5000, resc_schedule=False, **given
        ).perturb,
        "adv-lib FMN, 500 steps": lambda x, y: fmn(model, x, y, norm=1, steps=500),
    }


def _l0(classifier: Classifier, epsilon: float) -> dict[str, Opponent]:
    from adv_lib.attacks.fast_minimum_norm import fmn
    from adv_lib.attacks.sigma_zero import sigma_zero

    model = _lenient(classifier)
    return {
        "adv-lib sigma-zero, 1,000 steps": lambda x, y: sigma_zero(model, x, y, num_steps=1000),
        "adv-lib FMN, 500 steps": lambda x, y: fmn(model, x, y, norm=0, steps=500),
    }
