"""Protocols: what every encoder, decoder, network, model and threat provides, and how attacks are called.

Axes: `T` time, `B` batch, `C H W` image, `F` features, `K` classes. Time comes first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
import torch.fx
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = [
    "BLOCK",
    "Coded",
    "Context",
    "Decoder",
    "Encoder",
    "Extreme",
    "Keep",
    "Model",
    "Network",
    "Seen",
    "Shape",
    "Threat",
    "Watched",
    "acting_as_in_training",
    "attack_call",
    "check_key",
    "check_kind_of_threat",
    "check_range",
    "check_tensors",
    "encoded_shape",
    "example_shape",
    "exported",
    "in_training",
    "kept_under",
    "moves_events",
    "output_width",
    "reads_current",
    "reads_potential",
    "spike_count",
    "spike_counts",
    "takes_events",
    "unkept",
]

Call = TypeVar("Call", bound=Callable[..., Any])
Kept = TypeVar("Kept")

BLOCK = 32
"""Batches of whole blocks fill every vector register, and then each of their rows is rounded alike."""

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Keep(Protocol):
    """Gives a part of a long measurement: computed now, or as an earlier process computed and kept it.

    A part is a tensor, which is kept to the bit, or plain data, which come back as JSON has them.
    """

    def __call__(self, name: str, compute: Callable[[], Kept], /) -> Kept:
        """The part of this name, which no other part of the measurement has."""
        ...


def unkept(name: str, compute: Callable[[], Kept], /) -> Kept:
    """Compute a part and keep nothing.

    Example:
        >>> unkept("sum", lambda: 1 + 1)
        2
    """
    return compute()


def kept_under(keep: Keep, heading: str) -> Keep:
    """Keep parts under names that begin with a heading.

    Example:
        >>> names = []
        >>> def noting(name, compute):
        ...     names.append(name)
        ...     return compute()
        >>> kept_under(noting, "layer 1")("counts", lambda: 3), names
        (3, ['layer 1 counts'])
    """

    def under(name: str, compute: Callable[[], Kept], /) -> Kept:
        return keep(f"{heading} {name}", compute)

    return under


@runtime_checkable
class Encoder(Protocol):
    """An encoder turns images into spikes or currents over time.

    An encoder that gives more channels than the image has also declares `output_shape(shape) -> shape`; one
    whose examples are not images declares `example_shape(shape) -> shape`; one in whose output a value may
    stand for several spikes declares a true `counts`; one that takes whole events declares a true `events`.
    """

    @property
    def steps(self) -> int:
        """Number of time steps `T`."""

    @property
    def stochastic(self) -> bool:
        """Whether equal images under different keys give different spikes."""

    @property
    def spiking(self) -> bool:
        """Whether the output consists of spikes, zero where there is none; otherwise it is a current."""

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        """Encode values in [0, 1]."""


@runtime_checkable
class Decoder(Protocol):
    """A decoder turns the output layer's activity over time into one score per class.

    A decoder that needs more than one output neuron per class also declares `width(classes) -> int`; one that
    is given the neurons' potentials beside their spikes declares a true `reads_potential`; one that is given
    the current into the output layer in place of its activity declares a true `reads_current`; one that may
    decide before the last step declares `exits(outputs) -> steps used`.
    """

    @property
    def reads_spikes(self) -> bool:
        """Whether output neurons fire; otherwise they only integrate, or there are none."""

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        """Logits."""


@runtime_checkable
class Network(Protocol):
    """A network turns spikes into outputs; two equal calls give equal results."""

    def __call__(self, spikes: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B K"]:
        """Run over all time steps, from rest."""


@runtime_checkable
class Model(Protocol):
    """A model turns images into logits; attacks and evaluation use nothing else."""

    def __call__(self, images: Float[Tensor, "B *F"], key: Key | None = None, /) -> Float[Tensor, "B K"]:
        """Logits; randomness, if any, comes from `key`."""


@runtime_checkable
class Coded(Protocol):
    """A model that also takes inputs between its encoder and its network."""

    encoder: Encoder

    def read(self, encoded: Float[Tensor, "T B *F"]) -> Float[Tensor, "B K"]:
        """Logits for an input that is encoded already."""


@runtime_checkable
class Threat(Protocol):
    """The set of inputs an attacker may choose from, around each clean input.

    A threat whose members hold whole events, and not pixels, declares a true `discrete`.
    """

    @property
    def epsilon(self) -> float:
        """Size of the set."""

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """A random member of the set."""

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The member of the set to which `x_adv` is projected."""

    def contains(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
        """Whether `x_adv` is a member."""

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """How far `x_adv` is from `x`, in the unit of epsilon."""

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The unit step that raises a linear function with this gradient most."""


def check_range(x: Float[Tensor, "..."], who: str) -> None:
    """Refuse values outside [0, 1], NaN included.

    Raises:
        InputError: some value is below 0, above 1 or not a number.
    """
    if x.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(x.detach()))
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"{who} expects values in [0, 1]",
            f"min {low:.4g}, max {high:.4g}, shape {list(x.shape)}",
            "Scale images to [0, 1]; if they are normalised, undo that and give the model its `normalise` "
            "part instead.",
        )


def encoded_shape(encoder: Encoder, shape: Shape) -> Shape:
    """Channels, height and width of the encoder's output, for images of this shape."""
    declared = getattr(encoder, "output_shape", None)
    return shape if declared is None else declared(shape)


def example_shape(encoder: Encoder, shape: Shape) -> tuple[int, ...]:
    """The shape of one example that the encoder takes, for images of this shape."""
    declared = getattr(encoder, "example_shape", None)
    return shape if declared is None else declared(shape)


def takes_events(encoder: object) -> bool:
    """Whether examples for this encoder are whole events, and not values in [0, 1]."""
    return bool(getattr(encoder, "events", False))


def moves_events(threat: object) -> bool:
    """Whether members of this threat hold whole events, and not pixels."""
    return bool(getattr(threat, "discrete", False))


@runtime_checkable
class Seen(Threat, Protocol):
    """A threat of an object in a scene, which other views of the scene show otherwise."""

    @property
    def views(self) -> int:
        """Number of random views by which a member is judged besides the image itself."""

    def seen(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """Each member in one random view; of the clean image where that is the member."""


class Extreme(Threat, Protocol):
    """A threat that can find its member at which a linear function is largest."""

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The member around `x` at which a linear function with this gradient is largest."""


class Context(Protocol):
    """The tensors that an autograd function keeps from its forward pass for its backward pass.

    A function that keeps more than tensors declares it in a protocol of its own.
    """

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Mark the outputs that have no gradient."""


class Watched(NamedTuple):
    """The output layer's activity over time, and the decoder that reads it."""

    outputs: Float[Tensor, "T B N"]
    decoder: Decoder
    potential: Float[Tensor, "T B M"] | None = None  # of output neurons, as if they never fired


def output_width(decoder: Decoder, classes: int) -> int:
    """Number of output neurons that the decoder needs for this number of classes."""
    declared = getattr(decoder, "width", None)
    return classes if declared is None else int(declared(classes))


def reads_potential(decoder: Decoder) -> bool:
    """Whether the decoder is given the output neurons' potentials beside their spikes."""
    return bool(getattr(decoder, "reads_potential", False))


def reads_current(decoder: Decoder) -> bool:
    """Whether the decoder is given the current into the output layer, which then has no neurons."""
    return bool(getattr(decoder, "reads_current", False))


def spike_counts(encoder: Encoder, spikes: Float[Tensor, "T B *F"]) -> Int64[Tensor, "T B"]:
    """Number of spikes per step and example of an encoder's output; a current has none.

    A weighted spike is one spike, whatever its amplitude; a count of n is n spikes.
    """
    if not encoder.spiking:
        return torch.zeros(spikes.shape[:2], dtype=torch.int64, device=spikes.device)
    values = spikes.detach().flatten(2)
    if getattr(encoder, "counts", False):
        return values.sum(2).long()
    return (values != 0).sum(2)


def spike_count(encoder: Encoder, spikes: Float[Tensor, "T B *F"]) -> Int64[Tensor, "B"]:
    """Number of spikes per example of an encoder's output, over all steps."""
    return spike_counts(encoder, spikes).sum(0)


def check_tensors(**given: object) -> None:
    """Refuse what is no PyTorch tensor.

    Args:
        given: each value under the word that names it in the message.

    Raises:
        InputError: a value is something else, such as a NumPy array.

    Example:
        >>> check_tensors(images=[0.5])
        Traceback (most recent call last):
        spikeproof.errors.InputError: The images must be a PyTorch tensor: got list. Try torch.as_tensor(...).
    """
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"The {name} must be a PyTorch tensor", type(value).__name__, "Try torch.as_tensor(...)."
            )


def check_key(key: object) -> None:
    """Refuse what is no key.

    Raises:
        InputError: the value is something else, such as None or a number.

    Example:
        >>> check_key(0)
        Traceback (most recent call last):
        spikeproof.errors.InputError: Expected a key, which names all random draws: got 0. Try Key.of(0).
    """
    if not isinstance(key, Key):
        raise InputError("Expected a key, which names all random draws", repr(key)[:80], "Try Key.of(0).")


def check_kind_of_threat(threat: object) -> None:
    """Refuse what is no threat.

    Raises:
        InputError: the value has no epsilon, or it is the class of a threat.

    Example:
        >>> check_kind_of_threat(0.1)
        Traceback (most recent call last):
        spikeproof.errors.InputError: Expected a threat, which says how far an image may move: got 0.1.
        Try Linf(8 / 255).
    """
    if isinstance(threat, type) or not hasattr(threat, "epsilon"):
        raise InputError(
            "Expected a threat, which says how far an image may move", repr(threat)[:80], "Try Linf(8 / 255)."
        )


def attack_call(call: Call) -> Call:
    """The call of an attack, `attack(model, x, y, key, through=...)`, that refuses arguments of other kinds.

    Gradients are recorded inside also where the caller is in `torch.inference_mode()`.

    Args:
        call: a method whose parameters are called `model`, `x`, `y` and `key`.

    Example:
        >>> class Nothing:
        ...     @attack_call
        ...     def __call__(self, model, x, y, key, *, through=None):
        ...         return x
        >>> Nothing()(None, None, None)
        Traceback (most recent call last):
        spikeproof.errors.InputError: Nothing is called as attack(model, x, y, key): got a call with missing a
        required argument: 'key'. ...
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def checked(self: object, *args: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(self, *args, **named)
        except TypeError as error:
            raise InputError(
                f"{type(self).__name__} is called as attack(model, x, y, key)",
                f"a call with {error}",
                "Pass images and labels as tensors and a key such as Key.of(0). Where a recipe is expected, "
                "pass the recipe without a threat.",
            ) from error
        given = bound.arguments
        check_tensors(images=given["x"], labels=given["y"])
        check_key(given["key"])
        with torch.inference_mode(False):
            given.update({name: given[name].clone() for name in ("x", "y") if given[name].is_inference()})
            return call(*bound.args, **bound.kwargs)

    return checked  # type: ignore[return-value]


def exported(model: object) -> TypeGuard[torch.fx.GraphModule]:
    """Whether a model is what `torch.export` made, which has no mode but that in which it was exported.

    Example:
        >>> program = torch.export.export(torch.nn.Linear(3, 2).eval(), (torch.rand(4, 3),))
        >>> exported(program.module()), exported(torch.nn.Linear(3, 2))
        (True, False)
    """
    return isinstance(model, torch.fx.GraphModule) and "eval" in vars(model)


def in_training(model: object) -> bool:
    """Whether a model is a module in training mode; an exported one only if it was exported so.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> in_training(net), in_training(net.eval()), in_training(torch.relu)
        (True, False, False)
    """
    if exported(model):
        return bool(acting_as_in_training(model))
    return bool(getattr(model, "training", False))


def acting_as_in_training(model: torch.fx.GraphModule) -> list[str]:
    """Names of the operations of an exported module that act as in training.

    Example:
        >>> net, images = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout()), torch.rand(4, 3)
        >>> acting_as_in_training(torch.export.export(net, (images,)).module())
        ['dropout']
        >>> acting_as_in_training(torch.export.export(net.eval(), (images,)).module())
        []
    """
    found = []
    for node in model.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for argument, value in zip(getattr(schema, "arguments", ()), node.args, strict=False):
            if argument.name in ("train", "training") and value is True:
                found.append(str(node.target).removeprefix("aten.").partition(".")[0])
    return found
