"""The attacks of other libraries that may be named in a study.

No name outside these two tables is ever looked up in a library.
"""

from __future__ import annotations

from spikeproof.interop import in_foolbox as fb
from spikeproof.interop import in_torchattacks as ta
from spikeproof.interop.foreign import Foreign, InFoolbox, InTorchattacks

__all__ = ["FOOLBOX", "TORCHATTACKS", "Foreign", "InFoolbox", "InTorchattacks"]


def _named(*rows: type[Foreign]) -> dict[str, type[Foreign]]:
    return {row.__name__: row for row in rows}


TORCHATTACKS = _named(
    ta.FGSM,
    ta.FFGSM,
    ta.RFGSM,
    ta.BIM,
    ta.PGD,
    ta.PGDL2,
    ta.TPGD,
    ta.MIFGSM,
    ta.NIFGSM,
    ta.SINIFGSM,
    ta.VMIFGSM,
    ta.VNIFGSM,
    ta.Jitter,
    ta.APGD,
    ta.APGDT,
    ta.AutoAttack,
    ta.FAB,
    ta.Square,
    ta.SPSA,
    ta.CW,
    ta.DeepFool,
    ta.EADL1,
    ta.OnePixel,
)
"""Name in Torchattacks -> class with its options."""

FOOLBOX = _named(
    fb.FGSM,
    fb.FGM,
    fb.LinfBasicIterativeAttack,
    fb.L2BasicIterativeAttack,
    fb.L1BasicIterativeAttack,
    fb.LinfPGD,
    fb.L2PGD,
    fb.L1PGD,
    fb.LinfAdamPGD,
    fb.L2AdamPGD,
    fb.MIFGSM,
    fb.SparseL1DescentAttack,
    fb.LinfRepeatedAdditiveUniformNoiseAttack,
    fb.L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack,
    fb.LinfDeepFoolAttack,
    fb.L2DeepFoolAttack,
    fb.L2CarliniWagnerAttack,
    fb.DDNAttack,
    fb.EADAttack,
    fb.LInfFMNAttack,
    fb.L2FMNAttack,
    fb.L1FMNAttack,
    fb.NewtonFoolAttack,
    fb.BoundaryAttack,
    fb.HopSkipJumpAttack,
)
"""Name in Foolbox -> class with its options."""
