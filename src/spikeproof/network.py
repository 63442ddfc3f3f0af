"""Networks over time, and the classifier: encoder, network and decoder in one stateless module.

An architecture is a frozen dataclass that builds layers. With a neuron that fires it is a spiking network;
with the neuron `ReLU()` or `Softplus()` it is its exact ANN twin, the same layers with as many weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from spikeproof.decoders import activity, by_step, decide, exit_steps, silent
from spikeproof.encoders import BackwardRule, with_backward
from spikeproof.errors import InputError
from spikeproof.gradients import GradientRule
from spikeproof.keys import Key
from spikeproof.neurons import Integrator, Neuron, Spiking, Synapse, Unroll, potentials
from spikeproof.probes import Probe, Probed
from spikeproof.protocols import (
    Decoder,
    Encoder,
    Shape,
    Watched,
    encoded_shape,
    example_shape,
    output_width,
    reads_potential,
    spike_counts,
)
from spikeproof.surrogates import Surrogate

__all__ = [
    "MLP",
    "Architecture",
    "Classifier",
    "ConvNet",
    "Inference",
    "ModelSpec",
    "Normalise",
    "Observed",
    "OverTime",
    "Parts",
    "PooledConv2d",
    "SpikingNetwork",
    "probed",
    "substitute",
]


class OverTime(nn.Sequential):
    """Layers without memory, applied to all time steps at once by merging time and batch.

    An input that is one image seen T times (direct coding) is computed once.

    Shapes:
        `[T, B, *F]` -> `[T, B, *G]`
    """

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *G"]:
        steps = x.shape[0]
        constant = steps > 1 and x.stride(0) == 0
        merged = x[0] if constant else x.flatten(0, 1)
        out: Tensor = super().forward(merged)  # type: ignore[no-untyped-call]
        return out.expand(steps, *out.shape) if constant else out.view(steps, -1, *out.shape[1:])


class PooledConv2d(nn.Conv2d):
    """A 3x3 convolution and a 2x2 average pooling, computed as one 4x4 convolution of stride 2.

    Both are linear, so averaging the kernel over the four shifts of a pooling window gives the same result
    (to rounding) without ever making the large map: several times faster on a CPU.

    Shapes:
        `[B, C, H, W]` -> `[B, channels, H // 2, W // 2]`
    """

    def __init__(self, inputs: int, channels: int, *, bias: bool) -> None:
        super().__init__(inputs, channels, 3, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D I J"]:
        padded = F.pad(self.weight, (1, 1, 1, 1))
        kernel = F.avg_pool2d(padded, 2, stride=1)
        return F.conv2d(x, kernel, self.bias, stride=2, padding=1)


class SpikingNetwork(nn.Module):
    """Layers one after the other, each over all time steps; a network may stand inside another as a layer.

    Shapes:
        `[T, B, *F]` -> outputs `[T, B, *G]`
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, spikes: Float[Tensor, "T B *F"], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B *G"]:
        """Outputs; spikes per step and example of every spiking layer, `[T, B]`, are appended to `tally`."""
        x = spikes
        for layer in self.layers:
            x = layer(x, tally) if isinstance(layer, SpikingNetwork) else layer(x)
            if tally is not None and isinstance(layer, Spiking) and layer.neuron.spiking:
                tally.append((x.detach() != 0).flatten(2).sum(2))
        return x

    def watch(self, spikes: Float[Tensor, "T B *F"]) -> tuple[Tensor, Tensor]:
        """Outputs, and the potentials that output neurons would have if they never fired.

        Raises:
            InputError: output neurons that have no potential, such as those of spike times.
        """
        x = spikes
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x)
        readout = last.layers[0] if isinstance(last, Observed) else last
        if not isinstance(readout, (Spiking, Integrator)):
            raise InputError(
                "Potentials are those of output neurons that have one", type(readout).__name__, "Use margin."
            )
        return last(x), readout.integrate(x)


