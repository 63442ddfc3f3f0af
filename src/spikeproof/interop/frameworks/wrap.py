"""`wrap`: a trained network of another framework as a model, or an error that names the missing argument."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.decoders import Count, MeanPotential, Weighted
from spikeproof.encoders import Direct
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.asking.leaks import LeakError
from spikeproof.interop.frameworks.adapters import (
    Adapter,
    Layout,
    at_rest,
    derives,
    modules_inside,
    named_parts,
    opaque,
    refuse_training,
    refuse_unfinished,
    resting,
)
from spikeproof.interop.frameworks.exchange import Asked, unknown_spikes
from spikeproof.interop.frameworks.in_norse import InNorse
from spikeproof.interop.frameworks.in_sinabs import InSinabs
from spikeproof.interop.frameworks.in_snntorch import InSnnTorch
from spikeproof.interop.frameworks.in_spikingjelly import InSpikingJelly
from spikeproof.interop.frameworks.residue import changed, contents
from spikeproof.interop.frameworks.trial import FEW, Trial, alike, draws, layout_of, moved
from spikeproof.interop.frameworks.wrapped import AsItIs, Reading, Sum, TheirEncoder, Wrapped
from spikeproof.interop.rebuild import rebuilt
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.outside import Outside
from spikeproof.protocols import Decoder, Encoder, check_tensors, takes_events
from spikeproof.surrogates import ATan

__all__ = ["FRAMEWORKS", "unwrap", "wrap"]

FRAMEWORKS: tuple[Adapter, ...] = (InSpikingJelly(), InSnnTorch(), InNorse(), InSinabs())
"""The frameworks whose neurons are known."""


LOOKED_AT = 32
"""Examples by which a network is checked."""


LEAST_CLASSES = 2


class ReadOut(Enum):
    """How outputs over time become one score per class, by name."""

    MEAN = "mean"
    SUM = "sum"
    LAST = "last"


class Axes(Enum):
    """Axes of outputs over time: T steps, B examples, K classes."""

    TBK = (0, 1, 2)
    BTK = (1, 0, 2)
    BKT = (2, 0, 1)


def wrap(
    net: Callable[..., object],
    examples: Float[Tensor, "N *F"] | None = None,
    *,
    steps: int | None = None,
    encoder: Encoder | Callable[[Tensor], Tensor] | None = None,
    time: str | None = None,
    readout: str | Decoder | None = None,
    output: int | str | None = None,
    axes: str | None = None,
    classes: int | None = None,
    reset: str | Callable[[], object] | None = None,
    convert: bool = False,
) -> Wrapped | Classifier:
    r"""A trained network of SpikingJelly, snnTorch, Norse, sinabs or plain PyTorch as a model of spikeproof.

    .. math:: y = D(o_{1..T}), \quad o_t, s_t = f(x_t, s_{t-1}), \quad x_{1..T} = E(x)

    with E the encoder, f the network from its resting state :math:`s_0` and D the read-out. What can be found
    is found by trying the network on a few examples: framework, time axis, number of steps, whether it draws
    random numbers, whether its surrogates can be exchanged. What cannot is asked for.

    Every call starts from the state that the framework's own reset gives, in this network alone and however
    deep a neuron is nested, and puts back afterwards what was there. A network that the frameworks' resets do
    not bring to rest is refused, with the name of what it remembers.

    A call without a key takes images outside [0, 1] too, which some attacks of other libraries evaluate on
    their way; `model.outside` counts them. Evaluations of spikeproof refuse such images.

    Args:
        net: a module in evaluation mode, or a function that calls one or several.
        examples: at least three images in [0, 1], or events, as the model will be given them.
        steps: number of time steps `T`, for a network to which the image is shown at every step.
        encoder: what turns images into input over time: one of ours, or a function to `[T, B, *F]`; a
            function to `[B, *F]` is called once for each of `steps`. `Events(T)` for event data.
        time: `inside` (the network takes images), `calls` (one call per step), `first` (`[T, B, *F]`),
            `second` (`[B, T, *F]`) or `flat` (`[B T, *F]`); needed only where several are possible.
        readout: `mean`, `sum` or `last` over time, or a decoder of ours, for a network that returns one
            output per step.
        output: position or name of the tensor that decides, where the network returns several.
        axes: `TBK`, `BTK` or `BKT`, where the shapes of its outputs leave it open.
        classes: number of classes, where it is to be checked.
        reset: for a network with a state of its own, the name of its method that resets it, or a function.
        convert: whether to rebuild the network with our layers, which is possible where neurons of
            SpikingJelly (`IFNode`, `LIFNode`, `ParametricLIFNode`), snnTorch (`Leaky`) or Norse (`IAF`,
            `LIFBoxCell`) and layers of PyTorch follow each other. The examples must then get the same logits
            to the bit.

    Returns:
        A model: stateless, differentiable, in evaluation mode; `substitute` makes twins of it. With
        `convert`, a `Classifier` with its own speed, certificates and gradient rules.

    Shapes:
        images `[B, *F]` -> logits `[B, K]`

    Raises:
        InputError: something that has to be told is not; a part in training mode or compiled; weights or
            answers that are no numbers; mixed step modes; another number of classes, or fewer than two;
            probabilities or decisions in place of logits; an operation in place on the input; answers that
            depend on the other examples of a batch; with `convert`, layers without a twin or other logits.
        LeakError: a network that answers equal calls differently.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
        >>> model = wrap(net, torch.rand(3, 1, 2, 2))
        >>> model(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])

    Source:
        The equations are those of the frameworks: Fang et al. 2023 (SpikingJelly), Eshraghian et al. 2023
        (snnTorch), Pehle & Pedersen 2021 (Norse), and sinabs of SynSense.
    """
    x = _examples(examples, encoder)
    if classes is not None and not isinstance(classes, int):
        raise InputError("A number of classes", f"classes={classes!r}", "Try classes=10.")
    net = _as_written(net)
    nets = modules_inside(net)
    if not callable(net) or not nets:
        raise InputError(
            "A network, or a function that calls one",
            repr(net)[:80],
            "Pass the module; spikeproof.audit takes any other callable as it is.",
        )
    parts = list(named_parts(nets))
    _refuse_compiled(parts)
    refuse_training(parts)
    refuse_unfinished(parts)
    within = [module for _, module in (*parts, *named_parts(modules_inside(encoder)))]
    adapters = [each for each in FRAMEWORKS if any(derives(module, each.package) for module in within)]
    if time is None:
        for adapter in adapters:
            for module in nets:
                adapter.check(module)
    resets = _reset(net, nets, reset)
    few = x[:LOOKED_AT]
    trial = Trial(net, adapters, parts, few, _as_encoder(encoder, steps, few, adapters), output, resets)
    layout = layout_of(trial, time, steps is not None or encoder is not None)
    model = _read(trial, layout, readout, axes, classes)
    if not convert:
        return model
    made = rebuilt(model, x)
    made.outside = Outside()
    return made


def unwrap(model: Wrapped) -> Callable[..., object]:
    """The network inside a wrapped model, or the function that calls it, as `wrap` was given it.

    Nothing was copied, and `wrap` left no hook and no state in it. Of a compiled network it is the network as
    it was written.

    Args:
        model: made by `wrap`.

    Raises:
        InputError: another model, such as one that `convert` rebuilt, which has layers of its own.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
        >>> unwrap(wrap(net, torch.rand(3, 1, 2, 2))) is net
        True
    """
    if not isinstance(model, Wrapped):
        raise InputError(
            "A model that spikeproof.wrap made", type(model).__name__, "Use the network that you wrapped."
        )
    return model.call


def _as_written(net: Callable[..., object]) -> Callable[..., object]:
    """A network before `torch.compile`: it has the same numbers, and its layers can be seen."""
    if not derives(net, "torch", _COMPILED):
        return net
    original: nn.Module = net._orig_mod  # type: ignore[attr-defined]
    return original


_COMPILED = "OptimizedModule"


def _refuse_compiled(parts: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse networks with compiled parts, which keep their first reset and their own gradients.

    Raises:
        InputError: some part is compiled, which is named.
    """
    for name, module in parts:
        if derives(module, "torch", _COMPILED):
            raise InputError(
                "A network as it is written",
                f"{name} compiled by torch.compile",
                "Wrap it before it is compiled.",
            )


