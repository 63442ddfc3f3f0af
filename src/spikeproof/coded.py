"""Images as frozen spikes: the output of an encoder becomes the data set, for attacks on single spikes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from spikeproof.datasets import Dataset, DatasetSpec, FashionMNIST, Split
from spikeproof.encoders import Latency
from spikeproof.errors import InputError
from spikeproof.protocols import Encoder, takes_events

__all__ = ["CodedImages"]

TOGETHER = 1000
"""Number of images that are encoded at a time."""


@dataclass(frozen=True)
class CodedImages(DatasetSpec):
    """Images as the spikes that an encoder makes of them, which an attacker may then move one by one.

    A model with the encoder `events` learns from them what a model with this encoder learns from the images.
    An attack on pixels reaches only the spike trains that the encoder can make; an attack on events reaches
    all spike trains.

    Args:
        data: the images.
        code: an encoder without randomness whose spikes are whole numbers from 0 to 255.

    Shapes:
        examples `[N, T, C, H, W]` of whole numbers, for the encoder `events` with as many steps.

    Raises:
        InputError: the encoder is stochastic, gives currents or weights its spikes, or the data are events
            already.

    Example:
        >>> from spikeproof.datasets import Digits
        >>> data = CodedImages(Digits(), Latency(4)).load()
        >>> data.test.images.shape[1:], data.test.images.unique().tolist()
        (torch.Size([4, 1, 8, 8]), [0, 1])
    """

    data: DatasetSpec = FashionMNIST()
    code: Encoder = Latency(6)

    def __post_init__(self) -> None:
        if takes_events(self.code) or self.code.stochastic or not self.code.spiking:
            raise InputError(
                "CodedImages needs a spiking encoder of images without randomness",
                repr(self.code),
                "Use an encoder such as latency or early-burst.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        data = self.data.load(root)
        if data.test.images.ndim != 4:
            raise InputError(
                "CodedImages needs a data set of images, and these are events already",
                f"shape {list(data.test.images.shape)}",
                "Use the data set as it is.",
            )
        return replace(
            data,
            name=f"coded-{data.name}",
            train=self._coded(data.train),
            validation=self._coded(data.validation),
            test=self._coded(data.test),
            sha256=hashlib.sha256(f"{data.sha256} {self.code!r}".encode()).hexdigest(),
        )

    def locate(self, root: Path | None = None) -> str:
        return f"made of {type(self.data).__name__}, {self.data.locate(root)}"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return self.data.survey(root)

    def _coded(self, part: Split) -> Split:
        found = [self._spikes(images) for images in part.images.split(TOGETHER)]  # type: ignore[no-untyped-call]
        empty = self._spikes(torch.zeros(1, *part.images.shape[1:]))[:0]
        return replace(part, images=torch.cat([empty, *found]))

    def _spikes(self, images: Tensor) -> Tensor:
        spikes = self.code(images.float()).transpose(0, 1)
        whole = spikes.round().clamp(0, 255)
        if not torch.equal(whole, spikes):
            raise InputError(
                "Frozen spikes must be whole numbers from 0 to 255",
                f"{self.code!r}, whose spikes have weights",
                "Use an encoder such as latency or early-burst.",
            )
        return whole.to(torch.uint8)
