"""The attacks of Foolbox that may be named in a study, with Foolbox's names, units and defaults."""

from __future__ import annotations

from typing import Literal

from spikeproof.interop.foreign import InFoolbox
from spikeproof.threats import L1, L2, Linf


class _Nearest(InFoolbox):
    nearest = True
    takes = ()


class _OneStep(InFoolbox):
    random_start: bool = False


class _Coarse(InFoolbox):
    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False


class _Fine(InFoolbox):
    rel_stepsize: float = 0.025
    steps: int = 50
    random_start: bool = True


class _Noise(InFoolbox):
    gradient_free = True
    repeats: int = 100


class _DeepFool(_Nearest):
    steps: int = 50
    overshoot: float = 0.02
    loss: Literal["logits", "crossentropy"] = "logits"


class _FastMinimumNorm(_Nearest):
    steps: int = 100
    max_stepsize: float = 1.0
    gamma: float = 0.05
    binary_search_steps: int = 10


class FGSM(_OneStep):
    """Fast gradient sign method, as in Foolbox."""

    norms = (Linf,)


class FGM(_OneStep):
    """Fast gradient method, one step along the gradient in L2, as in Foolbox."""

    norms = (L2,)


class LinfBasicIterativeAttack(_Coarse):
    """Basic iterative method, as in Foolbox."""

    norms = (Linf,)


class L2BasicIterativeAttack(_Coarse):
    """Basic iterative method in L2, as in Foolbox."""

    norms = (L2,)


class L1BasicIterativeAttack(_Coarse):
    """Basic iterative method in L1, as in Foolbox."""

    norms = (L1,)


class LinfPGD(InFoolbox):
    """PGD, as in Foolbox."""

    norms = (Linf,)
    rel_stepsize: float = 0.01 / 0.3
    steps: int = 40
    random_start: bool = True


class L2PGD(_Fine):
    """PGD in L2, as in Foolbox."""

    norms = (L2,)


class L1PGD(_Fine):
    """PGD in L1, as in Foolbox."""

    norms = (L1,)


class LinfAdamPGD(_Fine):
    """PGD with steps of the Adam optimiser, as in Foolbox."""

    norms = (Linf,)


class L2AdamPGD(_Fine):
    """PGD in L2 with steps of the Adam optimiser, as in Foolbox."""

    norms = (L2,)


class MIFGSM(InFoolbox):
    """Momentum iterative FGSM, as in Foolbox."""

    norms = (Linf,)
    momentum: float = 1.0
    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False


class SparseL1DescentAttack(InFoolbox):
    """Sparse L1 descent, as in Foolbox."""

    norms = (L1,)
    quantile: float = 0.99
    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False


class LinfRepeatedAdditiveUniformNoiseAttack(_Noise):
    """Repeated additive uniform noise, as in Foolbox."""

    norms = (Linf,)


class L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack(_Noise):
    """Repeated Gaussian noise whose L2 norm after clipping is epsilon, as in Foolbox."""

    norms = (L2,)


class LinfDeepFoolAttack(_DeepFool):
    """DeepFool, as in Foolbox."""

    norms = (Linf,)


class L2DeepFoolAttack(_DeepFool):
    """DeepFool in L2, as in Foolbox."""

    norms = (L2,)


class L2CarliniWagnerAttack(_Nearest):
    """Carlini-Wagner, as in Foolbox."""

    norms = (L2,)
    binary_search_steps: int = 9
    steps: int = 10000
    stepsize: float = 0.01
    confidence: float = 0.0
    initial_const: float = 0.001


class DDNAttack(_Nearest):
    """Decoupled direction and norm, as in Foolbox."""

    norms = (L2,)
    init_epsilon: float = 1.0
    steps: int = 100
    gamma: float = 0.05


class EADAttack(_Nearest):
    """Elastic net, as in Foolbox."""

    norms = (L1,)
    binary_search_steps: int = 9
    steps: int = 10000
    initial_stepsize: float = 0.01
    confidence: float = 0.0
    initial_const: float = 0.001
    regularization: float = 0.01


class LInfFMNAttack(_FastMinimumNorm):
    """Fast minimum norm, as in Foolbox."""

    norms = (Linf,)


class L2FMNAttack(_FastMinimumNorm):
    """Fast minimum norm in L2, as in Foolbox."""

    norms = (L2,)


class L1FMNAttack(_FastMinimumNorm):
    """Fast minimum norm in L1, as in Foolbox."""

    norms = (L1,)


class NewtonFoolAttack(_Nearest):
    """NewtonFool, as in Foolbox."""

    norms = (L2,)
    steps: int = 100
    stepsize: float = 0.01


class BoundaryAttack(_Nearest):
    """Boundary attack, as in Foolbox."""

    norms = (L2,)
    gradient_free = True
    steps: int = 25000
    spherical_step: float = 0.01
    source_step: float = 0.01


class HopSkipJumpAttack(_Nearest):
    """HopSkipJump, as in Foolbox."""

    norms = (L2,)
    gradient_free = True
    steps: int = 64
    initial_gradient_eval_steps: int = 100
    max_gradient_eval_steps: int = 10000
    gamma: float = 1.0