def _examples(examples: Tensor | None, encoder: object) -> Tensor:
    if examples is None:
        raise InputError(
            "A few examples that the network is tried with",
            "none",
            "Pass test images: wrap(net, images[:8]).",
        )
    check_tensors(examples=examples)
    if len(examples) < FEW or examples.ndim < 2:
        raise InputError(
            f"At least {FEW} examples [N, ...]",
            f"shape {list(examples.shape)}",
            "Pass wrap(net, images[:8]).",
        )
    low, high = (float(bound) for bound in torch.aminmax(examples))
    if not takes_events(encoder) and not (low >= 0 and high <= 1):
        raise InputError(
            "Images in [0, 1]",
            f"values from {low:.4g} to {high:.4g}",
            "Normalise inside the model: wrap(lambda x: net((x - mean) / std), images). Pass event data with "
            "encoder=Events(steps).",
        )
    distinct = torch.unique(examples[:LOOKED_AT].flatten(1), dim=0)
    if len(distinct) < FEW:
        raise InputError(
            f"At least {FEW} different examples", f"{len(distinct)} different ones", "Pass other images."
        )
    return examples.detach()


def _reset(
    net: object, nets: Sequence[nn.Module], reset: str | Callable[[], object] | None
) -> Callable[[], object] | None:
    if reset is None or callable(reset):
        return reset
    for owner in (net, *nets):
        if callable(method := getattr(owner, reset, None)):
            found: Callable[[], object] = method
            return found
    raise InputError(
        "reset= names a method of the network", repr(reset), "Pass the name of the method, or a function."
    )


