"""The classifier: encoder, network and decoder in one stateless module, and the spec it is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from spikeproof.compiled import chosen_span
from spikeproof.decoders import activity, by_step, decide, exit_steps, silent
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import Architecture, Parts, SpikingNetwork
from spikeproof.networks.lean.firstlayer import FirstLayer, first_layer
from spikeproof.networks.lean.spans import in_spans, why_not_in_spans
from spikeproof.networks.outside import Outside
from spikeproof.neurons import Neuron, Spiking, potentials
from spikeproof.protocols import (
    Decoder,
    Encoder,
    Shape,
    Watched,
    check_key,
    check_tensors,
    encoded_shape,
    example_shape,
    output_width,
    reads_current,
    reads_potential,
    spike_counts,
    takes_events,
)
from spikeproof.surrogates import Surrogate

__all__ = ["Classifier", "Inference", "ModelSpec", "Normalise"]


@dataclass(frozen=True)
class Normalise:
    """Subtract a mean and divide by a standard deviation, per channel and inside the model.

    The normalisation is applied at every time step after the encoder, so a silent input becomes the value
    -mean/std. If the encoder repeats the image channels in several blocks, each block is normalised. An
    input that is the same at every step is normalised once and stays one tensor expanded over time.

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
        if len(x) > 1 and x.stride(0) == 0:
            return ((x[0] - mean) / std).expand_as(x)
        return (x - mean) / std


def _check_timed(*parts: object) -> None:
    """Check that all parts work on spike times (encoder, network, neuron, decoder) or that none does."""
    parts = tuple(part for part in parts if part is not None)
    timed = [part for part in parts if getattr(part, "timed", False)]
    others = [part for part in parts if part not in timed]
    if timed and others:
        raise InputError(
            f"{timed[0]!r} works on spike times, as all parts must",
            ", ".join(map(repr, others)),
            "Use an encoder such as spike-times, the network timed-mlp, a neuron such as fast-and-deep "
            "and the decoder earliest, without normalise.",
        )


def _check_readout(neuron: Neuron, decoder: Decoder) -> None:
    """An early exit needs outputs that later input does not change; breaking ties needs potentials."""
    if hasattr(decoder, "exits") and neuron.looks_ahead:
        raise InputError(
            "An early exit needs neurons that fire step by step",
            f"{neuron!r}, whose layers wait for all of their input",
            "Use a decoder without early exit, or a neuron such as lif.",
        )
    if reads_potential(decoder):
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            potentials(Spiking(neuron.output, features=1), torch.zeros(getattr(neuron, "steps", 1), 1, 1))


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a model: all of its parts, without its weights.

    Args:
        encoder: the encoder.
        network: the architecture.
        neuron: the neuron; `ReLU()` or `Softplus()` makes the ANN twin.
        surrogate: the spike function.
        decoder: the decoder.
        input_shape: channels, height, width.
        classes: number of classes, at least 2.
        normalise: input normalisation inside the model, or None.

    Raises:
        InputError: the parts do not fit each other.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Direct
        >>> from spikeproof.networks import MLP
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
                "A model needs an input_shape of (channels, height, width)",
                f"{self.input_shape}",
                "Try (1, 28, 28).",
            )
        if self.classes < 2:
            raise InputError("A classifier needs two classes", f"classes={self.classes}", "Try 10.")
        self.network.check(self.neuron)
        _check_timed(self.encoder, self.network, self.neuron, self.decoder, self.normalise)
        if not self.neuron.spiking and self.decoder.reads_spikes:
            raise InputError(
                "The ANN twin has no output spikes to read",
                f"neuron={self.neuron!r} with decoder={self.decoder!r}",
                "Use the decoder mean-current, the mean of its logits.",
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
                "Give one pair per image channel.",
            )

    @property
    def encoded_shape(self) -> Shape:
        """Channels, height and width of the network's input at every step."""
        return encoded_shape(self.encoder, self.input_shape)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example that the model takes, which is an image or holds events."""
        return example_shape(self.encoder, self.input_shape)

    def build(self, key: Key) -> Classifier:
        """A model with new weights, drawn under `key`; PyTorch's global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key.fold("weights").seed())
            decoder = self.decoder
            parts = Parts(
                self.neuron,
                self.surrogate,
                decoder.reads_spikes,
                reads_potential=reads_potential(decoder),
                reads_current=reads_current(decoder),
            )
            width = output_width(decoder, self.classes)
            network = self.network.build(self.encoded_shape, width, parts)
            for module in network.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.is_meta:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        return Classifier(self, network)


