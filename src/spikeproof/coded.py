"""Images whose code is frozen: what the network would be given is the data, for attacks on the spikes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from spikeproof.datasets import Dataset, FashionMNIST, Source, Split
from spikeproof.encoders import Latency
from spikeproof.errors import InputError
from spikeproof.protocols import Encoder, takes_events

__all__ = ["CodedImages"]

TOGETHER = 1000
"""Images coded at a time."""


@dataclass(frozen=True)
class CodedImages(Source):
    """Images as the spikes that a code makes of them, which an attacker may then move one by one.

    A model of the code `events` learns from them what a model with this code learns from the images. An
    attack on pixels reaches only trains that the code can make; one on events reaches all of them.

    Args:
        data: the images.
        code: a code without randomness whose spikes are whole numbers, 0 to 255.

    Shapes:
        examples `[N, T, C, H, W]` of whole numbers, for the encoder `events` with as many steps.

    Raises:
        InputError: a code that draws, gives currents or weights its spikes, or data that are events already.

    Example:
        >>> from spikeproof.datasets import Digits
        >>> data = CodedImages(Digits(), Latency(4)).load()
        >>> data.test.images.shape[1:], data.test.images.unique().tolist()
        (torch.Size([4, 1, 8, 8]), [0, 1])
    """

    data: Source = FashionMNIST()
    code: Encoder = Latency(6)

    def __post_init__(self) -> None:
        if takes_events(self.code) or self.code.stochastic or not self.code.spiking:
            raise InputError(
                "Spikes are frozen of a code of images without randomness",
                repr(self.code),
                "Use a code such as latency or early-burst.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        data = self.data.load(root)
        if data.test.images.ndim != 4:
            raise InputError(
                "Images are coded, and these are events already",
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
                "Frozen spikes are whole numbers from 0 to 255",
                f"{self.code!r}, whose spikes have weights",
                "Use a code such as latency or early-burst.",
            )
        return whole.to(torch.uint8)