def _as_encoder(
    encoder: Encoder | Callable[[Tensor], Tensor] | None,
    steps: int | None,
    x: Tensor,
    adapters: Sequence[Adapter],
) -> Encoder:
    """What turns examples into input over time.

    Raises:
        InputError: a number of steps that contradicts the encoder, or an encoder of other shapes.
    """
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise InputError("A number of time steps", f"steps={steps!r}", "Try steps=8.")
    if encoder is None:
        return AsItIs() if steps is None else Direct(steps)
    if isinstance(encoder, Encoder):
        if steps not in (None, encoder.steps):
            raise InputError(f"{encoder!r} has {encoder.steps} steps", f"steps={steps}", "Leave out steps.")
        return encoder
    keeping = resting(modules_inside(encoder), adapters)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), at_rest(keeping):
        before = torch.random.get_rng_state()
        found = encoder(x)
        draws = not torch.equal(before, torch.random.get_rng_state())
    repeated = found.shape == x.shape and steps is not None
    if not repeated and (found.ndim < 3 or found.shape[1] != len(x)):
        raise InputError(
            "An encoder that gives [T, B, ...], or [B, ...] together with steps=",
            f"shape {list(found.shape)} for {len(x)} examples",
            "Transpose its output, or say how many steps there are.",
        )
    many = steps if repeated and steps is not None else len(found)
    if steps not in (None, many):
        raise InputError(f"The encoder gives {many} steps", f"steps={steps}", "Leave out steps.")
    return TheirEncoder(encoder, many, draws, repeated)


