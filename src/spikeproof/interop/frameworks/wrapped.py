"""A network of another framework as a model of ours: every call starts at rest and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.encoders import BackwardRule, with_backward
from spikeproof.errors import InputError
from spikeproof.gradients import GradientRule, RateRule
from spikeproof.interop.frameworks.adapters import (
    Adapter,
    Layout,
    Spot,
    at_rest,
    modules_inside,
    named_parts,
    refuse_training,
    resting,
)
from spikeproof.interop.frameworks.exchange import Asked, exchanged
from spikeproof.keys import Key
from spikeproof.networks.outside import Outside
from spikeproof.protocols import (
    Decoder,
    Encoder,
    Watched,
    check_key,
    check_range,
    check_tensors,
    takes_events,
)
from spikeproof.surrogates import Surrogate

__all__ = ["AsItIs", "Reading", "Sum", "TheirEncoder", "Wrapped", "called", "picked", "seeded"]

Call = Callable[..., Any]
"""A network of any framework: what it answers is a tensor, or a tuple of tensors and states."""


@dataclass(frozen=True)
class Sum:
    """The sum over time of outputs that are no spikes.

    Example:
        >>> Sum()(torch.tensor([[[1.5, 0.0]], [[1.0, 1.0]]])).tolist()
        [[2.5, 1.0]]
    """

    reads_spikes: ClassVar[bool] = False

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        return outputs.sum(0)


@dataclass(frozen=True)
class AsItIs:
    """The input of a network in which time passes inside: the image itself.

    Args:
        stochastic: whether the network draws random numbers.

    Example:
        >>> AsItIs()(torch.ones(2, 3)).shape
        torch.Size([1, 2, 3])
    """

    stochastic: bool = False
    steps: ClassVar[int] = 1
    spiking: ClassVar[bool] = False

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "1 B *F"]:
        return x[None]


@dataclass(frozen=True)
class TheirEncoder:
    """An encoder of another framework in the call of ours.

    One that draws random numbers draws for every example under its own key. Where it has no gradient of its
    own, the gradient of every step goes straight to the image.

    Args:
        call: images `[B, *F]` to spikes `[T, B, *F]`, or to those of one step.
        steps: number of time steps.
        stochastic: whether it draws.
        repeated: whether it is called once for every step.

    Example:
        >>> twice = TheirEncoder(lambda x: torch.stack([x, x]), 2, False, False)
        >>> twice(torch.ones(3, 4)).shape
        torch.Size([2, 3, 4])
    """

    call: Callable[[Tensor], Tensor]
    steps: int
    stochastic: bool
    repeated: bool
    spiking: ClassVar[bool] = True

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        if self.stochastic and key is not None:
            encoded = seeded(self._encoded, x, key, batch=1)
        else:
            encoded = self._encoded(x)
        if encoded.requires_grad or not x.requires_grad or encoded.shape[1:] != x.shape:
            return encoded
        return encoded + (x - x.detach())

    def _encoded(self, x: Tensor) -> Tensor:
        if not self.repeated:
            return self.call(x)
        return torch.stack([self.call(x) for _ in range(self.steps)])


def seeded(call: Callable[[Tensor], Tensor], x: Float[Tensor, "B *F"], key: Key, batch: int = 0) -> Tensor:
    """Answers to examples one after the other, each with PyTorch's generator under its own key.

    Args:
        call: examples to answers; it draws from the global generator, which is left as it was.
        x: examples.
        key: with rows, an example's draws do not depend on the others; otherwise on its place.
        batch: the axis of examples in answers.

    Example:
        >>> noisy = lambda x: x + torch.rand_like(x)
        >>> key, x = Key.of(0).for_rows([7, 8]), torch.zeros(2, 1)
        >>> torch.equal(seeded(noisy, x, key)[1:], seeded(noisy, x[1:], Key.of(0).for_rows([8])))
        True
    """
    rows = range(len(x)) if key.rows is None else key.rows
    answers = []
    devices = [x.device] if x.device.type != "cpu" else []
    for i, row in enumerate(rows):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(key.seed(row))
            answers.append(call(x[i : i + 1]))
    return torch.cat(answers, batch)


@dataclass(frozen=True)
class Reading:
    """How a network is called and how its answer is read.

    Args:
        layout: how it is called.
        encoder: what turns examples into its input.
        decoder: what reads its outputs over time; of a network that reads them itself, the only step.
        axes: order of its outputs' axes as `[T, B, K]`; None for logits `[B, K]`.
        output: which part of its answer is read, of several; None for the only one.
        passes: whether a call for one step takes the state that the one before returned.
        classes: number of classes.
        shape: of one example.
        draws: whether the network itself draws random numbers.
        counts: whether outputs are whole numbers, spikes or counts of them.
        spiking: whether the surrogates of all its neurons can be exchanged.
        reset: what brings a network of no known framework to rest, or None.
    """

    layout: Layout
    encoder: Encoder
    decoder: Decoder
    axes: tuple[int, int, int] | None
    output: int | str | None
    passes: bool
    classes: int
    shape: tuple[int, ...]
    draws: bool = False
    counts: bool = False
    spiking: bool = False
    reset: Callable[[], object] | None = None


def picked(answer: Any, output: int | str | None) -> Tensor:
    """The tensor that is read, of all that a network returned.

    Raises:
        InputError: several tensors, and nobody said which.

    Example:
        >>> picked((torch.ones(2), [torch.zeros(2)]), None)
        tensor([1., 1.])
    """
    if isinstance(answer, Tensor):
        return answer
    if output is not None:
        try:
            return picked(answer[output], None)
        except (LookupError, TypeError) as error:
            raise InputError(
                f"output={output!r} names a part of what the network returns",
                f"{type(answer).__name__} and {type(error).__name__}",
                "Give the position or the name of the tensor that decides.",
            ) from error
    if isinstance(answer, list) and answer and all(isinstance(part, Tensor) for part in answer):
        return torch.stack(answer)
    tensors = [part for part in answer if isinstance(part, Tensor)] if isinstance(answer, tuple) else []
    if len(tensors) != 1:
        raise InputError(
            "A network that returns one tensor, or output= with the position of the one that decides",
            _listed(answer, tensors),
            "snnTorch returns spikes first: output=0 reads spikes, output=1 potentials.",
        )
    return tensors[0]


def _listed(answer: object, tensors: Sequence[Tensor]) -> str:
    if isinstance(answer, dict):
        return f"{type(answer).__name__} with the names {', '.join(map(repr, answer))}"[:200]
    shapes = [list(part.shape) for part in tensors]
    return f"{type(answer).__name__} with tensors of shapes {shapes}" if shapes else type(answer).__name__


def called(
    call: Call, layout: Layout, x: Float[Tensor, "T B *F"], output: int | str | None, passes: bool
) -> Tensor:
    """What a network answers to an input over time, its axes as they are.

    Args:
        call: the network.
        layout: how it is called.
        x: of one step where time passes inside.
        output: which part of an answer is read.
        passes: whether the state that a call returns is given to the next one.

    Raises:
        InputError: the network changes its input in place.
    """
    before = _changes(x)
    answer = _called(call, layout, x, output, passes)
    if _changes(x) != before:
        raise InputError(
            "A network that leaves its input as it is",
            "an operation in place on it",
            "Let it begin with x = x.clone(), or without operations such as x.sub_(...).",
        )
    return answer


def _changes(x: Tensor) -> int:
    """The number of operations in place on a tensor or a view of it; in inference mode none counts."""
    return 0 if x.is_inference() else x._version


def _called(call: Call, layout: Layout, x: Tensor, output: int | str | None, passes: bool) -> Tensor:
    if layout is Layout.INSIDE:
        return picked(call(x[0]), output)
    if layout is Layout.FIRST:
        return picked(call(x), output)
    if layout is Layout.SECOND:
        return picked(call(x.transpose(0, 1)), output)
    if layout is Layout.FLAT:
        flat = picked(call(x.transpose(0, 1).flatten(0, 1)), output)
        return flat.reshape(x.shape[1], len(x), *flat.shape[1:])
    steps, state = [], None
    for i in x:
        answer = call(i, state) if passes else call(i)
        if passes:
            answer, state = answer
        steps.append(picked(answer, output))
    return torch.stack(steps)


class Wrapped(nn.Module):
    """A network of another framework from images, or events, to logits; made by `wrap`.

    It shares the network with its owner, and leaves it as it was: every call starts from the state that the
    framework's own reset gives and puts back what was there.

    A call without a key, as attacks of other libraries make it, takes images outside [0, 1] too: it answers
    for the nearest image inside, with a gradient that passes straight through, and `outside` counts them.

    Args:
        call: the network, or a function that calls it.
        adapters: those of the frameworks that it is made with.
        reading: how it is called and read.
        asked: derivatives in place of those of its neurons.
        lineage: shared with twins that give the same answers.

    Shapes:
        images `[B, *F]` -> logits `[B, K]`
    """

    def __init__(
        self,
        call: Call,
        adapters: Sequence[Adapter],
        reading: Reading,
        asked: Asked = Asked(),
        lineage: object = None,
    ) -> None:
        super().__init__()
        nets = modules_inside(call)
        self.nets = nn.ModuleList(nets)
        self.function = None if isinstance(call, nn.Module) else call
        self.adapters, self.reading, self.asked = tuple(adapters), reading, asked
        self.lineage = object() if lineage is None else lineage
        self.outside = Outside()
        self.training = self.nets.training = False
        self.parts = tuple(named_parts(nets))
        self.resting = resting(nets, self.adapters)
        self.coding = resting(modules_inside(reading.encoder), self.adapters)

    @property
    def call(self) -> Call:
        """The network, or the function that calls it."""
        return self.nets[0] if self.function is None else self.function

    @property
    def encoder(self) -> Encoder:
        """What turns examples into the network's input."""
        return self.reading.encoder

    @property
    def decoder(self) -> Decoder:
        """What reads the network's outputs over time."""
        return self.reading.decoder

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.reading.classes

    @property
    def stochastic(self) -> bool:
        """Whether equal images can get different logits."""
        return self.encoder.stochastic or self.reading.draws

    @property
    def spiking(self) -> bool:
        """Whether the surrogates of all its neurons can be exchanged."""
        return self.reading.spiking

    @property
    def counts(self) -> bool:
        """Whether logits are sums of spikes."""
        return self.reading.counts

    def spots(self) -> list[Spot]:
        """The spike functions of its layers."""
        return [spot for adapter, module in self._layers() for spot in adapter.spots(module)]

    def _layers(self) -> list[tuple[Adapter, nn.Module]]:
        return [(adapter, module) for _, module in self.parts for adapter in self.adapters]

    @contextmanager
    def _ready(self, batch: int) -> Iterator[None]:
        """A context in which every neuron is at rest and has the derivative of this twin."""
        refuse_training(self.parts)
        with at_rest(self.resting), exchanged(self._layers() if self.asked else [], self.asked, batch):
            if self.reading.reset is not None:
                self.reading.reset()
            yield

    def encode(self, images: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        """The input of the network over time."""
        check_tensors(images=images)
        if key is not None:
            check_key(key)
        if tuple(images.shape[1:]) != self.reading.shape:
            raise InputError(
                f"The network was wrapped for examples [B, {', '.join(map(str, self.reading.shape))}]",
                f"shape {list(images.shape)}",
                "Wrap it again with examples of this shape.",
            )
        first = next(self.parameters(), images)
        images = images.to(first.dtype) if images.is_floating_point() else images
        with at_rest(self.coding):
            return self.encoder(images, None if key is None else key.fold("encoder"))

    def respond(self, encoded: Float[Tensor, "T B *F"], key: Key | None = None) -> Float[Tensor, "T B K"]:
        """Outputs over time for an input that is encoded already."""
        if self.reading.draws and key is not None:
            batch_first = encoded.transpose(0, 1)
            return seeded(lambda x: self._answer(x.transpose(0, 1)), batch_first, key.fold("net"), batch=1)
        return self._answer(encoded)

    def _answer(self, encoded: Tensor) -> Tensor:
        read = self.reading
        with self._ready(encoded.shape[1]):
            found = called(self.call, read.layout, encoded, read.output, read.passes)
        return found[None] if read.axes is None else found.permute(read.axes)

    def watch(
        self, images: Float[Tensor, "B *F"], key: Key | None = None, *, potential: bool = False
    ) -> Watched:
        """Outputs over time, for objectives that depend on more than logits.

        Raises:
            InputError: potentials of output neurons are asked for, which frameworks keep to themselves.
        """
        if potential:
            raise InputError(
                "Potentials of output neurons are known of networks of spikeproof",
                "a network of another framework",
                "Use an objective of logits, such as margin.",
            )
        return Watched(self.respond(self.encode(images, key), key), self.decoder)

    def read(self, encoded: Float[Tensor, "T B *F"]) -> Float[Tensor, "B K"]:
        """Logits for an input that is encoded already."""
        first = next(self.parameters(), encoded)
        return self.decoder(self.respond(encoded.to(first.dtype)))

    def forward(self, images: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "B K"]:
        check_tensors(images=images)
        if not takes_events(self.encoder):
            if key is None:
                return self.outside.answer(images, self._logits)
            check_range(images, type(self).__name__)
        return self._logits(images, key)

    def _logits(self, images: Tensor, key: Key | None = None) -> Tensor:
        return self.decoder(self.respond(self.encode(images, key), key))

    def admits(self, rule: GradientRule) -> None:
        """Whether the neurons can be differentiated by a rule.

        Raises:
            InputError: they cannot.
        """
        self._check_known(repr(rule))
        if not isinstance(rule, RateRule):
            rule.fit(0, 1, 1.0)
        first, n = next(self.parameters(), torch.zeros(1)), 2 if self.encoder.steps != 2 else 3
        middle = 0.0 if takes_events(self.encoder) else 0.5
        few = torch.full((n, *self.reading.shape), middle, dtype=first.dtype, device=first.device)
        key = Key.of(0).for_rows(range(n))
        with torch.enable_grad():
            Wrapped(self.call, self.adapters, self.reading, Asked(rule=rule)).respond(
                self.encode(few, key), key
            )

    def substituted(
        self, surrogate: Surrogate | None, backward: BackwardRule | None, rule: GradientRule | None
    ) -> Wrapped:
        """The same network with other derivatives and the same answers.

        Raises:
            InputError: neurons that are not known, or a rule for another encoder or for neurons of ours.
        """
        reading, asked = self.reading, self.asked
        if backward is not None:
            reading = replace(reading, encoder=with_backward(self.encoder, backward))
        if rule is not None:
            self.admits(rule)
            asked = Asked(rule=rule)
        elif surrogate is not None:
            self._check_known(repr(surrogate))
            asked = Asked(surrogate)
        return Wrapped(self.call, self.adapters, reading, asked, self.lineage)

    def _check_known(self, wanted: str) -> None:
        if not self.spiking:
            raise InputError(
                "Other derivatives need neurons whose surrogates are known and can be exchanged",
                f"{wanted} for {type(self.call).__name__}",
                "Use attacks without a surrogate: stand-in, other objectives, searches.",
            )

    def extra_repr(self) -> str:
        names = ", ".join(adapter.title for adapter in self.adapters) or "PyTorch"
        return f"{names}, {self.reading.layout.value}, {self.encoder!r}, {self.decoder!r}"
