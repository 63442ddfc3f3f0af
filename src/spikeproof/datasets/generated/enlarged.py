"""Images at a multiple of their size, which changes the number of inputs and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from spikeproof.datasets.images import Digits
from spikeproof.datasets.parts import Dataset, DatasetSpec, Split
from spikeproof.errors import InputError

__all__ = ["Enlarged"]


@dataclass(frozen=True)
class Enlarged(DatasetSpec):
    """Images of another data set, each pixel repeated along both axes.

    A model that averages over the copies of a pixel answers as before, so whatever changes is a matter of the
    number of inputs: the same budget per pixel is a larger budget in every norm but L-infinity.

    Args:
        data: the images.
        factor: copies of a pixel along each axis, 1 to 8.

    Shapes:
        images `[N, C, H, W]` -> `[N, C, factor H, factor W]`

    Raises:
        InputError: the factor is out of its range, or the data are events.

    Example:
        >>> Enlarged(factor=2).load().test.images.shape[1:]
        torch.Size([1, 16, 16])

    Source:
        Simon-Gabriel et al. 2019, section 4.2 (up-sampled images).
    """

    data: DatasetSpec = Digits()
    factor: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 8:
            raise InputError("Enlarged repeats pixels 1 to 8 times", f"factor={self.factor}", "Try 2.")

    def load(self, root: Path | None = None) -> Dataset:
        data = self.data.load(root)
        if data.test.images.ndim != 4:
            raise InputError(
                "Enlarged needs a data set of images",
                f"examples of shape {list(data.test.images.shape[1:])}",
                "Use the size option of the data set of events.",
            )
        return replace(
            data,
            name=f"{data.name}-times-{self.factor}",
            train=self._enlarged(data.train),
            validation=self._enlarged(data.validation),
            test=self._enlarged(data.test),
            sha256=hashlib.sha256(f"{data.sha256} enlarged {self.factor}".encode()).hexdigest(),
        )

    def locate(self, root: Path | None = None) -> str:
        return f"made of {type(self.data).__name__}, {self.data.locate(root)}"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return self.data.survey(root)

    def _enlarged(self, part: Split) -> Split:
        images = part.images.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return replace(part, images=images)
