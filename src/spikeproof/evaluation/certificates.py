"""Certificates: lower bounds of the robust accuracy, beside the upper bounds that attacks give.

A certificate proves, example by example, that no member of a threat's set changes the decision. Examples for
which it finds no proof may be robust all the same. Bounds through encoder, neurons and decoder hold for the
model itself. Randomised smoothing certifies another classifier, the vote of many noisy answers, and each
result says which classifier it is about.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from spikeproof.decoders import Count, FirstSpike, MeanCurrent, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, LevelCode, QuantisedDirect, Reversed
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import OverTime, PooledConv2d
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import (
    IF,
    LIF,
    BySubtraction,
    Integrator,
    LinearUnit,
    ReLU,
    Spiking,
    Synapse,
    ToZero,
)
from spikeproof.protocols import (
    Encoder,
    Keep,
    Threat,
    check_key,
    check_kind_of_threat,
    check_range,
    check_tensors,
    kept_under,
    takes_events,
    unkept,
)
from spikeproof.statistics import clopper_pearson
from spikeproof.threats import L1, L2, Linf

__all__ = [
    "IBP",
    "BernoulliSmoothing",
    "Bins",
    "Certificate",
    "Certified",
    "GaussianSmoothing",
    "LinearRelaxation",
]

ROUNDING = 1e-5
"""Relative amount by which bounds are widened, because the model itself computes in single precision."""
BUDGET_ROUNDING = 1e-6
"""Amount by which a threat allows its epsilon to be exceeded, for the rounding of pixel values."""
KNOWN_LAYERS = ("torch.nn.modules.", "spikeproof.")
"""How the names begin of the modules in which layers are defined whose bounds are those of their weights."""

MOST_LEVELS = 1024
"""Largest number of levels of an encoder that are examined one by one."""
ROWS = 32
"""Number of examples that are bounded in one batch."""
VOTES = 50
"""Number of votes that are counted, and may be kept, at a time."""


class Certified(NamedTuple):
    """What was proved about each example."""

    certified: Bool[Tensor, "B"]  # whether the answer is right for every member of the threat's set
    radius: Float[Tensor, "B"]  # largest epsilon proved; NaN where only the given epsilon was tried
    prediction: Int64[Tensor, "B"]  # the answer of the classifier that the certificate is about


class Certificate:
    """A method of proof that no member of a threat's set changes the answer to an example."""

    subject: ClassVar[str] = "model"  # the classifier that the certificate is about

    def reason(self, model: Classifier, threat: Threat) -> str | None:
        """Why the certificate does not apply to this model and threat, or None where it does."""
        raise NotImplementedError(f"{type(self).__name__} certifies nothing")

    def __call__(
        self,
        model: Classifier,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        threat: Threat,
        key: Key,
        *,
        keep: Keep = unkept,
    ) -> Certified:
        """Prove what can be proved about each example.

        Args:
            model: in evaluation mode.
            x: images in [0, 1].
            y: their labels.
            threat: the set of images of which something is proved.
            key: randomness of a certificate that draws.
            keep: keeps the parts of a long proof.

        Raises:
            InputError: the certificate does not apply to this model and threat, the model is in training
                mode, or images are outside [0, 1].
        """
        check_tensors(images=x, labels=y)
        check_key(key)
        check_kind_of_threat(threat)
        if not takes_events(getattr(model, "encoder", None)):
            check_range(x, "A certificate")
        altered = "a forward hook, or a method of another class, may change its answers"
        reason = altered if getattr(model, "altered", False) else self.reason(model, threat)
        if reason is not None:
            raise InputError(
                f"{type(self).__name__} cannot certify this model", reason, "Use another certificate."
            )
        if model.training:
            raise InputError("A certificate needs a model in eval mode", "train mode", "Call model.eval().")
        parts = [
            self.prove(
                model,
                x[i : i + ROWS],
                y[i : i + ROWS],
                threat,
                key.take(torch.arange(len(x))[i : i + ROWS]),
                kept_under(keep, str(i)),
            )
            for i in range(0, len(x), ROWS)
        ]
        empty = Certified(y.new_zeros(0).bool(), x.new_zeros(0), y.new_zeros(0))
        return Certified(*(torch.cat(column) for column in zip(empty, *parts, strict=True)))

    def prove(
        self, model: Classifier, x: Tensor, y: Tensor, threat: Threat, key: Key, keep: Keep = unkept
    ) -> Certified:
        """The proof for a small batch of examples."""
        raise NotImplementedError(f"{type(self).__name__} proves nothing")