class Observed(SpikingNetwork):
    """Output neurons that show their potential beside their spikes.

    Spikes come from the layer inside, whatever loop or gradient rule it has. Potentials come from the
    neuron's own step, so no substitution changes them; their gradient is that of this step.

    Shapes:
        current `[T, B, K]` -> spikes and then potentials before the reset `[T, B, 2K]`
    """

    def __init__(self, neurons: Spiking) -> None:
        super().__init__([neurons])

    def forward(
        self, spikes: Float[Tensor, "T B K"], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B N"]:
        layer = self.layers[0]
        assert isinstance(layer, Spiking)
        return torch.cat([super().forward(spikes, tally), potentials(layer, spikes)], -1)


class Parts(NamedTuple):
    """What every layer of a network is made of."""

    neuron: Neuron
    spike: Surrogate
    reads_spikes: bool
    reads_potential: bool = False

    def hidden(self, features: int | None = None) -> list[nn.Module]:
        """Neurons after a linear layer with `features` outputs or channels, and their synapses if any.

        Where `features` is not told, neurons that learn have one value per layer in place of one per feature.
        """
        spiking = Spiking(self.neuron, self.spike, features=features)
        return [spiking] if self.neuron.synapse is None else [spiking, Synapse(self.neuron.synapse)]

    def readout(self, classes: int | None = None) -> nn.Module:
        """Output neurons: they fire, or they only integrate, as the decoder wants it."""
        neuron = self.neuron.output
        if self.reads_spikes:
            spiking = Spiking(neuron, self.spike, features=classes)
            return Observed(spiking) if self.reads_potential else spiking
        return Integrator(neuron, classes)


class Architecture:
    """Layer sizes; builds a network for a kind of neuron."""

    remembers: ClassVar[bool] = False
    """Whether layers carry something from step to step even with neurons that have no memory."""

    def check(self, neuron: Neuron) -> None:
        """Whether the network can be built of this neuron.

        Raises:
            InputError: it has layers that the neuron cannot stand in.
        """

    def neuron(self, own: Neuron) -> Neuron:
        """The neurons of a hidden layer, for a model with the neuron `own`."""
        return own

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        """A network with fresh weights from PyTorch's current generator."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


def _widths(part: object, name: str, widths: tuple[int, ...]) -> None:
    if not all(width >= 1 for width in widths):
        raise InputError(
            f"{type(part).__name__} needs positive layer sizes", f"{name}={widths}", "Try (400,)."
        )


@dataclass(frozen=True)
class MLP(Architecture):
    """Fully connected layers.

    Args:
        hidden: neurons per hidden layer, each at least 1; empty for a linear read-out.

    Source:
        Ding et al. 2023, part 1 (one hidden layer of 100); TSSL-BP (400-400).
    """

    hidden: tuple[int, ...] = (400,)

    def __post_init__(self) -> None:
        _widths(self, "hidden", self.hidden)

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        channels, height, width = inputs
        layers: list[nn.Module] = []
        size = channels * height * width
        for i, hidden in enumerate(self.hidden):
            layers += [OverTime(*[nn.Flatten()][i:], nn.Linear(size, hidden)), *parts.hidden(hidden)]
            size = hidden
        flatten = [nn.Flatten()][len(self.hidden) :]
        layers += [OverTime(*flatten, nn.Linear(size, classes)), parts.readout(classes)]
        return SpikingNetwork(layers)


@dataclass(frozen=True)
class ConvNet(Architecture):
    """Blocks of 3x3 convolution, 2x2 average pooling and neurons, then fully connected layers.

    Pooling comes before the neurons, so what travels from block to block are spikes.

    Args:
        channels: output channels of each block, each at least 1.
        hidden: neurons per fully connected hidden layer, each at least 1.
        batch_norm: normalise convolutions over the merged axes of time and batch.

    Source:
        The customary small convolutional SNN (e.g. TSSL-BP's 15C5-P2-40C5-P2-300, with 3x3 kernels).
    """

    channels: tuple[int, ...] = (16, 32)
    hidden: tuple[int, ...] = ()
    batch_norm: bool = True

    def __post_init__(self) -> None:
        _widths(self, "channels", self.channels)
        _widths(self, "hidden", self.hidden)

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        depth, height, width = inputs
        layers: list[nn.Module] = []
        for channels in self.channels:
            if min(height, width) < 2:
                raise InputError(
                    "ConvNet halves the image once per block",
                    f"{len(self.channels)} blocks for images {inputs}",
                    "Use fewer channels entries.",
                )
            norm = [nn.BatchNorm2d(channels)] if self.batch_norm else []
            convolution = PooledConv2d(depth, channels, bias=not self.batch_norm)
            layers += [OverTime(convolution, *norm), *parts.hidden(channels)]
            depth, height, width = channels, height // 2, width // 2
        head = MLP(self.hidden).build((depth, height, width), classes, parts)
        return SpikingNetwork([*layers, *head.layers])


@dataclass(frozen=True)
class Normalise:
    """Subtract a mean and divide by a standard deviation, per channel and inside the model.

    Applied at every step after encoding, so a silent input becomes the value -mean/std. A code that gives
    every image channel several times is normalised block by block.

    Args:
        mean: per channel, in pixel value.
        std: per channel, in pixel value, positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise InputError(
                "Normalise needs as many positive std as mean values",
                f"mean={self.mean}, std={self.std}",
                "Give one pair per channel.",
            )

    def __call__(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        blocks = x.shape[-3] // len(self.mean)
        mean, std = (x.new_tensor(v * blocks).view(-1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def _check_timed(*parts: object) -> None:
    """Spike times need a code, a network, neurons and a read-out of spike times, and nothing else."""
    parts = tuple(part for part in parts if part is not None)
    timed = [part for part in parts if getattr(part, "timed", False)]
    others = [part for part in parts if part not in timed]
    if timed and others:
        raise InputError(
            f"{timed[0]!r} is about spike times, and so must be code, network, neuron and decoder",
            ", ".join(map(repr, others)),
            "Use a code such as spike-times, the network timed-mlp, a neuron such as fast-and-deep and the "
            "decoder earliest, without normalise.",
        )


def _check_readout(neuron: Neuron, decoder: Decoder) -> None:
    """An early exit needs outputs that later input does not change, a tie-break neurons with a potential."""
    if hasattr(decoder, "exits") and neuron.looks_ahead:
        raise InputError(
            "An early exit needs neurons that answer step by step",
            f"{neuron!r}, whose layers wait for all of their input",
            "Use a decoder without exit, or a neuron such as lif.",
        )
    if reads_potential(decoder):
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            potentials(Spiking(neuron.output, features=1), torch.zeros(getattr(neuron, "steps", 1), 1, 1))


@dataclass(frozen=True)
class ModelSpec:
    """Everything a model is, but for its weights.

    Args:
        encoder: the code.
        network: the architecture.
        neuron: the neuron; `ReLU()` or `Softplus()` makes the ANN twin.
        surrogate: the spike function.
        decoder: the read-out.
        input_shape: channels, height, width.
        classes: number of classes, at least 2.
        normalise: input normalisation inside the model, or None.

    Raises:
        InputError: parts that do not fit each other.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> spec = ModelSpec(Direct(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 10)
        >>> spec.build(Key.of(0))(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    encoder: Encoder
    network: Architecture
    neuron: Neuron
    surrogate: Surrogate
    decoder: Decoder
    input_shape: tuple[int, int, int]
    classes: int
    normalise: Normalise | None = None

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise InputError(
                "input_shape is (channels, height, width)", f"{self.input_shape}", "Try (1, 28, 28)."
            )
        if self.classes < 2:
            raise InputError("A classifier needs two classes", f"classes={self.classes}", "Try 10.")
        self.network.check(self.neuron)
        _check_timed(self.encoder, self.network, self.neuron, self.decoder, self.normalise)
        if not self.neuron.spiking and self.decoder.reads_spikes:
            raise InputError(
                "The ANN twin has no output spikes to read",
                f"neuron={self.neuron!r} with decoder={self.decoder!r}",
                "Use the decoder mean-potential, the mean of its logits.",
            )
        if (check := getattr(self.decoder, "check", None)) is not None:
            check(self.encoder.steps)
        _check_readout(self.neuron, self.decoder)
        if self.normalise and (
            len(self.normalise.mean) != self.input_shape[0] or self.encoded_shape[0] % self.input_shape[0]
        ):
            raise InputError(
                f"Normalise needs {self.input_shape[0]} channel(s)",
                f"{self.normalise!r}",
                "Match the images.",
            )

    @property
    def encoded_shape(self) -> Shape:
        """Channels, height and width that the network sees at every step."""
        return encoded_shape(self.encoder, self.input_shape)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The axes of one example that the model takes: those of an image, or of events."""
        return example_shape(self.encoder, self.input_shape)

    def build(self, key: Key) -> Classifier:
        """A model with fresh weights drawn under `key`; PyTorch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key.fold("weights").seed())
            decoder = self.decoder
            parts = Parts(self.neuron, self.surrogate, decoder.reads_spikes, reads_potential(decoder))
            width = output_width(decoder, self.classes)
            network = self.network.build(self.encoded_shape, width, parts)
            for module in network.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        return Classifier(self, network)


class Inference(NamedTuple):
    """What one forward pass tells about each example."""

    logits: Float[Tensor, "B K"]
    silent: Bool[Tensor, "B"]
    spikes: Float[Tensor, "B"]  # input spikes and spikes of every layer, up to the decision
    exit: Float[Tensor, "B"]  # steps used for the decision, 1..T; NaN where it is not known
    by_step: Int64[Tensor, "B T"]  # the decision if time were up after each step


class Classifier(nn.Module):
    """Images in [0, 1] to logits, through code, network and decoder; every call starts at rest.

    Shapes:
        images `[B, C, H, W]` in [0, 1] -> logits `[B, K]`
    """

    def __init__(self, spec: ModelSpec, network: SpikingNetwork) -> None:
        super().__init__()
        self.spec = spec
        self.encoder: Encoder = spec.encoder
        self.network = network
        self.lineage = object()  # shared by twins that give the same spikes, and by nothing else

    @property
    def stochastic(self) -> bool:
        """Whether equal images can get different logits."""
        return self.encoder.stochastic

    def outputs(
        self, images: Float[Tensor, "B C H W"], key: Key | None = None, tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B K"]:
        """Activity of the output layer over time."""
        return self.respond(self.encode(images, key, tally), tally)

    def respond(
        self, encoded: Float[Tensor, "T B ..."], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B K"]:
        """Activity of the output layer for an input that is coded already."""
        out: Tensor = self.network(self.spec.normalise(encoded) if self.spec.normalise else encoded, tally)
        return out

    def watch(
        self, images: Float[Tensor, "B C H W"], key: Key | None = None, *, potential: bool = False
    ) -> Watched:
        """What the output layer does, for objectives that look at more than logits.

        Args:
            images: as for a call.
            key: as for a call.
            potential: whether to show potentials of output neurons too.

        Raises:
            InputError: potentials of neurons that have none.
        """
        if not potential:
            return Watched(self.outputs(images, key), self.spec.decoder)
        encoded = self.encode(images, key)
        outputs, potentials = self.network.watch(
            self.spec.normalise(encoded) if self.spec.normalise else encoded
        )
        return Watched(outputs, self.spec.decoder, potentials)

    def read(self, encoded: Float[Tensor, "T B ..."]) -> Float[Tensor, "B K"]:
        """Logits for an input that is coded already: where attacks on spikes take their gradient."""
        return self.spec.decoder(self.respond(encoded.to(next(self.network.parameters()).dtype)))

    def encode(
        self, images: Float[Tensor, "B C H W"], key: Key | None = None, tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B ..."]:
        """What the network is given: spikes or currents over time."""
        shape = self.spec.example_shape
        if tuple(images.shape[1:]) != shape:
            what = "images" if len(shape) == 3 else "events"
            raise InputError(
                f"The model expects {what} [B, {', '.join(map(str, shape))}]",
                f"shape {list(images.shape)}",
                "Add the batch or channel axis, or use a model that was built for this size.",
            )
        dtype = next(self.network.parameters()).dtype
        encoded = self.encoder(images, None if key is None else key.fold("encoder"))
        if tally is not None and self.encoder.spiking:
            tally.append(spike_counts(self.encoder, encoded))
        return encoded.to(dtype)

    def forward(self, images: Float[Tensor, "B C H W"], key: Key | None = None) -> Float[Tensor, "B K"]:
        return self.spec.decoder(self.outputs(images, key))

    @torch.no_grad()
    def infer(self, images: Float[Tensor, "B C H W"], key: Key | None = None) -> Inference:
        """Logits together with what the decision rests on."""
        tally: list[Tensor] = []
        outputs = self.outputs(images, key, tally)
        decoder = self.spec.decoder
        steps = exit_steps(decoder, outputs)
        used = torch.arange(len(outputs), device=outputs.device)[:, None] < steps
        counts = [torch.where(used, layer, 0).sum(0) for layer in tally]
        spikes = torch.stack(counts).sum(0) if counts else torch.zeros(len(images), device=images.device)
        return Inference(
            decoder(outputs),
            silent(activity(decoder, outputs)),
            spikes.float(),
            steps.float(),
            torch.stack([decide(logits) for logits in by_step(decoder, outputs)], 1),
        )


def substitute(
    model: Classifier,
    *,
    spike: Surrogate | None = None,
    backward: BackwardRule | None = None,
    unroll: Unroll | None = None,
) -> Classifier:
    """The same model, sharing every tensor, with other parts that change gradients and no spike.

    The original is untouched. Take the twin before `torch.compile`.

    Args:
        model: the model to look through.
        spike: another surrogate for every spiking layer.
        backward: another backward rule for the encoder.
        unroll: another loop over time for every spiking layer, or a gradient rule.

    Raises:
        InputError: a rule does not fit the encoder or the network.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> spec = ModelSpec(Direct(4), MLP((8,)), LIF(), ATan(2.0), Count(), (1, 8, 8), 10)
        >>> model = spec.build(Key.of(0)); x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(model(x), substitute(model, spike=ATan(9.0))(x))
        True
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    twin.lineage = model.lineage
    if backward is not None:
        twin.encoder = with_backward(twin.encoder, backward)
    for layer in twin.modules():
        if isinstance(layer, Spiking):
            if isinstance(unroll, GradientRule):
                unroll.check(layer.neuron)
            layer.spike = layer.spike if spike is None else spike
            layer.unroll = layer.unroll if unroll is None else unroll
    if isinstance(unroll, GradientRule):
        unroll.place(twin.network)
    return twin


def probed(model: Classifier, probe: Probe) -> Classifier:
    """The same model, sharing every tensor, whose network sees spikes that a probe has changed.

    The original is untouched.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Latency
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.probes import Reversal
        >>> from spikeproof.surrogates import ATan
        >>> model = ModelSpec(Latency(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(probed(model, Reversal()).encoder(x), Latency(4)(x).flip(0))
        True
    """
    twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    twin.encoder = Probed(twin.encoder, probe)
    return twin