def _read(
    trial: Trial,
    layout: Layout,
    readout: str | Decoder | None,
    axes: str | None,
    classes: int | None,
) -> Wrapped:
    """The model, once its answers are understood and checked."""
    tried, fewer = trial.run(layout), trial.run(layout, FEW - 1)
    _check_answers(tried.found)
    many = trial.encoder.steps if layout is not Layout.INSIDE else tried.steps
    order = _axes(tried.found, fewer.found, layout, many, axes)
    outputs = tried.found[None] if order is None else tried.found.permute(order)
    random = draws(trial, layout)
    decoder = _decoder(readout, outputs, order is not None)
    found = decoder(outputs).shape[1]
    if found < LEAST_CLASSES:
        raise InputError(
            f"A network of at least {LEAST_CLASSES} classes",
            f"{found} scores from outputs of shape {list(tried.found.shape)}",
            "Return a score for each class; of one score s, return [-s, s].",
        )
    if classes not in (None, found):
        raise InputError(
            f"A network of {classes} classes",
            f"{found} scores from outputs of shape {list(tried.found.shape)}",
            "Pass the right number, or wrap a function that leaves out or groups outputs.",
        )
    encoder = AsItIs(random) if layout is Layout.INSIDE else trial.encoder
    reading = Reading(
        layout=layout,
        encoder=encoder,
        decoder=decoder,
        axes=order,
        output=trial.output,
        passes=tried.passes,
        classes=found,
        shape=tuple(trial.x.shape[1:]),
        draws=random,
        counts=bool((outputs == outputs.round()).all()),
        reset=trial.reset,
    )
    model = Wrapped(trial.call, trial.adapters, reading)
    _check_probabilities(outputs, order is not None)
    _check_memory(model, trial)
    _check_batch_independence(model, trial)
    return _with_surrogates(model, trial)


def _check_answers(found: Tensor) -> None:
    if not found.is_floating_point():
        raise InputError(
            "A network that answers with scores", f"{found.dtype} of shape {list(found.shape)}",
            "Return the scores, not the decision made from them.",
        )  # fmt: skip
    if not bool(torch.isfinite(found).all()):
        raise InputError(
            "A network that answers with finite numbers",
            f"{int((~torch.isfinite(found)).sum())} of {found.numel()} are none",
            "Load another checkpoint; if training diverged, lower the learning rate.",
        )
    if found.ndim not in (2, 3):
        raise InputError(
            "Outputs [B, K], or [T, B, K] over time",
            f"shape {list(found.shape)}",
            "Wrap a function that flattens what the network returns.",
        )


def _axes(
    found: Tensor, fewer: Tensor, layout: Layout, steps: int | None, axes: str | None
) -> tuple[int, int, int] | None:
    """The order in which a network's outputs have time, examples and classes; None without time.

    Raises:
        InputError: the shapes do not tell.
    """
    axis = moved(found, fewer)
    if len(axis) != 1:
        raise InputError(
            "Outputs of which one axis counts the examples",
            f"shapes {list(found.shape)} and {list(fewer.shape)} for {FEW} and {FEW - 1}",
            "Wrap a function that returns [B, K] or [T, B, K].",
        )
    if found.ndim == 2:
        if axis[0] != 0:
            raise InputError("Outputs [B, K]", f"{list(found.shape)} for {FEW} examples", "Transpose them.")
        return None
    fitting = [order for order in Axes if order.value[1] == axis[0]]
    if axes is not None:
        if axes not in Axes.__members__:
            raise InputError("An order of axes", repr(axes), suggest(axes, list(Axes.__members__)))
        fitting = [order for order in fitting if order is Axes[axes]]
    else:
        fitting = [order for order in fitting if steps in (None, found.shape[order.value[0]])]
    if layout is Layout.FLAT:
        fitting = [order for order in fitting if order is Axes.BTK]
    if len(fitting) != 1:
        names = " and ".join(order.name for order in fitting) or "none"
        raise InputError(
            f"Outputs whose axes can be told apart, with {steps or 'unknown'} steps",
            f"shape {list(found.shape)} for {FEW} examples, which fits {names}",
            "Say axes='TBK', 'BTK' or 'BKT', or wrap a function that returns [T, B, K].",
        )
    return fitting[0].value