def _box(x: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
    """The smallest box around the threat's set: an L2 ball lies within the Linf ball of the same epsilon."""
    wide = threat.epsilon + BUDGET_ROUNDING if threat.epsilon else 0.0
    return (x - wide).clamp(0, 1), (x + wide).clamp(0, 1)


def _no_box(threat: Threat) -> str | None:
    if isinstance(threat, (Linf, L2)):
        return None
    return f"the threat {threat!r} is not a ball in Linf or L2"


@torch.no_grad()
def _answers(model: Classifier, x: Tensor) -> Tensor:
    return decide(model(x))


# --- encoders --------------------------------------------------------------------------------------------


def encoded_box(
    code: Encoder, low: Float[Tensor, "B *F"], high: Float[Tensor, "B *F"]
) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of every network input while each pixel ranges over its interval.

    Raises:
        InputError: no bounds are known for this encoder.

    Example:
        >>> from spikeproof.encoders import Latency
        >>> a, b = encoded_box(Latency(4), torch.tensor([[0.3]]), torch.tensor([[0.7]]))
        >>> a.flatten().tolist(), b.flatten().tolist()
        ([0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0])
    """
    if isinstance(code, Reversed):
        a, b = encoded_box(code.code, low, high)
        return a.flip(0), b.flip(0)
    if isinstance(code, (Direct, QuantisedDirect)):  # both are monotone in the pixel value
        return code(low), code(high)
    if isinstance(code, LevelCode) and code.local and not code.stochastic and code.levels < MOST_LEVELS:
        first, last = code.level(low), code.level(high)
        patterns = code.pattern(torch.arange(code.levels + 1, device=low.device)).to(low.dtype)
        least = torch.full((code.steps, *low.shape), torch.inf, dtype=low.dtype, device=low.device)
        most = -least
        for n, pattern in enumerate(patterns.T):
            reachable = ((first <= n) & (n <= last)).expand_as(least)
            value = pattern.view(-1, *[1] * low.ndim)
            least = torch.where(reachable, torch.minimum(least, value), least)
            most = torch.where(reachable, torch.maximum(most, value), most)
        return least, most
    raise InputError(
        "Bounds are known for direct encoders and encoders of levels",
        repr(code),
        "Use Latency(), for example.",
    )


def _no_code(code: Encoder) -> str | None:
    inner = code.code if isinstance(code, Reversed) else code
    if isinstance(inner, (Direct, QuantisedDirect)):
        return None
    if isinstance(inner, LevelCode) and inner.local and not inner.stochastic and inner.levels < MOST_LEVELS:
        return None
    return f"no bounds are known for the encoder {type(inner).__name__}"


@dataclass(frozen=True)
class Bins(Certificate):
    r"""Exact bins: a perturbation that moves no pixel across a bin edge leaves the encoded input unchanged.

    .. math:: enc(x'') = enc(x) \text{ for all } \|x'' - x\|_\infty \le \epsilon
              \;\Rightarrow\; f(x') = f(x) \text{ for all } \|x' - x\|_\infty \le \epsilon

    Every level between the levels of both ends is examined, because several levels may share one pattern.

    The certificate requires nothing of the network. Under most spike encoders a black pixel lies on the edge
    of a bin, so images with a black background are never certified in this way.

    Source:
        Ours; for encoders that map pixel values monotonically to levels.
    """

    def reason(self, model: Classifier, threat: Threat) -> str | None:
        if isinstance(model.encoder, Direct):
            return "the encoder is continuous and has no bins"
        return _no_box(threat) or _no_code(model.encoder)

    def prove(
        self, model: Classifier, x: Tensor, y: Tensor, threat: Threat, key: Key, keep: Keep = unkept
    ) -> Certified:
        answer = _answers(model, x)
        least, most = encoded_box(model.encoder, *_box(x, threat))
        same = (least == most).transpose(0, 1).flatten(1).all(1)
        return Certified(same & (answer == y), torch.full_like(y, torch.nan, dtype=x.dtype), answer)


# --- bounds through the network --------------------------------------------------------------------------

Apply = Callable[[Tensor], Tensor]


class _Affine(NamedTuple):
    """A linear layer, split by the sign of its weights, with its constant."""

    positive: Apply
    negative: Apply
    constant: Tensor | None  # broadcasts over the batch


def _affine(layer: nn.Module) -> _Affine:
    def same(x: Tensor) -> Tensor:
        return x

    match layer:
        case nn.Flatten():
            return _Affine(lambda x: x.flatten(1), lambda x: torch.zeros_like(x).flatten(1), None)
        case nn.Linear():
            weight = layer.weight.double()
            bias = None if layer.bias is None else layer.bias.double()
            return _Affine(
                lambda x: F.linear(x, weight.clamp(min=0)), lambda x: F.linear(x, weight.clamp(max=0)), bias
            )
        case nn.Conv2d():
            kernel, stride, padding = layer.weight.double(), layer.stride, layer.padding
            if isinstance(layer, PooledConv2d):
                kernel, stride, padding = (
                    F.avg_pool2d(F.pad(kernel, (1, 1, 1, 1)), 2, stride=1),
                    (2, 2),
                    (1, 1),
                )
            offset = None if layer.bias is None else layer.bias.double().view(-1, 1, 1)
            return _Affine(
                lambda x: F.conv2d(x, kernel.clamp(min=0), None, stride, padding),
                lambda x: F.conv2d(x, kernel.clamp(max=0), None, stride, padding),
                offset,
            )
        case nn.BatchNorm2d():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            scale = layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()
            shift = layer.bias.double() - layer.running_mean.double() * scale
            scale = scale.view(-1, 1, 1)
            return _Affine(
                lambda x: x * scale.clamp(min=0), lambda x: x * scale.clamp(max=0), shift.view(-1, 1, 1)
            )
        case nn.AvgPool2d():
            return _Affine(layer, lambda x: torch.zeros_like(layer(x)), None)
    raise InputError("Bounds are known for linear layers", type(layer).__name__, "Use mlp or convnet.")


class _Lines(NamedTuple):
    """Two lines that enclose a function on an interval."""

    low_slope: Tensor
    low: Tensor
    high_slope: Tensor
    high: Tensor


def _between(a: Tensor, fa: Tensor, b: Tensor, fb: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and constant of the line through two points; a flat line where the points coincide."""
    wide = (b - a) > 1e-9
    slope = torch.where(wide, (fb - fa) / torch.where(wide, b - a, torch.ones_like(a)), torch.zeros_like(a))
    return slope, fa - slope * a


def _spike_lines(low: Tensor, high: Tensor, threshold: float) -> _Lines:
    """Lines that enclose the spike function, a step, on [low, high].

    Where the threshold lies inside the interval, each side gets the line that encloses the smaller area: a
    constant, or the line through the end of the interval and the corner of the step.
    """
    theta = torch.full_like(low, threshold)
    zero, one = torch.zeros_like(low), torch.ones_like(low)
    fires, silent = low >= theta, high < theta
    through_high = _between(theta, zero, high, one)
    through_low = _between(low, zero, theta, one)
    upper_part = (high - theta) >= (theta - low)
    low_slope, low_c = (torch.where(upper_part, a, zero) for a in through_high)
    high_slope, high_c = (
        torch.where(upper_part, flat, a) for a, flat in zip(through_low, (zero, one), strict=True)
    )
    decided = fires | silent
    constant = torch.where(fires, one, zero)
    return _Lines(
        torch.where(decided, zero, low_slope),
        torch.where(decided, constant, low_c),
        torch.where(decided, zero, high_slope),
        torch.where(decided, constant, high_c),
    )


def _reset_lines(low: Tensor, high: Tensor, neuron: IF | LIF) -> _Lines:
    """Lines that enclose the potential after the reset as a function of the potential m in [low, high]."""
    zero, one = torch.zeros_like(low), torch.ones_like(low)
    edge = torch.full_like(low, neuron.threshold)
    fires, silent = low >= edge, high < edge
    match neuron.reset:
        case BySubtraction():  # m below the threshold, m - threshold from there on
            fired = (one, -edge)
            below = _between(low, low, edge, zero)
            above = _between(edge, edge, high, high - edge)
        case ToZero():  # m below the threshold, 0 from there on
            fired = (zero, zero)
            below = _between(low, low, torch.where(low > 0, edge, high), zero)
            falling, wider = _between(edge, edge, high, zero), (high - edge) > (edge - low)
            above = (torch.where(wider, falling[0], one), torch.where(wider, falling[1], zero))
        case _:
            raise InputError(
                "Bounds are known for the resets ToZero and BySubtraction",
                repr(neuron.reset),
                "Use ToZero().",
            )
    decided = fires | silent
    slope, constant = (torch.where(fires, now, kept) for now, kept in zip(fired, (one, zero), strict=True))
    return _Lines(
        torch.where(decided, slope, below[0]),
        torch.where(decided, constant, below[1]),
        torch.where(decided, slope, above[0]),
        torch.where(decided, constant, above[1]),
    )


def _relu_lines(low: Tensor, high: Tensor) -> _Lines:
    zero, one = torch.zeros_like(low), torch.ones_like(low)
    on, off = low >= 0, high <= 0
    slope, constant = _between(low, zero, high, high)
    below = torch.where(high >= -low, one, zero)
    return _Lines(
        torch.where(on, one, torch.where(off, zero, below)),
        zero,
        torch.where(on, one, torch.where(off, zero, slope)),
        torch.where(on | off, zero, constant),
    )


class _Box(NamedTuple):
    """The least and the greatest value of every element."""

    low: Tensor
    high: Tensor

    def at(self, t: int) -> _Box:
        return _Box(self.low[t], self.high[t])

    def over_time(self, layer: nn.Module) -> _Box:
        positive, negative, constant = _affine(layer)
        steps = len(self.low)
        a, b = (end.flatten(0, 1) for end in (self.low, self.high))
        ends = [positive(a) + negative(b), positive(b) + negative(a)]
        if constant is not None:
            ends = [end + constant for end in ends]
        return _Box(*(end.view(steps, -1, *end.shape[1:]) for end in ends))

    def plus(self, other: _Box, share: float) -> _Box:
        """The sum of this box and of `share` times another one; the share is at least 0."""
        return _Box(self.low + share * other.low, self.high + share * other.high)

    def times(self, factor: float) -> _Box:
        return _Box(self.low * factor, self.high * factor)

    def bounds(self) -> _Box:
        """The bounds, slightly widened for the rounding errors of the model itself."""
        wide = ROUNDING * (1 + torch.maximum(self.low.abs(), self.high.abs()))
        return _Box(self.low - wide, self.high + wide)

    def through(self, lines: _Lines, exact: _Box) -> _Box:
        """The image under a function that the lines enclose; for a box, its exact range."""
        return exact

    def margins(self, label: Tensor) -> Tensor:
        """Lower bounds of the label's score minus each other score, `[B, K]`; infinite at the label."""
        own = self.low.gather(1, label[:, None])
        return (own - self.high).scatter(1, label[:, None], torch.inf)

    @staticmethod
    def stack(parts: list[_Box]) -> _Box:
        return _Box(*(torch.stack(ends) for ends in zip(*parts, strict=True)))


class _Forms(NamedTuple):
    """Two linear functions of the network's input that enclose each value, together with its box.

    The slopes have the axis of inputs after the axis of examples, `[T, B, D, *F]`.
    """

    low_slope: Tensor
    high_slope: Tensor
    low: Tensor
    high: Tensor
    box: _Box
    centre: Tensor  # of the input, [B, D]
    radius: Tensor

    def _made(self, lines: list[Tensor], box: _Box) -> _Forms:
        a, b, c, d = lines
        return _Forms(a, b, c, d, box, self.centre, self.radius)

    def _lines(self) -> tuple[Tensor, ...]:
        return self[:4]

    def at(self, t: int) -> _Forms:
        return self._made([part[t] for part in self._lines()], self.box.at(t))

    def over_time(self, layer: nn.Module) -> _Forms:
        positive, negative, constant = _affine(layer)

        def mixed(a: Tensor, b: Tensor, lead: int) -> list[Tensor]:
            shape, a, b = a.shape[:lead], a.flatten(0, lead - 1), b.flatten(0, lead - 1)
            both = (positive(a) + negative(b), positive(b) + negative(a))
            return [end.reshape(*shape, *end.shape[1:]) for end in both]

        slopes, ends = mixed(self.low_slope, self.high_slope, 3), mixed(self.low, self.high, 2)
        if constant is not None:
            ends = [end + constant for end in ends]
        return self._made([*slopes, *ends], self.box.over_time(layer))

    def plus(self, other: _Forms, share: float) -> _Forms:
        lines = [a + share * b for a, b in zip(self._lines(), other._lines(), strict=True)]
        return self._made(lines, self.box.plus(other.box, share))

    def times(self, factor: float) -> _Forms:
        return self._made([factor * part for part in self._lines()], self.box.times(factor))

    def extreme(self, slope: Tensor, constant: Tensor, side: int) -> Tensor:
        """The least (-1) or the greatest (+1) value of a linear function over the input's box."""
        at = constant + torch.einsum("bd,bd...->b...", self.centre, slope)
        return at + side * torch.einsum("bd,bd...->b...", self.radius, slope.abs())

    def bounds(self) -> _Box:
        """The tighter bounds of lines and box, for one time step `[B, *F]`, widened for rounding errors."""
        low, high = self.extreme(self.low_slope, self.low, -1), self.extreme(self.high_slope, self.high, 1)
        a, b = _Box(low, high).bounds(), self.box.bounds()
        return _Box(torch.maximum(a.low, b.low), torch.minimum(a.high, b.high))

    def through(self, lines: _Lines, exact: _Box) -> _Forms:
        def inner(slope: Tensor, rising: Tensor, falling: Tensor) -> Tensor:
            return slope.clamp(min=0) * rising + slope.clamp(max=0) * falling

        a, b = lines.low_slope, lines.high_slope
        return self._made(
            [
                inner(a[:, None], self.low_slope, self.high_slope),
                inner(b[:, None], self.high_slope, self.low_slope),
                inner(a, self.low, self.high) + lines.low,
                inner(b, self.high, self.low) + lines.high,
            ],
            exact,
        )

    def margins(self, label: Tensor) -> Tensor:
        own = label[:, None, None].expand(-1, self.low_slope.shape[1], 1)
        slope = self.low_slope.gather(2, own) - self.high_slope
        constant = self.low.gather(1, label[:, None]) - self.high
        forms = self.extreme(slope, constant, -1).scatter(1, label[:, None], torch.inf)
        return torch.maximum(forms, self.box.margins(label))

    @staticmethod
    def stack(parts: list[_Forms]) -> _Forms:
        lines = [torch.stack(same) for same in zip(*(part._lines() for part in parts), strict=True)]
        return parts[0]._made(lines, _Box.stack([part.box for part in parts]))


Bounds = TypeVar("Bounds", _Box, _Forms)


def _fire(current: Bounds, layer: Spiking) -> Bounds:
    """Bounds on the outputs of a layer of neurons, over all time steps; they have the layer's surrogate."""
    steps, neuron = range(len(current.low)), layer.neuron
    if isinstance(neuron, ReLU):
        return current.stack([_relu(current.at(t)) for t in steps])
    assert isinstance(neuron, (IF, LIF))
    spikes: list[Bounds] = []
    carried: Bounds | None = None
    for t in steps:
        v = current.at(t) if carried is None else current.at(t).plus(carried, neuron.decay)
        low, high = v.bounds()
        spike = _Box(layer.measured(low - neuron.threshold), layer.measured(high - neuron.threshold))
        spikes.append(v.through(_spike_lines(low, high, neuron.threshold), spike))
        carried = v.through(_reset_lines(low, high, neuron), _reset_range(low, high, neuron))
    return current.stack(spikes)


def _reset_range(low: Tensor, high: Tensor, neuron: IF | LIF) -> _Box:
    """The least and the greatest potential after the reset, given the bounds before it."""
    theta, kept = neuron.threshold, isinstance(neuron.reset, BySubtraction)
    zero, edge = torch.zeros_like(low), torch.full_like(low, theta)
    fired = _Box(low - theta, high - theta) if kept else _Box(zero, zero)
    undecided = _Box(low.clamp(max=0), torch.maximum(high - theta, edge) if kept else edge)
    fires, silent = low >= theta, high < theta
    ends = zip(fired, (low, high), undecided, strict=True)
    return _Box(*(torch.where(fires, f, torch.where(silent, s, u)) for f, s, u in ends))


def _relu(current: Bounds) -> Bounds:
    low, high = current.bounds()
    return current.through(_relu_lines(low, high), _Box(low.clamp(min=0), high.clamp(min=0)))


def _trace(values: Bounds, decay: float, share: float) -> Bounds:
    """A trace of the values: it decays, and each time step adds a share of the new value."""
    traces = [values.at(0).times(share)]
    for t in range(1, len(values.low)):
        traces.append(values.at(t).times(share).plus(traces[-1], decay))
    return values.stack(traces)


def _outputs(model: Classifier, values: Bounds) -> Bounds:
    """Bounds on the outputs of the network, `[T, B, K]`."""
    for layer in model.network.layers:
        match layer:
            case OverTime():
                for one in layer:
                    values = values.over_time(one)
            case Spiking():
                values = _fire(values, layer)
            case Synapse():
                decay = math.exp(-layer.psp.dt / layer.psp.tau)
                values = _trace(values, decay, 1 - decay)
            case Integrator() if isinstance(layer.neuron, (IF, LIF)):
                values = _trace(values, layer.neuron.decay, 1.0)
    return values


def _margins(model: Classifier, outputs: Bounds, y: Tensor) -> Tensor:
    """Lower bounds of the label's score minus the score of each other class."""
    if isinstance(model.spec.decoder, FirstSpike):
        spikes = outputs if isinstance(outputs, _Box) else outputs.box
        latest, earliest = (torch.cumprod(1 - end, 0).sum(0) for end in spikes)
        return _Box(-latest, -earliest).margins(y)
    total = _trace(outputs, 1.0, 1.0).at(-1)
    return total.margins(y)


def _replaced(layer: nn.Module) -> bool:
    """Whether a layer computes otherwise than those of PyTorch and of spikeproof."""
    return "forward" in vars(layer) or not type(layer).forward.__module__.startswith(KNOWN_LAYERS)


def _no_bounds(model: Classifier) -> str | None:
    if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
        return "a forward hook may change what its layers give"
    if replaced := next(filter(_replaced, model.network.modules()), None):
        return f"a method of its own may change what its layer {type(replaced).__name__} gives"
    for layer in model.network.layers:
        for one in layer if isinstance(layer, OverTime) else ():
            if not isinstance(one, (nn.Flatten, nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d)):
                return f"no bounds are known for the layer {type(one).__name__}"
        if not isinstance(layer, (OverTime, Spiking, Synapse, Integrator)):
            return f"no bounds are known for the layer {type(layer).__name__}"
        if isinstance(layer, (Spiking, Integrator)) and type(layer.neuron) not in (IF, LIF, ReLU, LinearUnit):
            return f"no bounds are known for the neuron {type(layer.neuron).__name__}"
        reset = getattr(getattr(layer, "neuron", None), "reset", ToZero())
        if not isinstance(reset, (ToZero, BySubtraction)):
            return f"no bounds are known for the reset {type(reset).__name__}"
    if type(model.spec.decoder) not in (Count, MeanPotential, MeanCurrent, FirstSpike):
        return f"no bounds are known for the decoder {type(model.spec.decoder).__name__}"
    return None


@dataclass(frozen=True)
class IBP(Certificate):
    r"""Interval bound propagation through encoder, neurons and decoder, one time step after the other.

    .. math:: m_t \in W^+ [s^L, s^U]_t + W^- [s^U, s^L]_t + d\,[r^L, r^U]_{t-1}, \quad
              z_t \in [1[m^L_t \ge \theta],\, 1[m^U_t \ge \theta]]

    with `r` the potential after the reset, whose range is computed exactly over the interval of the potential
    before the reset. The bounds are cheap and loose, so they certify small networks at small budgets.

    Source:
        Gowal et al. 2019 (intervals); Liang et al. 2022, section 4 (S-IBP), whose bound on the membrane
        potential is looser.
    """

    def reason(self, model: Classifier, threat: Threat) -> str | None:
        return _no_box(threat) or _no_code(model.encoder) or _no_bounds(model)

    @torch.no_grad()
    def prove(
        self, model: Classifier, x: Tensor, y: Tensor, threat: Threat, key: Key, keep: Keep = unkept
    ) -> Certified:
        answer = _answers(model, x)
        holds = (self.least(model, x, y, threat) > ROUNDING).all(1)
        return Certified(holds & (answer == y), torch.full_like(y, torch.nan, dtype=x.dtype), answer)

    def least(
        self, model: Classifier, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], threat: Threat
    ) -> Float[Tensor, "B K"]:
        """Lower bounds of the label's score, summed over time, minus the score of each other class.

        They are infinite at the label. Their gradient by the weights passes through spikes by the surrogate.
        """
        return self.margins(model, self.box(model, *_box(x, threat)), y)

    def box(self, model: Classifier, low: Tensor, high: Tensor) -> _Box:
        """The least and the greatest value of every network input, after normalisation."""
        ends = (end.double() for end in encoded_box(model.encoder, low, high))
        return _Box(*(model.spec.normalise(end) if model.spec.normalise else end for end in ends))

    def margins(self, model: Classifier, box: _Box, y: Tensor) -> Tensor:
        """Lower bounds of the label's score minus the score of each other class."""
        return _margins(model, _outputs(model, box), y)


@dataclass(frozen=True)
class LinearRelaxation(IBP):
    r"""Linear bounds on every potential as functions of the input: tighter than `IBP`, for small networks.

    .. math:: \underline A_t s + \underline b_t \le m_t \le \overline A_t s + \overline b_t

    Spike function and reset are functions of the potential before the spike. Each is enclosed between two
    lines over the interval of that potential. Memory grows with inputs times neurons times time steps. Lines
    enclose a ramp tightly and a jump loosely, so the gain over `IBP` is large for a ReLU network and slight
    for a spiking one.

    Args:
        inputs: largest number of inputs over time that the perturbation can change, at least 1; larger
            models are refused, because they would exhaust memory.

    Source:
        Zhang et al. 2018 (CROWN, in forward form); Liang et al. 2022, section 4 (S-CROWN). The lines that
        enclose the potential after the reset, as one function of the potential before it, are ours.
    """

    inputs: int = 1024

    def reason(self, model: Classifier, threat: Threat) -> str | None:
        reason = super().reason(model, threat)
        steps = 1 if _is_constant(model.encoder) else model.encoder.steps
        inputs = math.prod(model.spec.input_shape) * steps
        if reason is None and inputs > self.inputs:
            return f"{inputs} inputs over time are more than the {self.inputs} allowed by the option inputs"
        return reason

    def margins(self, model: Classifier, box: _Box, y: Tensor) -> Tensor:
        steps, batch = box.low.shape[:2]
        # Where the input is the same at every time step, all time steps share its variables.
        distinct = _Box(*(end[:1] for end in box)) if _is_constant(model.encoder) else box
        low, high = (end.transpose(0, 1).flatten(1) for end in distinct)
        unit = torch.eye(low.shape[1], dtype=low.dtype, device=low.device)
        slope = unit.view(-1, *distinct.low.shape[:1], *box.low.shape[2:]).transpose(0, 1)
        slope = slope[:, None].expand(steps, batch, *slope.shape[1:])
        zero = torch.zeros_like(box.low)
        forms = _Forms(slope, slope, zero, zero, box, (high + low) / 2, (high - low) / 2)
        return _margins(model, _outputs(model, forms), y)


def _is_constant(code: Encoder) -> bool:
    return isinstance(code, (Direct, QuantisedDirect))


# --- randomised smoothing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Smoothing(Certificate):
    """Two-stage voting: few votes choose the class, and many more bound its probability from below."""

    choose: int = 20
    draws: int = 500
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if self.choose < 1 or self.draws < 1 or not 0 < self.alpha < 0.5:
            raise InputError(
                "Smoothing needs choose >= 1, draws >= 1 and alpha in (0, 0.5)",
                f"choose={self.choose}, draws={self.draws}, alpha={self.alpha}",
                "Try the defaults.",
            )

    @torch.no_grad()
    def prove(
        self, model: Classifier, x: Tensor, y: Tensor, threat: Threat, key: Key, keep: Keep = unkept
    ) -> Certified:
        chosen = self.votes(model, x, key.fold("choose"), self.choose).argmax(1)
        counts = torch.zeros(len(x), model.spec.classes, dtype=torch.int64, device=x.device)
        for first in range(0, self.draws, VOTES):
            few = functools.partial(
                self.votes, model, x, key.fold("bound"), min(VOTES, self.draws - first), first
            )
            counts += keep(f"votes from {first}", few)
        found = counts.gather(1, chosen[:, None])[:, 0].tolist()
        p = [clopper_pearson(k, self.draws, 1 - 2 * self.alpha).low for k in found]
        radius = x.new_tensor([self.radius(model, each) if each > 0.5 else 0.0 for each in p])
        sure = torch.tensor([each > 0.5 for each in p], device=x.device)
        prediction = torch.where(sure, chosen, -1)
        return Certified((prediction == y) & (radius >= threat.epsilon), radius, prediction)

    def votes(
        self, model: Classifier, x: Tensor, key: Key, draws: int, first: int = 0
    ) -> Int64[Tensor, "B K"]:
        """The number of draws, from the first one on, that answered each class; a tie counts for no class."""
        counts = torch.zeros(len(x), model.spec.classes, dtype=torch.int64, device=x.device)
        for draw in range(first, first + draws):
            now = key.fold("draw", draw)
            answer = decide(model(self.noisy(x, now.fold("noise")), now))
            counts.scatter_add_(1, answer.clamp(min=0)[:, None], (answer >= 0).long()[:, None])
        return counts

    def noisy(self, x: Tensor, key: Key) -> Tensor:
        """The image of one draw."""
        return x

    def radius(self, model: Classifier, probability: float) -> float:
        """The certified radius for a class with at least this probability, which is above 1/2."""
        raise NotImplementedError(f"{type(self).__name__} defines no radius")


@dataclass(frozen=True)
class BernoulliSmoothing(Smoothing):
    r"""Rate coding as randomised smoothing: the majority vote of a model with a Bernoulli encoder, in L1.

    .. math:: \|x' - x\|_1 \le \frac{\underline p - 1/2}{T}

    Each time step draws a spike with probability x. A change `d` of the image therefore changes the joint
    distribution of all spikes by at most :math:`T \|d\|_1` in total variation, whatever the network. The
    published radius lacks the factor 1/T and does not hold for every network: if a network counts the spikes
    of a single pixel over T time steps against a threshold, the slope of its vote is of order sqrt(T).

    Args:
        choose: votes that choose the class, at least 1.
        draws: fresh votes that bound its probability, at least 1.
        alpha: probability that the bound is wrong, in (0, 0.5).
        published: whether to use the radius without 1/T, which is for comparison only and no certificate.

    Source:
        Cohen, Rosenfeld & Kolter 2019, algorithm 1 (two stages; the bound is on the class chosen in the
        first); the radius follows from the total variation of product measures.
    """

    subject: ClassVar[str] = "majority vote"
    published: bool = False

    def reason(self, model: Classifier, threat: Threat) -> str | None:
        if not isinstance(model.encoder, Bernoulli):
            return f"the encoder {type(model.encoder).__name__} draws no Bernoulli spikes"
        return None if isinstance(threat, L1) else f"the radius is in L1, but the threat is {threat!r}"

    def radius(self, model: Classifier, probability: float) -> float:
        return (probability - 0.5) / (1 if self.published else model.encoder.steps)


@dataclass(frozen=True)
class GaussianSmoothing(Smoothing):
    r"""The majority vote of the model under Gaussian noise on the image, in L2.

    .. math:: \|x' - x\|_2 \le \sigma\,\Phi^{-1}(\underline p)

    The noisy image is clipped to [0, 1], which is part of the smoothed classifier. The certificate is about
    the vote, not about the model itself.

    Args:
        choose: votes that choose the class, at least 1.
        draws: fresh votes that bound its probability, at least 1.
        alpha: probability that the bound is wrong, in (0, 0.5).
        sigma: standard deviation of the noise, in units of pixel value, positive.

    Source:
        Cohen, Rosenfeld & Kolter 2019, theorem 1 and algorithm 1.
    """

    subject: ClassVar[str] = "vote under Gaussian noise"
    sigma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma < math.inf:
            raise InputError("GaussianSmoothing needs a positive sigma", f"sigma={self.sigma}", "Try 0.25.")

    def reason(self, model: Classifier, threat: Threat) -> str | None:
        return None if isinstance(threat, L2) else f"the radius is in L2, but the threat is {threat!r}"

    def noisy(self, x: Tensor, key: Key) -> Tensor:
        return (x + self.sigma * key.normal(x.shape, 0, x.device).to(x.dtype)).clamp(0, 1)

    def radius(self, model: Classifier, probability: float) -> float:
        return self.sigma * NormalDist().inv_cdf(probability)
