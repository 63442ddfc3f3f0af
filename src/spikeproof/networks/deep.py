"""Deep networks of the literature, built from the same parts as the small ones: VGG, ResNet and SEW-ResNet.

With the neuron `ReLU()` or `Softplus()` each builds its ANN twin: the same layers and the same weights. Batch
normalisation runs over the merged axes of time and batch. The sizes are those of the publications; `width`
scales all channels, for small machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.networks.architecture import (
    MLP,
    Architecture,
    OverTime,
    Parts,
    SpikingNetwork,
    check_pool,
    halved,
)
from spikeproof.networks.pooling import Pool, Window

__all__ = ["VGG9", "VGG11", "VGG16", "ResNet18", "ResNet19", "Residual", "SEWResNet", "expect_gains"]

Join = Callable[[Tensor, Tensor], Tensor]
"""(output of the branch, output of the shortcut) -> output of the block."""


def _scaled(part: object, width: float, channels: int) -> int:
    if not (width > 0 and math.isfinite(width)):
        raise InputError(
            f"{type(part).__name__} needs a positive width", f"width={width}", "Try 1.0, the published size."
        )
    return max(1, round(channels * width))


def _whole(part: object, name: str, values: tuple[int, ...]) -> None:
    if not all(value >= 1 for value in values):
        raise InputError(f"{type(part).__name__} needs positive {name}", f"{name}={values}", "Try (1024,).")


@dataclass(frozen=True)
class VGG(Architecture):
    """Stages of 3x3 convolutions, each ending in 2x2 pooling, then fully connected layers.

    Average pooling, the default, comes before the neurons and max pooling, as published, after them, so that
    each stage passes spikes on. A stage does not pool an image that is only one pixel high or wide, so small
    images are pooled fewer times.
    """

    width: float = 1.0
    hidden: tuple[int, ...] = ()
    batch_norm: bool = True
    pool: Pool = "average"
    stages: ClassVar[tuple[tuple[int, ...], ...]] = ()

    def __post_init__(self) -> None:
        _scaled(self, self.width, 1)
        check_pool(self, self.pool)
        _whole(self, "hidden", self.hidden)

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        depth, height, width = inputs
        layers: list[nn.Module] = []
        for stage in self.stages:
            for i, channels in enumerate(stage, 1):
                channels = _scaled(self, self.width, channels)
                pools = i == len(stage) and min(height, width) >= 2
                if pools:
                    layers += halved(depth, channels, self.batch_norm, self.pool)
                    layers += parts.pooled(None, self.pool)
                else:
                    plain = nn.Conv2d(depth, channels, 3, padding=1, bias=not self.batch_norm)
                    norm = [nn.BatchNorm2d(channels)] if self.batch_norm else []
                    layers += [OverTime(plain, *norm), *parts.hidden()]
                depth = channels
                height, width = (height // 2, width // 2) if pools else (height, width)
        head = MLP(self.hidden).build((depth, height, width), classes, parts)
        return SpikingNetwork([*layers, *head.layers])


@dataclass(frozen=True)
class VGG9(VGG):
    """VGG-9: seven convolutions of 64 to 256 channels and two fully connected layers.

    Args:
        width: factor on all channels, positive.
        hidden: neurons per fully connected hidden layer, each at least 1.
        batch_norm: normalise convolutions over the merged axes of time and batch.
        pool: `average`, `max` for the largest spike of each step, or `gated-max` for the spikes of the neuron
            that has fired most often so far, as conversions need it.

    Source:
        Lee et al. 2020 (64-64-P-128-128-P-256-256-256-P-1024-10).
    """

    hidden: tuple[int, ...] = (1024,)
    stages: ClassVar[tuple[tuple[int, ...], ...]] = ((64,) * 2, (128,) * 2, (256,) * 3)


@dataclass(frozen=True)
class VGG11(VGG):
    """VGG-11: eight convolutions of 64 to 512 channels and a linear output layer.

    Args:
        width: factor on all channels, positive.
        hidden: neurons per fully connected hidden layer; (4096, 4096) in the original for ImageNet.
        batch_norm: normalise convolutions over the merged axes of time and batch.
        pool: `average`, `max` for the largest spike of each step, or `gated-max` for the spikes of the neuron
            that has fired most often so far, as conversions need it.

    Source:
        Simonyan & Zisserman 2015, table 1, column A.
    """

    stages: ClassVar[tuple[tuple[int, ...], ...]] = ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2)


@dataclass(frozen=True)
class VGG16(VGG):
    """VGG-16: thirteen convolutions of 64 to 512 channels and a linear output layer.

    Args:
        width: factor on all channels, positive.
        hidden: neurons per fully connected hidden layer; (4096, 4096) in the original for ImageNet.
        batch_norm: normalise convolutions over the merged axes of time and batch.
        pool: `average`, `max` for the largest spike of each step, or `gated-max` for the spikes of the neuron
            that has fired most often so far, as conversions need it.

    Source:
        Simonyan & Zisserman 2015, table 1, column D.
    """

    stages: ClassVar[tuple[tuple[int, ...], ...]] = (
        (64,) * 2,
        (128,) * 2,
        (256,) * 3,
        (512,) * 3,
        (512,) * 3,
    )


class Residual(SpikingNetwork):
    """A block of two paths over time, joined into one.

    Args:
        branch: the layers of one path.
        shortcut: the layers of the other path; none for the identity.
        join: joins the outputs of the two paths.

    Attributes:
        gain: what the output of the shortcut is multiplied by, which makes an identity a scaled 1x1
            convolution; None, and in no file of weights, for the plain shortcut.

    Shapes:
        `[T, B, C, H, W]` -> `[T, B, D, I, J]`
    """

    gain: Tensor | None

    def __init__(self, branch: Sequence[nn.Module], shortcut: Sequence[nn.Module], join: Join) -> None:
        super().__init__(branch)
        self.shortcut = SpikingNetwork(shortcut)
        self.join = join
        self.register_buffer("gain", None)

    def forward(
        self, spikes: Float[Tensor, "T B C H W"], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B D I J"]:
        return self.joined(super().forward(spikes, tally), self.shortcut(spikes, tally))

    def joined(
        self, branch: Float[Tensor, "T B D I J"], shortcut: Float[Tensor, "T B D I J"]
    ) -> Float[Tensor, "T B D I J"]:
        """The output of the block for the outputs of its two paths."""
        return self.join(branch, shortcut if self.gain is None else self.gain * shortcut)

    def weigh(self, gain: float) -> None:
        """Give the shortcut a weight, in the precision of the other weights."""
        like = next(self.parameters())
        self.gain = torch.full((), gain, dtype=like.dtype, device=like.device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        if f"{prefix}gain" in state_dict and self.gain is None:
            self.weigh(1.0)
        super()._load_from_state_dict(state_dict, prefix, *others)


def expect_gains(network: nn.Module, names: Collection[str]) -> None:
    """Give shortcuts a weight where a file of weights has one, as those of converted networks do.

    Args:
        network: as it was built, in place.
        names: of the tensors in the file.
    """
    for name, block in network.named_modules():
        if isinstance(block, Residual) and f"{name}.gain" in names:
            block.weigh(1.0)


class GlobalPool(nn.Module):
    """The mean of every channel.

    Shapes:
        `[B, C, H, W]` -> `[B, C]`
    """

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
        return x.mean((2, 3))


def _convolution(inputs: int, channels: int, size: int, stride: int) -> OverTime:
    """A convolution without bias and its normalisation."""
    convolution = nn.Conv2d(inputs, channels, size, stride, padding=size // 2, bias=False)
    return OverTime(convolution, nn.BatchNorm2d(channels))


def _small(inputs: int, channels: int, parts: Parts) -> list[nn.Module]:
    return [_convolution(inputs, channels, 3, 1), *parts.hidden()]


def _large(inputs: int, channels: int, parts: Parts) -> list[nn.Module]:
    pool = OverTime(nn.MaxPool2d(3, 2, padding=1))
    return [_convolution(inputs, channels, 7, 2), *parts.hidden(), pool]


def _large_gated(inputs: int, channels: int, parts: Parts) -> list[nn.Module]:
    window = Window(3, 2, padding=1)
    return [_convolution(inputs, channels, 7, 2), *parts.pooled(None, "gated-max", window)]


Stem = Literal["small", "large", "large-gated"]
STEMS: dict[str, Callable[[int, int, Parts], list[nn.Module]]] = {
    "small": _small,
    "large": _large,
    "large-gated": _large_gated,
}


@dataclass(frozen=True)
class _ResNet(Architecture):
    """Residual networks: a stem, stages of which all but the first halve the image, and a global mean."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: float = 1.0
    stem: Stem = "small"
    channels: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)

    def __post_init__(self) -> None:
        _scaled(self, self.width, 1)
        if len(self.blocks) != len(self.channels) or min(self.blocks) < 1:
            raise InputError(
                f"{type(self).__name__} needs {len(self.channels)} numbers of blocks, each at least 1",
                f"blocks={self.blocks}",
                "Try the default.",
            )

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        depth = _scaled(self, self.width, self.channels[0])
        layers = STEMS[self.stem](inputs[0], depth, parts)
        for stage, (channels, blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            channels = _scaled(self, self.width, channels)
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers += self._block(depth, channels, stride, parts)
                depth = channels
        head = MLP(self._hidden()).build((depth, 1, 1), classes, parts)
        return SpikingNetwork([*layers, OverTime(GlobalPool()), *head.layers])

    def _hidden(self) -> tuple[int, ...]:
        return ()

    def _block(self, inputs: int, channels: int, stride: int, parts: Parts) -> list[nn.Module]:
        """Currents of branch and shortcut are added before the neurons of the block's end."""
        branch = [
            _convolution(inputs, channels, 3, stride),
            *parts.hidden(),
            _convolution(channels, channels, 3, 1),
        ]
        same = stride == 1 and inputs == channels
        shortcut = [] if same else [_convolution(inputs, channels, 1, stride)]
        return [Residual(branch, shortcut, torch.add), *parts.hidden()]


@dataclass(frozen=True)
class ResNet18(_ResNet):
    """ResNet-18: four stages of two residual blocks, 64 to 512 channels.

    Args:
        blocks: residual blocks per stage, four numbers; (3, 4, 6, 3) is ResNet-34.
        width: factor on all channels, positive.
        stem: `small` for a 3x3 convolution, as for CIFAR; `large` for one of 7x7 with stride 2, followed by
            3x3 max pooling with stride 2, as for ImageNet; `large-gated` for max pooling of spike counts, as
            conversions need it.

    Source:
        He et al. 2016, table 1; small stem as in their section 4.2. Neurons stand where the ReLUs were.
    """


@dataclass(frozen=True)
class ResNet19(_ResNet):
    """ResNet-19, a wide network customary for SNNs: 3, 3 and 2 residual blocks of 128 to 512 channels.

    With the paper's hidden layer of 256 neurons it has 12.70 million weights for CIFAR-10; the 12.63 million
    in later tables belong to a hidden layer of 128 neurons.

    Args:
        blocks: residual blocks per stage, three numbers.
        width: factor on all channels, positive.
        stem: `small` for a 3x3 convolution; `large` for one of 7x7 with stride 2 and max pooling;
            `large-gated` for max pooling of spike counts, as conversions need it.
        hidden: neurons per fully connected hidden layer, each at least 1.

    Source:
        Zheng et al. 2021 (tdBN), table of architectures; plain batch normalisation here.
    """

    blocks: tuple[int, ...] = (3, 3, 2)
    hidden: tuple[int, ...] = (256,)
    channels: ClassVar[tuple[int, ...]] = (128, 256, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "hidden", self.hidden)

    def _hidden(self) -> tuple[int, ...]:
        return self.hidden


def _and(branch: Tensor, shortcut: Tensor) -> Tensor:
    return branch * shortcut


def _iand(branch: Tensor, shortcut: Tensor) -> Tensor:
    return (1 - branch) * shortcut


JOINS: dict[str, Join] = {"add": torch.add, "and": _and, "iand": _iand}


@dataclass(frozen=True)
class SEWResNet(_ResNet):
    r"""SEW-ResNet: residual blocks that join spikes instead of currents.

    .. math:: g(a, s) = a + s, \quad a \land s = a s, \quad (\lnot a) \land s = (1 - a) s

    `a` are the spikes of the branch and `s` the spikes of the shortcut, which has neurons after its
    convolution if it has one. With `add` the output of a block is a number of spikes, 0, 1, 2, ..., and not a
    binary spike.

    Args:
        blocks: residual blocks per stage, four numbers; (3, 4, 6, 3) is SEW-ResNet-34.
        width: factor on all channels, positive.
        stem: `small` for a 3x3 convolution, as for CIFAR; `large` for one of 7x7 with stride 2, followed by
            3x3 max pooling with stride 2, as for ImageNet; `large-gated` for max pooling of spike counts, as
            conversions need it.
        connect: `add`, `and` or `iand`; the last two are defined for spikes only.

    Raises:
        InputError: when built with `and` or `iand` for a neuron whose output is not binary.

    Source:
        Fang et al. 2021 (Deep residual learning in SNNs), section 3.2, table 1.
    """

    connect: Literal["add", "and", "iand"] = "add"

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        if JOINS[self.connect] is not torch.add and not (
            parts.neuron.binary and parts.neuron.synapse is None
        ):
            raise InputError(
                f"SEWResNet with connect={self.connect!r} needs a neuron whose output is 0 or 1",
                f"the neuron {parts.neuron!r}, whose output is not binary",
                "Use connect='add', or a spiking neuron without synapse.",
            )
        return super().build(inputs, classes, parts)

    def _block(self, inputs: int, channels: int, stride: int, parts: Parts) -> list[nn.Module]:
        branch = [
            _convolution(inputs, channels, 3, stride),
            *parts.hidden(),
            _convolution(channels, channels, 3, 1),
            *parts.hidden(),
        ]
        same = stride == 1 and inputs == channels
        shortcut = [] if same else [_convolution(inputs, channels, 1, stride), *parts.hidden()]
        return [Residual(branch, shortcut, JOINS[self.connect])]