def _decoder(readout: str | Decoder | None, outputs: Tensor, over_time: bool) -> Decoder:
    """What reads the outputs.

    Raises:
        InputError: outputs over time that nobody said how to read, or a read-out of logits.
    """
    names = [each.value for each in ReadOut]
    if not over_time:
        if readout is not None:
            raise InputError(
                "A read-out belongs to outputs over time",
                f"readout={readout!r} for a network that answers [B, K]",
                "Leave out readout: the network reads its outputs itself.",
            )
        return MeanPotential()
    if readout is None:
        raise InputError(
            "How outputs over time are read",
            f"outputs [T, B, K] of shape {list(outputs.shape)} and no readout=",
            "Pass readout='mean', 'sum' or 'last', as the network was trained, or a decoder such as Count().",
        )
    if not isinstance(readout, str):
        if (check := getattr(readout, "check", None)) is not None:
            check(len(outputs))
        return readout
    if readout not in names:
        raise InputError("A read-out", repr(readout), suggest(readout, names))
    whole = bool(((outputs == 0) | (outputs == 1)).all())
    table: dict[ReadOut, Decoder] = {
        ReadOut.MEAN: MeanPotential(),
        ReadOut.SUM: Count() if whole else Sum(),
        ReadOut.LAST: Weighted((*[0.0] * (len(outputs) - 1), 1.0), spikes=False),
    }
    return table[ReadOut(readout)]


def _check_probabilities(outputs: Tensor, over_time: bool) -> None:
    """Refuse probabilities: a saturated softmax has vanishing gradients, and decisions have none.

    Spikes of which each step has exactly one are none.
    """
    spikes = over_time and bool(((outputs == 0) | (outputs == 1)).all())
    if not spikes and bool((outputs >= 0).all()) and bool(((outputs.sum(-1) - 1).abs() < 1e-4).all()):
        raise InputError(
            "Logits",
            "probabilities: numbers of at least 0 whose sum is 1",
            "Wrap the network without its softmax, or a function that returns the logarithm.",
        )


@torch.no_grad()
def _check_memory(model: Wrapped, trial: Trial) -> None:
    """Refuse a network that gives different answers in two equal calls.

    Raises:
        LeakError: it does; the message names the module and the attribute that changed.
    """
    n = len(trial.x)
    key = Key.of(0).for_rows(range(n))
    parts = [(name, module) for name, module in trial.parts if all(module is not m for _, m in model.resting)]
    before = contents(parts, trial.call)
    first = model(trial.x, key)
    between = contents(parts, trial.call)
    model(trial.x.flip(0).roll(1, -1), key)
    model(trial.x[:1], key.take(torch.arange(1)))
    second = model(trial.x, key)
    after = contents(parts, trial.call)
    if alike(first, second):
        return
    names = changed(between, after) or changed(before, after)
    what = ", ".join(names[:3]) if names else "something outside of its modules"
    raise LeakError(
        "A network that the reset of its framework brings to rest",
        f"other answers to the same images; what changed is {what}",
        "Reset it at the beginning of every call, or pass reset= with the method that does. Random numbers "
        "have to be PyTorch's.",
    )