ANSWERING = ("__call__", "encode", "forward", "infer", "outputs", "read", "respond", "watch")
"""Methods of a classifier that give its answers, or parts of them."""


class Inference(NamedTuple):
    """The results of one forward pass for each example."""

    logits: Float[Tensor, "B K"]
    silent: Bool[Tensor, "B"]
    spikes: Float[Tensor, "B"]  # input spikes and spikes of every layer, up to the decision
    exit: Float[Tensor, "B"]  # steps used for the decision, 1..T; NaN where it is not known
    by_step: Int64[Tensor, "B T"]  # the decision if the forward pass ended after each step


class Classifier(nn.Module):
    """A model from images in [0, 1] to logits: encoder, network and decoder; every call starts at rest.

    Attributes:
        outside: None where images outside [0, 1] are refused. Models that `load` and `wrap` return have a
            record here: a call without a key, as attacks of other libraries make it, is answered for the
            nearest image in [0, 1], with a gradient that passes straight through, and counted. Evaluations
            call with a key, and refuse images outside [0, 1] whatever stands here.

    Shapes:
        images `[B, C, H, W]` in [0, 1] -> logits `[B, K]`
    """

    def __init__(self, spec: ModelSpec, network: SpikingNetwork) -> None:
        super().__init__()
        self.spec = spec
        self.encoder: Encoder = spec.encoder
        self.network = network
        self.lineage = object()  # shared by twins that give the same spikes, and by nothing else
        self.outside: Outside | None = None

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
        """Activity of the output layer for an input that is encoded already."""
        normal = self.spec.normalise(encoded) if self.spec.normalise else encoded
        span = chosen_span()
        if span is not None and not why_not_in_spans(self.network):
            return in_spans(self.network, normal, span, tally)
        out: Tensor = self.network(normal, tally)
        return out

    def watch(
        self, images: Float[Tensor, "B C H W"], key: Key | None = None, *, potential: bool = False
    ) -> Watched:
        """Activity of the output layer, for objectives that depend on more than logits.

        Args:
            images: as for a call.
            key: as for a call.
            potential: whether to return the potentials of output neurons too.

        Raises:
            InputError: the output neurons have no potentials.
        """
        if not potential:
            return Watched(self.outputs(images, key), self.spec.decoder)
        encoded = self.encode(images, key)
        outputs, potentials = self.network.watch(
            self.spec.normalise(encoded) if self.spec.normalise else encoded
        )
        return Watched(outputs, self.spec.decoder, potentials)

    def read(self, encoded: Float[Tensor, "T B ..."]) -> Float[Tensor, "B K"]:
        """Logits for an input that is encoded already; attacks on spikes take their gradient here."""
        return self.spec.decoder(self.respond(encoded.to(next(self.network.parameters()).dtype)))

    @property
    def altered(self) -> bool:
        """Whether a hook, or a method of another class, may give a call other logits than the parts give."""
        hooked = bool(self._forward_hooks or self._forward_pre_hooks)
        replaced = any(
            name in vars(self) or getattr(type(self), name) is not getattr(Classifier, name)
            for name in ANSWERING
        )
        return hooked or replaced

    def first_layer(self) -> FirstLayer | None:
        """The first layer apart from the rest, if it is linear and takes what the encoder gives."""
        if self.altered or type(self) is not Classifier or self.spec.normalise is not None:
            return None
        return first_layer(self.network, self.spec.decoder, math.prod(self.spec.encoded_shape))

    def encode(
        self, images: Float[Tensor, "B C H W"], key: Key | None = None, tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B ..."]:
        """The input of the network: spikes or currents over time."""
        check_tensors(images=images)
        if key is not None:
            check_key(key)
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
        if key is None and self.outside is not None and not takes_events(self.encoder):
            check_tensors(images=images)
            return self.outside.answer(images, lambda inside: self.spec.decoder(self.outputs(inside)))
        return self.spec.decoder(self.outputs(images, key))

    @torch.no_grad()
    def infer(self, images: Float[Tensor, "B C H W"], key: Key | None = None) -> Inference:
        """Logits, together with spike counts, exit steps and the decision after every step."""
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
