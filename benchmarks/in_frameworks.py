"""Our models in SpikingJelly, snnTorch and Norse: the same weights, with neurons and surrogates of theirs.

Each framework is a class that makes its network of a `Classifier` with direct coding, LIF neurons, reset
by subtraction and a spike count, and that names the neuron and the surrogate with which our model
computes the same. Pooling is a layer of its own in all of them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import spikeproof as sp
from spikeproof.networks.architecture import OverTime, PooledConv2d
from spikeproof.networks.classifier import Classifier
from spikeproof.surrogates import Surrogate

__all__ = ["FRAMEWORKS", "Framework", "InNorse", "InSnnTorch", "InSpikingJelly", "SuperSpike"]

ALPHA = 2.0
"""Steepness of the ATan surrogate, the default of SpikingJelly and of snnTorch."""

DECAY = sp.LIF().decay
"""Share of the potential that is left after a step, of the models that are measured."""


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """Norse's default surrogate, of a membrane whose unit is `1 - decay` thresholds: k / (1 + k |x|)^2."""

    unit: float = 1 - DECAY

    def derivative(self, x: Tensor) -> Tensor:
        return self.unit / (1 + self.unit * x.abs()).square()


@dataclass(frozen=True)
class AfterLeak(sp.BySubtraction):
    """Subtraction of the whole threshold after the leak of the next step, where ours comes before the
    leak."""

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return super().__call__(v, z, threshold / DECAY, out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return super().slope(v, z, threshold / DECAY)


class Framework(nn.Module):
    """A network of a framework: images `[B, C, H, W]` to spike counts `[B, K]`."""

    neuron: ClassVar[sp.LIF] = sp.LIF()
    surrogate: ClassVar[Surrogate] = sp.ATan(ALPHA)
    """With these our model has the same spikes and gradients."""

    stepwise: ClassVar[bool] = False
    """Whether layers see one step at a time, so that normalisation in training is over the batch of one
    step."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.steps = model.encoder.steps
        blocks = [layers_of(part) if isinstance(part, OverTime) else None for part in model.network.layers]
        self.layers = nn.Sequential(
            *(self.neurons() if block is None else self.linear(block) for block in blocks)
        )

    def neurons(self) -> nn.Module:
        """A layer of neurons."""
        raise NotImplementedError

    def linear(self, layers: list[nn.Module]) -> nn.Module:
        """Layers without memory."""
        return nn.Sequential(*layers)


def layers_of(part: OverTime) -> list[nn.Module]:
    """Copies of the layers without memory, with pooling apart from convolution."""
    found: list[nn.Module] = []
    for module in copy.deepcopy(part):
        if isinstance(module, PooledConv2d):
            biased = module.bias is not None
            plain = nn.Conv2d(module.in_channels, module.out_channels, 3, padding=1, bias=biased)
            plain.load_state_dict(module.state_dict())
            found += [plain, nn.AvgPool2d(2)]
        else:
            found.append(module)
    return found


class InSpikingJelly(Framework):
    """Layer by layer, each over all steps."""

    def __init__(self, model: Classifier) -> None:
        from spikingjelly.activation_based import functional

        super().__init__(model)
        self.reset_net = functional.reset_net

    def neurons(self) -> nn.Module:
        from spikingjelly.activation_based import neuron, surrogate

        fire = surrogate.ATan(alpha=ALPHA)
        node = neuron.LIFNode(1 / (1 - DECAY), decay_input=False, v_reset=None, surrogate_function=fire)
        node.step_mode = "m"
        return node

    def linear(self, layers: list[nn.Module]) -> nn.Module:
        from spikingjelly.activation_based import layer

        return layer.SeqToANNContainer(*layers)

    def forward(self, images: Tensor) -> Tensor:
        self.reset_net(self)
        return self.layers(images.unsqueeze(0).repeat(self.steps, *[1] * images.ndim)).sum(0)


class InSnnTorch(Framework):
    """Step by step, each through all layers, as in snnTorch's tutorials, with its default reset."""

    neuron = sp.LIF(reset=AfterLeak(), detach_reset=True)
    stepwise = True

    def neurons(self) -> nn.Module:
        import snntorch
        from snntorch import surrogate

        fire = surrogate.atan(alpha=ALPHA)
        return snntorch.Leaky(DECAY, spike_grad=fire, reset_mechanism="subtract")

    def forward(self, images: Tensor) -> Tensor:
        counts = images.new_zeros(())
        states = {layer: layer.reset_mem() for layer in self.layers if not isinstance(layer, nn.Sequential)}
        for _ in range(self.steps):
            x = images
            for layer in self.layers:
                if layer in states:
                    x, states[layer] = layer(x, states[layer])
                else:
                    x = layer(x)
            counts = counts + x
        return counts


class InNorse(Framework):
    """Layer by layer, each over all steps; Norse's membrane scales its input, so its threshold is scaled
    alike."""

    surrogate = SuperSpike()

    def neurons(self) -> nn.Module:
        from norse.torch.functional.lif_box import LIFBoxParameters
        from norse.torch.functional.reset import reset_subtract
        from norse.torch.module.lif_box import LIFBoxCell

        lost = torch.tensor(1 - DECAY)
        constants = LIFBoxParameters(tau_mem_inv=lost, v_th=lost, reset_method=reset_subtract)
        return LIFBoxCell(constants, dt=1.0)

    def forward(self, images: Tensor) -> Tensor:
        x = images.unsqueeze(0).repeat(self.steps, *[1] * images.ndim)
        for layer in self.layers:
            if isinstance(layer, nn.Sequential):
                x = layer(x.flatten(0, 1)).unflatten(0, (self.steps, -1))
            else:
                state, spikes = None, []
                for current in x:
                    fired, state = layer(current, state)
                    spikes.append(fired)
                x = torch.stack(spikes)
        return x.sum(0)


FRAMEWORKS: dict[str, type[Framework]] = {
    "spikingjelly": InSpikingJelly,
    "snntorch": InSnnTorch,
    "norse": InNorse,
}