@torch.no_grad()
def _check_batch_independence(model: Wrapped, trial: Trial) -> None:
    """Refuse a network whose answer to an image depends on the other images.

    Spikes hide small differences, so what the first layers get and give is compared as well.
    """
    key = Key.of(0).for_rows(range(len(trial.x)))
    pairs = zip(_first_values(model, trial.x[:FEW]), _first_values(model, trial.x[:1]), strict=False)
    where = next((name for (name, few), (_, one) in pairs if not _begins_with(few, one)), None)
    together = model(trial.x, key)
    alone = torch.cat([model(trial.x[i : i + 1], key.take(torch.tensor([i]))) for i in range(FEW)])
    if where is None and alike(together[:FEW], alone):
        return
    other = "logits" if where is None else f"values at {where}"
    raise InputError(
        "A network that answers an image as it does without the others of a batch",
        f"other {other} for {FEW} images one by one than for several at once",
        "If it takes time on the first axis, pass steps= or encoder=; statistics of a batch belong to "
        "training.",
    )


def _first_values(model: Wrapped, x: Tensor) -> list[tuple[str, Tensor]]:
    """What the encoder gives, and what layers get and give up to the first neurons, with names.

    Of a network without known neurons it is only the first layer, and of one that draws random numbers by
    itself, which is asked image by image, nothing but the encoder.
    """
    key = Key.of(0).for_rows(range(len(x)))
    encoded = model.encode(x, key)
    found = [("the encoder", encoded.transpose(0, 1))]
    spots = {id(spot.module) for spot in model.spots()}
    fired = list[str]()

    def note(module: nn.Module, given: tuple[object, ...], answer: object, *, name: str) -> None:
        if not fired:
            values = (*given[:1], answer)
            found.extend((name, value) for value in values if isinstance(value, Tensor))
        if id(module) in spots or not spots:
            fired.append(name)

    if model.reading.draws:
        return found
    with ExitStack() as stack:
        for name, module in model.parts:
            if opaque(module):
                continue
            if id(module) in spots or not any(True for _ in module.children()):
                stack.callback(module.register_forward_hook(partial(note, name=name)).remove)
        model.respond(encoded, key)
    return found


def _begins_with(few: Tensor, one: Tensor) -> bool:
    """Whether the values of one example are the first among those of several, wherever examples are."""
    axes = moved(few, one)
    if len(axes) != 1 or few.shape[axes[0]] != FEW * one.shape[axes[0]]:
        return True
    (axis,), many = axes, one.shape[axes[0]]
    steps_inside = torch.arange(many, device=few.device)  # examples first, or steps first
    return any(alike(few.index_select(axis, rows), one) for rows in (steps_inside, FEW * steps_inside))


def _with_surrogates(model: Wrapped, trial: Trial) -> Wrapped:
    """The model, which knows whether its surrogates can be exchanged.

    They can if its neurons have the same spikes with another derivative, and nothing else in it has a
    backward pass of its own.
    """
    if not model.spots():
        strange = _strange(model, trial)
        if strange:
            _warn(strange)
        return model
    twin = Wrapped(model.call, model.adapters, model.reading, Asked(ATan()), model.lineage)
    key = Key.of(0).for_rows(range(len(trial.x)))
    try:
        with torch.no_grad():
            same = torch.equal(model(trial.x, key), twin(trial.x, key))
        strange = _strange(twin, trial)
    except Exception:  # a framework may refuse spike functions that are not its own
        same, strange = False, sorted({type(spot.module).__name__ for spot in model.spots()})
    if same and not strange:
        return Wrapped(
            model.call, model.adapters, replace(model.reading, spiking=True), lineage=model.lineage
        )
    _warn(strange or ["a neuron that fires otherwise with another derivative"])
    return model


def _strange(model: Wrapped, trial: Trial) -> list[str]:
    encoded = trial.encoded(FEW).requires_grad_()
    with torch.enable_grad():
        return unknown_spikes(model.respond(encoded, Key.of(0).for_rows(range(FEW))))


def _warn(names: Sequence[str]) -> None:
    warnings.warn(
        f"spikeproof.wrap: the surrogates of {', '.join(names)} cannot be exchanged. Attacks use the "
        "network's own gradients, and those that need no substitute: a stand-in, other objectives, searches.",
        stacklevel=4,
    )
