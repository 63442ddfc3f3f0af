"""Which attacks of other libraries may be named in a study, and with which options.

Each row becomes a small frozen dataclass whose fields are the options of the other library, with that
library's names, units and defaults; nothing outside these tables is ever looked up in a library.
"""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any, ClassVar, Literal

from spikeproof.errors import InputError
from spikeproof.protocols import Threat
from spikeproof.threats import L0, L1, L2, Linf

__all__ = ["FOOLBOX", "TORCHATTACKS", "Foreign", "InFoolbox", "InTorchattacks"]


class Foreign:
    """An attack of another library, by the name and with the options it has there."""

    norms: ClassVar[tuple[type[Threat], ...]] = ()
    gradient_free: ClassVar[bool] = False
    nearest: ClassVar[bool] = False  # looks for the nearest adversarial image and knows no epsilon
    takes: ClassVar[tuple[str, ...]] = ("eps",)  # what the library must be told besides options
    looks: ClassVar[int] = 1  # gradient steps, where no option says how many

    def options(self) -> dict[str, Any]:
        """The options, as the library's keyword arguments."""
        return dict(vars(self))

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of one run."""
        return 0 if self.gradient_free else int(getattr(self, "steps", self.looks))

    def __post_init__(self) -> None:
        for name, value in self.options().items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if (whole and value < 1) or (isinstance(value, float) and value < 0):
                raise InputError(
                    f"{type(self).__name__} needs {name} of at least {1 if whole else 0}",
                    f"{name}={value!r}",
                    "Leave out what you do not need to change.",
                )


class InTorchattacks(Foreign):
    """An attack of Torchattacks."""


class InFoolbox(Foreign):
    """An attack of Foolbox."""


def _row(
    kind: type[Foreign],
    name: str,
    norms: tuple[type[Any], ...],
    says: str,
    *,
    about: dict[str, Any] | None = None,
    choices: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[str, type[Foreign]]:
    """A row: its options with their defaults, the `choices` of texts, and what is to be known `about` it."""
    types = {option: (choices or {}).get(option, type(value)) for option, value in options.items()}
    fields = [(option, types[option], value) for option, value in options.items()]
    known = {"norms": norms, "__doc__": says, "__module__": __name__, **(about or {})}
    return name, make_dataclass(name, fields, bases=(kind,), namespace=known, frozen=True, kw_only=True)


_FREE: dict[str, Any] = {"gradient_free": True}
_NEAREST: dict[str, Any] = {"nearest": True, "takes": ()}
_STEP: dict[str, Any] = {"steps": 10, "alpha": 2 / 255}
_NORMED = ("eps", "norm", "seed")


def _torchattacks() -> dict[str, type[Foreign]]:
    def row(name: str, norms: tuple[type[Any], ...], says: str, **more: Any) -> tuple[str, type[Foreign]]:
        return _row(InTorchattacks, name, norms, says, **more)

    apgd = {"steps": 10, "n_restarts": 1, "rho": 0.75}
    variance = {**_STEP, "decay": 1.0, "N": 5, "beta": 1.5}
    return dict(
        (
            row("FGSM", (Linf,), "Fast gradient sign method, as in Torchattacks."),
            row("FFGSM", (Linf,), "Fast FGSM from a random start, as in Torchattacks.", alpha=10 / 255),
            row("RFGSM", (Linf,), "Steps from a random start in a corner, as in Torchattacks.", **_STEP),
            row("BIM", (Linf,), "Basic iterative method, as in Torchattacks.", **_STEP),
            row("PGD", (Linf,), "PGD, as in Torchattacks.", random_start=True, **_STEP),
            row("PGDL2", (L2,), "PGD in L2, as in Torchattacks.", steps=10, alpha=0.2, random_start=True),
            row("TPGD", (Linf,), "PGD on the KL divergence of TRADES, as in Torchattacks.", **_STEP),
            row("MIFGSM", (Linf,), "Momentum iterative FGSM, as in Torchattacks.", decay=1.0, **_STEP),
            row("NIFGSM", (Linf,), "Nesterov iterative FGSM, as in Torchattacks.", decay=1.0, **_STEP),
            row(
                "SINIFGSM",
                (Linf,),
                "NI-FGSM over scaled images, as in Torchattacks.",
                decay=1.0,
                m=5,
                **_STEP,
            ),
            row("VMIFGSM", (Linf,), "MI-FGSM with tuned variance, as in Torchattacks.", **variance),
            row("VNIFGSM", (Linf,), "NI-FGSM with tuned variance, as in Torchattacks.", **variance),
            row(
                "Jitter",
                (Linf,),
                "PGD on jittered logits, as in Torchattacks.",
                scale=10,
                std=0.1,
                random_start=True,
                **_STEP,
            ),
            row(
                "APGD",
                (Linf, L2),
                "Auto-PGD, as in Torchattacks.",
                loss="ce",
                choices={"loss": Literal["ce", "dlr"]},
                about={"takes": _NORMED},
                **apgd,
            ),
            row(
                "APGDT",
                (Linf, L2),
                "Targeted Auto-PGD, as in Torchattacks.",
                about={"takes": (*_NORMED, "n_classes")},
                **apgd,
            ),
            row(
                "AutoAttack",
                (Linf, L2),
                "AutoAttack, as in Torchattacks.",
                version="standard",
                choices={"version": Literal["standard", "plus"]},
                about={"takes": (*_NORMED, "n_classes"), "looks": 100},
            ),
            row(
                "FAB",
                (Linf, L2),  # its L1 ends in an error, in 3.5.1
                "Fast adaptive boundary attack, as in Torchattacks.",
                steps=10,
                n_restarts=1,
                alpha_max=0.1,
                eta=1.05,
                beta=0.9,
                multi_targeted=False,
                about={"takes": (*_NORMED, "n_classes"), "nearest": True},
            ),
            row(
                "Square",
                (Linf, L2),
                "Square attack, as in Torchattacks.",
                n_queries=5000,
                n_restarts=1,
                p_init=0.8,
                about={"takes": _NORMED, **_FREE},
            ),
            row(
                "SPSA",
                (Linf,),
                "SPSA, as in Torchattacks.",
                delta=0.01,
                lr=0.01,
                nb_iter=1,
                nb_sample=128,
                about=_FREE,
            ),
            row(
                "CW",
                (L2,),
                "Carlini-Wagner, as in Torchattacks.",
                c=1.0,
                kappa=0.0,
                steps=50,
                lr=0.01,
                about=_NEAREST,
            ),
            row("DeepFool", (L2,), "DeepFool, as in Torchattacks.", steps=50, overshoot=0.02, about=_NEAREST),
            row(
                "EADL1",
                (L1,),
                "Elastic net, as in Torchattacks.",
                kappa=0.0,
                lr=0.01,
                binary_search_steps=9,
                max_iterations=100,
                initial_const=0.001,
                beta=0.001,
                about={**_NEAREST, "looks": 100},
            ),
            row(
                "OnePixel",
                (L0,),
                "One pixel, or epsilon of them, as in Torchattacks.",
                steps=10,
                popsize=10,
                about={"takes": ("pixels",), **_FREE},
            ),
        )
    )


def _foolbox() -> dict[str, type[Foreign]]:
    def row(name: str, norms: tuple[type[Any], ...], says: str, **more: Any) -> tuple[str, type[Foreign]]:
        return _row(InFoolbox, name, norms, says, **more)

    coarse = {"rel_stepsize": 0.2, "steps": 10, "random_start": False}
    fine = {"rel_stepsize": 0.025, "steps": 50, "random_start": True}
    deepfool = {"steps": 50, "overshoot": 0.02, "loss": "logits"}
    logits = {"loss": Literal["logits", "crossentropy"]}
    fmn = {"steps": 100, "max_stepsize": 1.0, "gamma": 0.05, "binary_search_steps": 10, "about": _NEAREST}
    return dict(
        (
            row("FGSM", (Linf,), "Fast gradient sign method, as in Foolbox.", random_start=False),
            row("FGM", (L2,), "One step of the gradient in L2, as in Foolbox.", random_start=False),
            row("LinfBasicIterativeAttack", (Linf,), "Basic iterative method, as in Foolbox.", **coarse),
            row("L2BasicIterativeAttack", (L2,), "Basic iterative method in L2, as in Foolbox.", **coarse),
            row("L1BasicIterativeAttack", (L1,), "Basic iterative method in L1, as in Foolbox.", **coarse),
            row(
                "LinfPGD",
                (Linf,),
                "PGD, as in Foolbox.",
                rel_stepsize=0.01 / 0.3,
                steps=40,
                random_start=True,
            ),
            row("L2PGD", (L2,), "PGD in L2, as in Foolbox.", **fine),
            row("L1PGD", (L1,), "PGD in L1, as in Foolbox.", **fine),
            row("LinfAdamPGD", (Linf,), "PGD with Adam's steps, as in Foolbox.", **fine),
            row("L2AdamPGD", (L2,), "PGD with Adam's steps in L2, as in Foolbox.", **fine),
            row("MIFGSM", (Linf,), "Momentum iterative FGSM, as in Foolbox.", momentum=1.0, **coarse),
            row(
                "SparseL1DescentAttack", (L1,), "Sparse steps in L1, as in Foolbox.", quantile=0.99, **coarse
            ),
            row(
                "LinfRepeatedAdditiveUniformNoiseAttack",
                (Linf,),
                "Uniform noise, as in Foolbox.",
                repeats=100,
                about=_FREE,
            ),
            row(
                "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack",
                (L2,),
                "Gaussian noise of a given length, as in Foolbox.",
                repeats=100,
                about=_FREE,
            ),
            row(
                "LinfDeepFoolAttack",
                (Linf,),
                "DeepFool, as in Foolbox.",
                choices=logits,
                about=_NEAREST,
                **deepfool,
            ),
            row(
                "L2DeepFoolAttack",
                (L2,),
                "DeepFool in L2, as in Foolbox.",
                choices=logits,
                about=_NEAREST,
                **deepfool,
            ),
            row(
                "L2CarliniWagnerAttack",
                (L2,),
                "Carlini-Wagner, as in Foolbox.",
                binary_search_steps=9,
                steps=10000,
                stepsize=0.01,
                confidence=0.0,
                initial_const=0.001,
                about=_NEAREST,
            ),
            row(
                "DDNAttack",
                (L2,),
                "Decoupled direction and norm, as in Foolbox.",
                init_epsilon=1.0,
                steps=100,
                gamma=0.05,
                about=_NEAREST,
            ),
            row(
                "EADAttack",
                (L1,),
                "Elastic net, as in Foolbox.",
                binary_search_steps=9,
                steps=10000,
                initial_stepsize=0.01,
                confidence=0.0,
                initial_const=0.001,
                regularization=0.01,
                about=_NEAREST,
            ),
            row("LInfFMNAttack", (Linf,), "Fast minimum norm, as in Foolbox.", **fmn),
            row("L2FMNAttack", (L2,), "Fast minimum norm in L2, as in Foolbox.", **fmn),
            row("L1FMNAttack", (L1,), "Fast minimum norm in L1, as in Foolbox.", **fmn),
            row(
                "NewtonFoolAttack",
                (L2,),
                "NewtonFool, as in Foolbox.",
                steps=100,
                stepsize=0.01,
                about=_NEAREST,
            ),
            row(
                "BoundaryAttack",
                (L2,),
                "Boundary attack, as in Foolbox.",
                steps=25000,
                spherical_step=0.01,
                source_step=0.01,
                about={**_NEAREST, **_FREE},
            ),
            row(
                "HopSkipJumpAttack",
                (L2,),
                "HopSkipJump, as in Foolbox.",
                steps=64,
                initial_gradient_eval_steps=100,
                max_gradient_eval_steps=10000,
                gamma=1.0,
                about={**_NEAREST, **_FREE},
            ),
        )
    )


TORCHATTACKS = _torchattacks()
"""Name in Torchattacks -> its options."""

FOOLBOX = _foolbox()
"""Name in Foolbox -> its options."""
