"""The attacks of Torchattacks 3.5.1 that may be named in a study, with its names, units and defaults."""

from __future__ import annotations

from typing import Literal

from spikeproof.interop.foreign import InTorchattacks
from spikeproof.threats import L0, L1, L2, Linf


class _Nearest(InTorchattacks):
    nearest = True
    takes = ()


class _Stepped(InTorchattacks):
    norms = (Linf,)
    steps: int = 10
    alpha: float = 2 / 255


class _Momentum(InTorchattacks):
    norms = (Linf,)
    decay: float = 1.0
    steps: int = 10
    alpha: float = 2 / 255


class _TunedVariance(_Stepped):
    decay: float = 1.0
    N: int = 5
    beta: float = 1.5


class FGSM(InTorchattacks):
    """Fast gradient sign method, as in Torchattacks."""

    norms = (Linf,)


class FFGSM(InTorchattacks):
    """Fast FGSM from a random start, as in Torchattacks."""

    norms = (Linf,)
    alpha: float = 10 / 255


class RFGSM(_Stepped):
    """R+FGSM: gradient sign steps from a random corner, as in Torchattacks."""


class BIM(_Stepped):
    """Basic iterative method, as in Torchattacks."""


class PGD(InTorchattacks):
    """PGD, as in Torchattacks."""

    norms = (Linf,)
    random_start: bool = True
    steps: int = 10
    alpha: float = 2 / 255


class PGDL2(InTorchattacks):
    """PGD in L2, as in Torchattacks."""

    norms = (L2,)
    steps: int = 10
    alpha: float = 0.2
    random_start: bool = True


class TPGD(_Stepped):
    """PGD on the KL divergence of TRADES, as in Torchattacks."""


class MIFGSM(_Momentum):
    """Momentum iterative FGSM, as in Torchattacks."""


class NIFGSM(_Momentum):
    """Nesterov iterative FGSM, as in Torchattacks."""


class SINIFGSM(InTorchattacks):
    """NI-FGSM over scaled images, as in Torchattacks."""

    norms = (Linf,)
    decay: float = 1.0
    m: int = 5
    steps: int = 10
    alpha: float = 2 / 255


class VMIFGSM(_TunedVariance):
    """MI-FGSM with tuned variance, as in Torchattacks."""


class VNIFGSM(_TunedVariance):
    """NI-FGSM with tuned variance, as in Torchattacks."""


class Jitter(InTorchattacks):
    """PGD on jittered logits, as in Torchattacks."""

    norms = (Linf,)
    scale: int = 10
    std: float = 0.1
    random_start: bool = True
    steps: int = 10
    alpha: float = 2 / 255


class APGD(InTorchattacks):
    """Auto-PGD, as in Torchattacks."""

    norms = (Linf, L2)
    takes = ("eps", "norm", "seed")
    loss: Literal["ce", "dlr"] = "ce"
    steps: int = 10
    n_restarts: int = 1
    rho: float = 0.75


class APGDT(InTorchattacks):
    """Targeted Auto-PGD, as in Torchattacks."""

    norms = (Linf, L2)
    takes = ("eps", "norm", "seed", "n_classes")
    steps: int = 10
    n_restarts: int = 1
    rho: float = 0.75


class AutoAttack(InTorchattacks):
    """AutoAttack, as in Torchattacks."""

    norms = (Linf, L2)
    takes = ("eps", "norm", "seed", "n_classes")
    default_steps = 100
    version: Literal["standard", "plus"] = "standard"


class FAB(InTorchattacks):
    """Fast adaptive boundary attack, as in Torchattacks."""

    norms = (Linf, L2)  # in version 3.5.1, its L1 variant raises an error
    takes = ("eps", "norm", "seed", "n_classes")
    nearest = True
    steps: int = 10
    n_restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    multi_targeted: bool = False


class Square(InTorchattacks):
    """Square attack, as in Torchattacks."""

    norms = (Linf, L2)
    takes = ("eps", "norm", "seed")
    gradient_free = True
    n_queries: int = 5000
    n_restarts: int = 1
    p_init: float = 0.8


class SPSA(InTorchattacks):
    """SPSA, as in Torchattacks."""

    norms = (Linf,)
    gradient_free = True
    delta: float = 0.01
    lr: float = 0.01
    nb_iter: int = 1
    nb_sample: int = 128


class CW(_Nearest):
    """Carlini-Wagner, as in Torchattacks."""

    norms = (L2,)
    c: float = 1.0
    kappa: float = 0.0
    steps: int = 50
    lr: float = 0.01


class DeepFool(_Nearest):
    """DeepFool, as in Torchattacks."""

    norms = (L2,)
    steps: int = 50
    overshoot: float = 0.02


class EADL1(_Nearest):
    """Elastic net, as in Torchattacks."""

    norms = (L1,)
    default_steps = 100
    kappa: float = 0.0
    lr: float = 0.01
    binary_search_steps: int = 9
    max_iterations: int = 100
    initial_const: float = 0.001
    beta: float = 0.001


class OnePixel(InTorchattacks):
    """One-pixel attack, which may change epsilon pixels, as in Torchattacks."""

    norms = (L0,)
    takes = ("pixels",)
    gradient_free = True
    steps: int = 10
    popsize: int = 10
